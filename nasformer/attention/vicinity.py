"""Vicinity attention (Sun et al. 2022, "Vicinity Vision Transformer", arXiv 2206.10552; official code).

cosFormer on a grid: with α = π/2 · row / rows and β = π/2 · column / columns, the similarity ReLU(q_i) · ReLU(k_j) is
weighted by cos(α_i - α_j) + cos(β_i - β_j), as in all released models, or by the product of the two. Both fall with the
distance along rows and columns and split into features of four times the width, so the cost is linear in the number of
patches.

The released code keeps magnitudes of what it computes, from the sums over keys to the block's output, between 1e-4 and 1e4:
small values are moved up, so it is not linear in them. `reference_clamps` reproduces that.

A token in front of the grid, such as a class token, has no place: between it and all others the weight is that of distance
zero.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from nasformer.attention.base import Can, Count
from nasformer.attention.kernel import KernelCore, Rows, divide, first_count, full_sums, with_first
from nasformer.ops import masks
from nasformer.types import UserError

CLAMPS = 1e-4, 1e4  # of magnitudes in the released code


@dataclasses.dataclass(frozen=True)
class Vicinity(KernelCore):
  """Vicinity attention: ReLU features re-weighted by the distance on a grid of patches; linear in their number.

  Attributes:
    form: "sum" or "product" of the weights by row and by column.
    epsilon: added to the sum of weights.
    reference_clamps: keep magnitudes between 1e-4 and 1e4, as the released code does; zero stays zero.
  """

  can = Can(causal=False, cross=False, grid=True)
  form: Literal["sum", "product"] = "sum"
  epsilon: float = 1e-4
  reference_clamps: bool = False

  def __post_init__(self):
    if self.form not in ("sum", "product"):
      raise UserError(f"vicinity.form={self.form!r}: it must be 'sum' or 'product'")

  def num_features(self, head_dim):
    return 4 * head_dim

  def phi(self, params, x, positions, length):
    """ReLU(x) times the cosine and the sine of both angles, or times the products of either with either."""
    rows, columns = length
    x = jax.nn.relu(x.astype(masks.accumulator(x)))[..., None, :]
    row, column = ((jnp.pi / 2 * part / side).astype(x.dtype) for part, side in
                   ((positions // columns, rows), (positions % columns, columns)))
    row, column = (jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1) for angle in (row, column))
    if self.form == "sum":
      factors = jnp.concatenate([row, column], axis=-1)
    else:
      factors = (row[..., :, None] * column[..., None, :]).reshape(*row.shape[:-1], 4)
    return (x * factors[..., None, :, None]).reshape(*x.shape[:-2], -1)

  def divisor(self, total):
    return total + self.epsilon

  def attend(self, params, q, k, v, context):
    size = math.prod(context.grid)
    first, mask = q.shape[1] - size, context.key_mask
    rows = [Rows(x[:, first:], jnp.arange(size), lambda x, at: self.phi(params, x, at, context.grid)) for x in (q, k)]
    settle = lambda sums: jnp.concatenate([self._clamp(sums[..., :-1]), sums[..., -1:]], axis=-1)
    sums = full_sums(*rows, v[:, first:], None if mask is None else mask[:, first:], settle=settle)
    if first:
      near = 2 if self.form == "sum" else 1
      q, k = (jax.nn.relu(x.astype(sums[0].dtype)) for x in (q, k))
      sums = with_first(sums, q, k * near if mask is None else k * near * mask[..., None, None], v)
    if not self.reference_clamps:
      return divide(sums[0], self.divisor(sums[1])).astype(v.dtype)
    scale = self._clamp(1 / self.divisor(sums[1]))[..., None]
    return self._clamp(self._clamp(sums[0]) * scale).astype(v.dtype)

  def _join(self, params, out, keep_heads=None):
    return self._clamp(super()._join(params, out, keep_heads))

  def _clamp(self, x):
    return jnp.sign(x) * jnp.clip(jnp.abs(x), *CLAMPS) if self.reference_clamps else x

  def core_count(self, sizes, queries, keys, causal):
    patches = math.prod(sizes.grid)
    count = super().core_count(sizes, patches, patches, False)
    features = Count(0, 0, sizes.num_heads * 8 * patches * sizes.head_dim)
    beside = first_count(keys, sizes.head_dim, sizes.head_dim) if keys > patches else 0
    return count + features + Count(0, sizes.num_heads * beside)
