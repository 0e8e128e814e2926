"""Linear attention with φ(x) = elu(x) + 1 (Katharopoulos et al. 2020, "Transformers are RNNs", eq. 7)."""

import dataclasses

import jax

from nasformer.attention.kernel import KernelCore
from nasformer.ops import masks


@dataclasses.dataclass(frozen=True)
class Linear(KernelCore):
  """Linear attention, φ = elu + 1: linear in the length.

  Attributes:
    epsilon: added to the sum of weights.
  """

  epsilon: float = 1e-6

  def phi(self, params, x, positions, length):
    return jax.nn.elu(x.astype(masks.accumulator(x))) + 1

  def divisor(self, total):
    return total + self.epsilon
