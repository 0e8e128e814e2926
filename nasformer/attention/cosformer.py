"""cosFormer (Qin et al. 2022, "cosFormer: Rethinking Softmax in Attention", arXiv 2202.08791; official code).

The similarity ReLU(q_i) · ReLU(k_j) cos(π (i - j) / 2M) splits into features [ReLU(x) sin θ ; ReLU(x) cos θ] with
θ = π i / 2M, so the cost is linear. M decides what an output depends on. It is the longer of the two *real* lengths of
an example, so that neither padding nor batch mates change a row; a layer that serves decoding (causal, or cross-attention of
a decoder) cannot know the final length and uses a constant, `max_length`.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from nasformer.attention.base import Count
from nasformer.attention.kernel import KernelCore
from nasformer.ops import masks
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class CosFormer(KernelCore):
  """cosFormer: ReLU features re-weighted by cos of the distance; linear in the length.

  Attributes:
    causal: an encoder's self-attention sees earlier positions only, as in the released CIFAR-10 encoder.
    max_length: M of causal layers and of a decoder's cross-attention; longer inputs are refused.
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

  def longest(self, module):
    return self.max_length if module != "encoder" or self.causal else None

  def past_only(self, context):
    return context.causal or (self.causal and not context.stream)

  def lengths(self, context, queries, keys):
    fixed = self.past_only(context)
    if fixed or context.stream:
      self._check(max(queries, keys // context.copies))
    if fixed:
      return self.max_length, self.max_length
    first = None if context.key_mask is None else context.key_mask[:, : keys // context.copies]
    length_k = _length(first, keys // context.copies)
    length_q = self.max_length if context.stream else _length(context.query_mask, queries)
    if self.angle == "own_length":
      return length_q, length_k
    longer = self.max_length if context.stream else jnp.maximum(length_q, length_k)
    return longer, longer

  def start(self, batch, max_length, num_heads, head_dim, value_dim, dtype):
    self._check(max_length)
    return super().start(batch, max_length, num_heads, head_dim, value_dim, dtype)

  def _check(self, positions):
    if positions > self.max_length:
      raise UserError(f"cosformer.max_length={self.max_length} is shorter than the input of {positions} positions: raise it"
                      f" to {positions}")

  def phi(self, params, x, positions, length):
    """[ReLU(x) sin θ ; ReLU(x) cos θ], positions counted from 1; padding beyond the length stays at its angle."""
    positions = (1 + positions).astype(masks.accumulator(x))
    theta = (math.pi / 2 * jnp.minimum(positions / length, 1.0))[..., None, None]
    positive = jax.nn.relu(x.astype(positions.dtype))
    return jnp.concatenate([positive * jnp.sin(theta), positive * jnp.cos(theta)], axis=-1)

  def num_features(self, head_dim):
    return 2 * head_dim

  def divisor(self, total):
    return jnp.maximum(total, self.epsilon)

  def core_count(self, sizes, queries, keys, causal):
    features = Count(0, 0, 2 * sizes.num_heads * (queries + keys) * sizes.head_dim)
    return features + super().core_count(sizes, queries, keys, causal or self.causal)


def _length(mask, size):
  """Number of real positions, [B, 1] or a constant."""
  return size if mask is None else jnp.maximum(mask.sum(1, keepdims=True), 1)
