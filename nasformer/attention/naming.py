"""What measurements of attention kinds are kept under: names that say which settings are not the usual ones."""

import dataclasses

from nasformer.attention import TABLE
from nasformer.attention.base import Kind


def label(kind: Kind) -> str:
  """The row of the table that a kind is, or its path, and its settings that are not the defaults: "luna(memory_length=8)".

  How long inputs may be (`max_length`) is left out, as no time depends on it.
  """
  path = f"{type(kind).__module__}:{type(kind).__qualname__}"
  name = next((row for row, where in TABLE.items() if where == path), path)
  own = [f"{field.name}={value}" for field in dataclasses.fields(kind)
         if (value := getattr(kind, field.name)) != field.default and field.name != "max_length"]
  return f"{name}({' '.join(own)})" if own else name
