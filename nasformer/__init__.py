"""nasformer: finds efficient Transformers by searching one elastic supernet.

`nasformer.load(workdir)` gives a finished search's winner as (apply, params, spec), without any search code.
"""

__version__ = "0.1.0"


def load(workdir, arm: str | None = None, seed: int | None = None):
  """Loads a trained winner from a work directory; see `nasformer.deploy.load`."""
  from nasformer import deploy  # imported on use: `import nasformer` alone costs nothing

  return deploy.load(workdir, arm=arm, seed=seed)
