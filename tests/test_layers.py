"""Imports point down, and parts of one layer do not know each other."""

import ast
import graphlib
import pathlib

import nasformer

LAYERS = [
    {"types"},
    {"registry"},
    {"ops"},
    {"attention", "data", "space"},
    {"nets", "predict"},
    {"tasks", "supernet"},
    {"train", "score", "search", "derive", "evaluate"},
    {"store", "report"},
    {"config", "progress", "compilations", "processes"},
    {"experiment"},
    {"workdir", "deploy"},
    {"fitting", "translating", "asking"},
    {"scoring", "timing", "footprint"},
    {"trusting"},
    {"stages"},
    {"main"},
]
CEILING = {"search": {"nets", "predict"}, "store": {"types"}, "report": {"ops"}}  # may import up to there
UNKNOWN = {"search": {"nets", "attention", "data"}, "predict": {"attention", "data"}}  # below, and still not to be imported
ROOT = pathlib.Path(nasformer.__file__).parent


def layer(part):
  (found,) = [i for i, parts in enumerate(LAYERS) if part in parts] or [None]
  assert found is not None, f"give {part} a layer"
  return found


def imports(path):
  """Dotted names below nasformer that a file imports, at the top or inside a function."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}: relative import"
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    yield from (name.removeprefix("nasformer.") for name in names if name.startswith("nasformer."))


def modules():
  """(part, module, imported names) of every file but the package's own __init__, which loads on use."""
  for path in sorted(ROOT.rglob("*.py")):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts != ("__init__",):
      yield parts[0], ".".join(parts).removesuffix(".__init__"), list(imports(path))


def test_imports_point_down():
  for part, module, names in modules():
    below = CEILING[part] if part in CEILING else set()
    top = max(map(layer, below)) + 1 if below else layer(part)
    for other in {name.partition(".")[0] for name in names} - {part}:
      assert layer(other) < top, f"{module} imports {other}"
      assert other not in (UNKNOWN[part] if part in UNKNOWN else ()), f"{module} imports {other}"


def test_no_cycles():
  known = {module: names for _, module, names in modules()}
  files = {module: {name if name in known else name.rpartition(".")[0] for name in names}
           for module, names in known.items()}
  graphlib.TopologicalSorter(files).prepare()
