"""What was found out about networks one by one, at a price, and is not to be found out again."""

import dataclasses
import functools
import pathlib
from typing import Callable, Sequence

import numpy as np
from jaxtyping import Int

from nasformer.store.writers import JsonlWriter

Genes = Int[np.ndarray, "G"]


@dataclasses.dataclass(frozen=True)
class Known:
  """A number for each network, remembered in a file: asked again, it is the same.

  Attributes:
    measure: genome -> number.
    column: what the number is called in the file.
    path: the file, one line per network; None remembers as long as the process lives.
  """

  measure: Callable[[Genes], float]
  column: str
  path: pathlib.Path | None = None

  @functools.cached_property
  def _known(self) -> dict[tuple[int, ...], float]:
    rows = JsonlWriter(self.path).read() if self.path else []
    return {tuple(row["genes"]): float("nan") if row[self.column] is None else row[self.column] for row in rows}

  def __call__(self, genes: Genes | Sequence[int]) -> float:
    """The number of a network, measured if it has to be."""
    name = tuple(np.asarray(genes).tolist())
    if name not in self._known:
      self._known[name] = self.measure(np.array(name, np.int32))
      if self.path:
        JsonlWriter(self.path).write({"genes": list(name), self.column: self._known[name]})
    return self._known[name]
