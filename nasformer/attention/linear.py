"""Linear attention with φ(x) = elu(x) + 1 (Katharopoulos et al. 2020, "Transformers are RNNs", eq. 7)."""

import dataclasses

import jax

from nasformer.attention.base import Core
from nasformer.attention.kernel import kernel_attention, kernel_count
from nasformer.ops import masks


@dataclasses.dataclass(frozen=True)
class Linear(Core):
  """Linear attention, φ = elu + 1: linear in the length.

  Attributes:
    epsilon: added to the sum of weights.
  """

  epsilon: float = 1e-6

  def attend(self, params, q, k, v, context):
    phi = lambda x: jax.nn.elu(x.astype(masks.accumulator(x))) + 1
    return kernel_attention(phi(q), phi(k), v, context.key_mask, context.causal, lambda total: total + self.epsilon)

  def core_count(self, sizes, queries, keys, causal):
    return kernel_count(sizes.num_heads, queries, keys, sizes.head_dim, sizes.head_dim, causal)
