"""nasformer: finds efficient Transformers by searching one elastic supernet.

`nasformer.load(workdir)` gives a finished search's winner as (apply, params, spec), without any search code.
`nasformer.Search(...)` is a search that you drive with a score of your own; see `nasformer.asking`.
"""

__version__ = "0.1.0"


def load(workdir, arm: str | None = None, seed: int | None = None):
  """Loads a trained winner from a work directory; see `nasformer.deploy.load`."""
  from nasformer import deploy  # imported on use: `import nasformer` alone costs nothing

  return deploy.load(workdir, arm=arm, seed=seed)


def __getattr__(name):
  if name == "Search":
    from nasformer.asking import Search

    return Search
  raise AttributeError(f"module 'nasformer' has no attribute {name!r}")
