"""Couplformer: attention whose map is the product of a map of rows and one of columns (Lan et al. 2021, arXiv 2112.05425).

On a grid, every row of patches meets every other as one long vector, and so does every column; their two softmax maps, of
which the map of all patches is the Kronecker product, are applied one after the other. So neither time nor memory is
quadratic in the number of patches. As in the released code logits are divided by the fourth root of the width, and
`channel_merge` "pooling" takes the largest channel of every query and key before they meet.

Padding does not enter the maps, and the weights of what is left are scaled up to one. A token in front of the grid, such as
a class token, sees all tokens by softmax attention with the same logits, and is seen by itself only.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from nasformer.attention.base import Can, Core, Count
from nasformer.attention.kernel import divide
from nasformer.ops import masks
from nasformer.types import UserError

LEAST = 1e-30  # share of real patches in a query's weights that is scaled up to one


@dataclasses.dataclass(frozen=True)
class Couplformer(Core):
  """Couplformer: a softmax over rows times one over columns of a grid of patches.

  Attributes:
    channel_merge: "concat" for all channels, "pooling" for the largest one of every query and key.
    side_scale: divide logits by the root of the side that they are summed over, too.
  """

  can = Can(causal=False, cross=False, grid=True)
  channel_merge: Literal["concat", "pooling"] = "concat"
  side_scale: bool = False

  def __post_init__(self):
    if self.channel_merge not in ("concat", "pooling"):
      raise UserError(f"couplformer.channel_merge={self.channel_merge!r}: it must be 'concat' or 'pooling'")

  def attend(self, params, q, k, v, context):
    rows, columns = context.grid
    first, scale = q.shape[1] - rows * columns, q.shape[-1] ** -0.25
    if self.channel_merge == "pooling":
      q, k = (jnp.take_along_axis(x, x.argmax(-1, keepdims=True), -1) for x in (q, k))  # one maximum has the gradient
    q = q * scale
    real = None if context.key_mask is None else context.key_mask.reshape(-1, 1, 1, q.shape[1])
    cut = lambda x: x[:, first:].reshape(len(x), rows, columns, *x.shape[2:])
    seen = None if real is None else cut(context.key_mask)
    if context.query_mask is not None:
      q = jnp.where(context.query_mask[..., None, None], q, 0)
    out = self._coupled(cut(q), cut(k), cut(v), seen, context)
    if not first:
      return out
    logits = jnp.einsum("btnh,bsnh->bnts", q[:, :first], k, preferred_element_type=masks.accumulator(q))
    weights = self._drop(masks.softmax(logits, real), context, 0)
    return jnp.concatenate([jnp.einsum("bnts,bsne->btne", weights.astype(v.dtype), v), out], axis=1)

  def _coupled(self, q, k, v, seen, context):
    """Attention on the grid; `seen` are its real patches."""
    if seen is not None:
      k, v = (jnp.where(seen[..., None, None], x, 0) for x in (k, v))
    maps = []
    for number, (axis, axes) in enumerate(((2, "byxnh,bzxnh->bnyz"), (1, "byxnh,byznh->bnxz")), start=1):
      scaled = q
      if self.side_scale:
        side = q.shape[axis] if seen is None else seen.any(3 - axis).sum(-1).reshape(-1, 1, 1, 1, 1)
        scaled = q / jnp.sqrt(jnp.maximum(side, 1)).astype(q.dtype)
      logits = jnp.einsum(axes, scaled, k, preferred_element_type=masks.accumulator(q))
      mask = None if seen is None else seen.any(axis)[:, None, None]
      maps.append(self._drop(masks.softmax(logits, mask), context, number))
    flat = lambda x: x.reshape(len(x), -1, *x.shape[3:])
    out = flat(_apply(*(weights.astype(v.dtype) for weights in maps), v))
    if seen is None:
      return out
    by_row, by_column = maps
    total = (by_row[..., None] * seen[:, None, None].astype(by_row.dtype)).sum(-2)  # [B, N, y, x]; sums, which need no product
    total = (by_column[..., None] * total.swapaxes(2, 3)[:, :, None]).sum(-2).transpose(0, 3, 2, 1)
    return divide(out, jnp.maximum(flat(total), LEAST)).astype(v.dtype)

  def _drop(self, weights, context, number):
    if context.dropout_key is None:
      return weights
    return masks.dropout(jax.random.fold_in(context.dropout_key, number), weights, context.dropout)

  def core_count(self, sizes, queries, keys, causal):
    rows, columns = sizes.grid
    width = (1 if self.channel_merge == "pooling" else sizes.head_dim) + sizes.head_dim
    seen = rows * columns * (rows + columns) + (queries - rows * columns) * keys
    return Count(0, sizes.num_heads * seen * width, sizes.num_heads * queries * (width - sizes.head_dim))


def _apply(by_row, by_column, v):
  """The Kronecker product of both maps, times v."""
  v = jnp.einsum("bnyz,bzxne->byxne", by_row, v)
  return jnp.einsum("bnxz,byzne->byxne", by_column, v)
