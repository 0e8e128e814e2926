"""Softmax attention with learned relative positions on the keys (Shaw et al. 2018, eq. 4, without the value term).

The table is shared by the heads. q_i · a is computed once per table row and gathered by distance, which equals adding
a to every key and is cheaper whenever the table has fewer rows than there are keys. As in the mixed CIFAR-10 space of
OpenNLPLab/mixFormer, distances are clipped at 14 and the relative term is scaled like the rest. Positions are counted
from the start on either side, so that padding moves nothing; causal queries are the last positions, as everywhere.

On a grid of patches there is a table for distances in rows and one for those in columns, whose terms add up, as in
AutoFormer (Chen et al. 2021, arXiv 2107.00651; `multihead_super.py` of its code, which has them on the values too, and a row
for the class token). Between a token in front of the grid, such as a class token, and all tokens there is no relative term.
The mixed space itself counts distances in the order of the tokens, with the class token as the first: `axes=False`.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from nasformer.attention import online
from nasformer.attention.base import Count, Tensor, xavier
from nasformer.attention.softmax import Softmax, is_long
from nasformer.ops import masks
from nasformer.types import UserError

AXES = "relative_rows", "relative_columns"  # tables on a grid


@dataclasses.dataclass(frozen=True)
class SoftmaxRelative(Softmax):
  """Softmax attention with learned relative positions: logits q_i · (k_j + a[clip(j - i)]) / sqrt(d).

  Attributes:
    max_distance: distances beyond it share the outermost row of the table.
    axes: on images, measure distances in rows and in columns apart; else in the order of the tokens.
  """

  max_distance: int = 14
  axes: bool = True

  def __post_init__(self):
    if self.max_distance < 1:
      raise UserError(f"softmax_relative.max_distance={self.max_distance}: it must be at least 1")

  def core_params(self, sizes):
    rows = 2 * self.max_distance + 1
    names = AXES if self.axes and sizes.grid is not None else ("relative",)
    return {name: Tensor((rows, sizes.head_dim), (None, "head_dim"), xavier(rows, sizes.head_dim)) for name in names}

  def bias(self, places, params, q, query_positions, key_positions):

    def by_distance(name, queries, keys):
      table = params[name].astype(q.dtype)
      scores = jnp.einsum("btnh,rh->bntr", q, table, preferred_element_type=masks.accumulator(q))
      rows = jnp.clip(keys - queries[:, None], -self.max_distance, self.max_distance) + self.max_distance
      return jnp.take_along_axis(scores, rows[None, None], axis=-1)

    if places is None or not self.axes:
      return by_distance("relative", query_positions, key_positions)
    along = lambda axis, queries: by_distance(AXES[axis], queries, np.arange(places.grid[axis]))
    return places.bias(along, query_positions, key_positions)

  def core_count(self, sizes, queries, keys, causal):
    """A block of queries meets the tables once for every block of keys."""
    params = sum(math.prod(tensor.shape) for tensor in self.core_params(sizes).values())
    times = online.padded(queries) * online.blocks(keys) if is_long(queries, keys) else queries
    return super().core_count(sizes, queries, keys, causal) + Count(params, sizes.num_heads * times * params)
