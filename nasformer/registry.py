"""Components by name. A table is a literal dict of strings, `{"name": "module:Class"}`, in its package's `__init__`."""

import difflib
import importlib
from typing import Mapping

from nasformer.types import UserError


def lookup(table: Mapping[str, str], name: str, what: str = "component"):
  """Imports and returns what `name` stands for.

  Args:
    table: a package's TABLE.
    name: a row of the table, or "module:Class" for a component of your own on the Python path.
    what: the noun used in the error, such as "attention kind".

  Raises:
    UserError: no such row (the nearest names are shown) or no such module or class.
  """
  path = table.get(name)
  if path is None and ":" not in name:
    near = difflib.get_close_matches(name, table, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "there are:"
    raise UserError(f"unknown {what} {name!r}: {hint} (all: {', '.join(sorted(table))})")
  module, _, attribute = (path or name).partition(":")
  try:
    return getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as error:
    raise UserError(f"{what} {name!r} could not be imported: {error}") from error
