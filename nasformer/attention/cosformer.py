"""cosFormer (Qin et al. 2022, "cosFormer: Rethinking Softmax in Attention", arXiv 2202.08791; official code).

The similarity ReLU(q_i) · ReLU(k_j) cos(π (i - j) / 2M) splits into features [ReLU(x) sin θ ; ReLU(x) cos θ] with
θ = π i / 2M, so the cost is linear. M decides what an output depends on. It is the longer of the two *real* lengths of
an example, so that neither padding nor batch mates change a row; a causal layer cannot know the final length and uses a
constant, `max_length`.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from nasformer.attention.base import Core, Count
from nasformer.attention.kernel import kernel_attention, kernel_count
from nasformer.ops import masks
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class CosFormer(Core):
  """cosFormer: ReLU features re-weighted by cos of the distance; linear in the length.

  Attributes:
    causal: see earlier positions only, even where the network is bidirectional. The released CIFAR-10 encoder does so.
    max_length: M of causal layers; longer inputs are refused.
    angle: "shared" measures positions of both sides by the longer one; "own_length" by their own, which aligns relative
      positions in cross attention.
    epsilon: smallest divisor.
  """

  causal: bool = False
  max_length: int = 4096
  angle: Literal["shared", "own_length"] = "shared"
  epsilon: float = 1e-6

  def __post_init__(self):
    if self.angle not in ("shared", "own_length"):
      raise UserError(f"cosformer.angle={self.angle!r}: it must be 'shared' or 'own_length'")

  def attend(self, params, q, k, v, context):
    causal = context.causal or self.causal
    queries, keys = q.shape[1], k.shape[1]
    if causal and keys > self.max_length:
      raise UserError(f"cosformer.max_length={self.max_length} is shorter than the input of {keys} positions")
    length_q, length_k = _length(context.query_mask, queries), _length(context.key_mask, keys)
    if causal:
      length_q = length_k = self.max_length
    elif self.angle == "shared":
      length_q = length_k = jnp.maximum(length_q, length_k)
    start = keys - queries if causal else 0
    phi_q, phi_k = _features(q, start, length_q), _features(k, 0, length_k)
    return kernel_attention(phi_q, phi_k, v, context.key_mask, causal, lambda total: jnp.maximum(total, self.epsilon))

  def core_count(self, sizes, queries, keys, causal):
    features = Count(0, 0, 2 * sizes.num_heads * (queries + keys) * sizes.head_dim)
    return features + kernel_count(sizes.num_heads, queries, keys, 2 * sizes.head_dim, sizes.head_dim,
                                   causal or self.causal)


def _length(mask, size):
  """Number of real positions, [B, 1] or a constant."""
  return size if mask is None else jnp.maximum(mask.sum(1, keepdims=True), 1)


def _features(x, start, length):
  """[ReLU(x) sin θ ; ReLU(x) cos θ], positions counted from 1; padding beyond the length stays at its angle."""
  positions = jnp.arange(1 + start, 1 + start + x.shape[1], dtype=masks.accumulator(x))
  theta = (math.pi / 2 * jnp.minimum(positions / length, 1.0))[..., None, None]
  positive = jax.nn.relu(x.astype(positions.dtype))
  return jnp.concatenate([positive * jnp.sin(theta), positive * jnp.cos(theta)], axis=-1)
