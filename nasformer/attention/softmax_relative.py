"""Softmax attention with learned relative positions on the keys (Shaw et al. 2018, eq. 4, without the value term).

The table is shared by the heads. q_i · a is computed once per table row and gathered by distance, which equals adding
a to every key and is cheaper whenever the table has fewer rows than there are keys. As in the mixed CIFAR-10 space of
OpenNLPLab/mixFormer, distances are clipped at 14 and the relative term is scaled like the rest. Positions are counted
from the start on either side, so that padding moves nothing; causal queries are the last positions, as everywhere.
"""

import dataclasses

import jax.numpy as jnp

from nasformer.attention.base import Count, Tensor, xavier
from nasformer.attention.softmax import Softmax
from nasformer.ops import masks
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class SoftmaxRelative(Softmax):
  """Softmax attention with learned relative positions: logits q_i · (k_j + a[clip(j - i)]) / sqrt(d).

  Attributes:
    max_distance: distances beyond it share the outermost row of the table.
  """

  max_distance: int = 14

  def __post_init__(self):
    if self.max_distance < 1:
      raise UserError(f"softmax_relative.max_distance={self.max_distance}: it must be at least 1")

  def core_params(self, sizes):
    rows = 2 * self.max_distance + 1
    return {"relative": Tensor((rows, sizes.head_dim), (None, "head_dim"), xavier(rows, sizes.head_dim))}

  def bias(self, params, q, query_positions, key_positions):
    table = params["relative"].astype(q.dtype)
    scores = jnp.einsum("btnh,rh->bntr", q, table, preferred_element_type=masks.accumulator(q))
    distance = key_positions[None, :] - query_positions[:, None]
    rows = jnp.clip(distance, -self.max_distance, self.max_distance) + self.max_distance
    return jnp.take_along_axis(scores, rows[None, None], axis=-1)

  def core_count(self, sizes, queries, keys, causal):
    rows = 2 * self.max_distance + 1
    table = Count(rows * sizes.head_dim, sizes.num_heads * queries * rows * sizes.head_dim)
    return super().core_count(sizes, queries, keys, causal) + table
