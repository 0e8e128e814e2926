"""Quality of translations made with the weights inherited from the supernet: closer to what is wanted than the loss, and far
dearer, because every candidate is cut out, compiled and decodes word by word."""

import dataclasses
from typing import ClassVar, Mapping

import numpy as np
from jaxtyping import Float

from nasformer.types import UserError

Sums = Mapping[str, Float[np.ndarray, "P"]]


@dataclasses.dataclass(frozen=True)
class Bleu:
  """BLEU of validation sentences translated with inherited weights; takes seconds for each candidate.

  Attributes:
    sentences: how many are translated.
  """

  unit: ClassVar[str] = "BLEU"
  sentences: int = 200

  def __post_init__(self):
    if self.sentences < 1:
      raise UserError(f"search.score.sentences={self.sentences}: it must be at least 1")

  def value(self, means: Sums) -> Float[np.ndarray, "P"]:
    """What search maximises."""
    return means["bleu"]
