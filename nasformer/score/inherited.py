"""Quality of an architecture with the weights it inherits from the supernet, on examples held out of training."""

import dataclasses
from typing import ClassVar, Mapping

import numpy as np
from jaxtyping import Float

Sums = Mapping[str, Float[np.ndarray, "P"]]


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """Share of validation examples classified rightly with inherited weights."""

  unit: ClassVar[str] = "fraction"

  def value(self, means: Sums) -> Float[np.ndarray, "P"]:
    """What search maximises, from the means of the task's metrics over the split."""
    return means["accuracy"]


@dataclasses.dataclass(frozen=True)
class Loss:
  """Negative validation loss (nats) with inherited weights: finer than accuracy on small splits."""

  unit: ClassVar[str] = "nats"

  def value(self, means: Sums) -> Float[np.ndarray, "P"]:
    """What search maximises, from the means of the task's metrics over the split."""
    return -means["loss"]
