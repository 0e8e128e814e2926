"""Softmax attention with the relative bias of T5 (Raffel et al. 2020, 2.1; t5x, `examples/t5/layers.py`).

A learned number per head and bucket of distances is added to the logits: small distances have a bucket each, larger ones
share buckets of logarithmically growing width, and all from `max_distance` on share the last. A bidirectional layer spends
half of its buckets on either sign; a causal one, which sees no key ahead, all of them on the past. Cross-attention has no
bias. T5 shares one table among the layers of a stack and folds 1 / sqrt(d) into the initialiser of the queries; here every
layer has its own table, as layers may differ in kind and heads, and divides by sqrt(d) itself, as d is elastic.

On a grid of patches there is a table for distances in rows and one for those in columns, both with buckets on either sign,
and their biases add up; between a token in front of the grid, such as a class token, and all tokens the bias is zero.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from nasformer.attention.base import Count, Tensor, Tensors, xavier
from nasformer.attention.softmax import Softmax
from nasformer.ops import masks
from nasformer.ops.toeplitz import toeplitz
from nasformer.types import UserError

TABLE, AXES = "distance_bias", ("row_bias", "column_bias")  # of a sequence, and on a grid


@dataclasses.dataclass(frozen=True)
class SoftmaxT5(Softmax):
  """Softmax attention with T5's relative bias: a learned number per head and bucket of distances.

  Attributes:
    num_buckets: of the table, or of each of both.
    max_distance: distances from it on share the outermost bucket.
  """

  num_buckets: int = 32
  max_distance: int = 128

  def __post_init__(self):
    if self.num_buckets < 4 or self.num_buckets % 4:
      raise UserError(f"softmax_t5.num_buckets={self.num_buckets}: it must be a multiple of 4")
    if self.max_distance <= self.num_buckets // 2:
      raise UserError(f"softmax_t5.max_distance={self.max_distance}: it must be above num_buckets / 2 ="
                      f" {self.num_buckets // 2}")

  def core_params(self, sizes):
    if sizes.source_dim is not None:
      return {}
    shape = (sizes.num_heads, self.num_buckets)
    return {name: Tensor(shape, ("heads", None), xavier(*shape)) for name in ((TABLE,) if sizes.grid is None else AXES)}

  def attend(self, params, q, k, v, context):
    if not params.keys() & {TABLE, *AXES}:
      return Softmax().attend(params, q, k, v, context)
    return super().attend(self._spread(params, context.causal), q, k, v, context)

  def recall(self, params, state, q, position, copies):
    if TABLE not in params:
      return Softmax().recall(params, state, q, position, copies)
    return super().recall(self._spread(params, True), state, q, position, copies)

  def bias(self, places, params, q, query_positions, key_positions):
    """Positions of either side follow one another."""

    def by_distance(name, first, queries, keys):  # `first` is the distance of the first key from the last query
      distances = first + jnp.arange(queries + keys - 1)
      columns = jnp.clip(distances, -self.max_distance, self.max_distance) + self.max_distance
      return toeplitz(params[name].astype(masks.accumulator(q))[:, columns], queries, keys)

    def along(axis, queries):
      side = places.grid[axis]
      return by_distance(AXES[axis], 1 - side, side, side)[:, queries]

    if places is None:
      return by_distance(TABLE, key_positions[0] - query_positions[-1], len(query_positions), len(key_positions))
    return places.bias(along, query_positions, key_positions)

  def _spread(self, params: Tensors, causal: bool) -> Tensors:
    """Tables with a column for every distance instead of every bucket."""
    distances = np.arange(-self.max_distance, self.max_distance + 1)
    columns = bucket(distances, causal, self.num_buckets, self.max_distance)
    return params | {name: params[name][:, columns] for name in (TABLE, *AXES) if name in params}

  def core_count(self, sizes, queries, keys, causal):
    table = Count(sum(math.prod(tensor.shape) for tensor in self.core_params(sizes).values()))
    return super().core_count(sizes, queries, keys, causal) + table


def bucket(distance: Int[np.ndarray, "*S"], causal: bool, num_buckets: int, max_distance: int) -> Int[np.ndarray, "*S"]:
  """Bucket of a distance, which is the position of the key less that of the query."""
  ahead = np.zeros_like(distance)
  if not causal:
    num_buckets //= 2
    ahead = np.where(distance > 0, num_buckets, 0)
  away = np.maximum(-distance, 0) if causal else np.abs(distance)
  exact = num_buckets // 2
  octaves = np.log(np.maximum(away, 1) / exact + np.finfo(np.float32).eps) / math.log(max_distance / exact)
  far = np.minimum(exact + np.floor(octaves * (num_buckets - exact)).astype(distance.dtype), num_buckets - 1)
  return ahead + np.where(away < exact, away, far)
