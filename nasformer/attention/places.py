"""Biases that depend on the distances between tokens along the rows and along the columns of a grid of patches.

The last tokens are the patches, row by row. A token in front of them, such as a class token, has no place: it meets all
tokens, and all meet it, without a bias.
"""

from typing import Callable, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Places(NamedTuple):
  """Where the tokens of a sequence are.

  Attributes:
    first: tokens in front of the grid.
    grid: its height and width.
  """

  first: int
  grid: tuple[int, int]

  def bias(
      self, along: Callable[[int, Int[Array, "T"]], Float[Array, "*B T side"]],
      query_positions: Int[Array | np.ndarray, "T"], key_positions: Int[Array | np.ndarray, "S"],
  ) -> Float[Array, "*B T S"]:
    """The biases of both axes, summed up.

    Args:
      along: (0 for rows or 1 for columns, where queries are on this axis) -> their biases to every place on it.
      query_positions: in the sequence; those beyond its end have any bias.
      key_positions: likewise.
    """
    total = 0.0
    for axis, side in enumerate(self.grid):
      queries, keys = self._on(axis, query_positions), self._on(axis, key_positions)
      bias = jnp.where((queries < side)[:, None], along(axis, jnp.minimum(queries, side - 1)), 0)
      total += jnp.pad(bias, [(0, 0)] * (bias.ndim - 1) + [(0, 1)])[..., jnp.minimum(keys, side)]
    return total

  def _on(self, axis, positions):
    """Row or column of each; one more than the last where there is no place."""
    patches = positions - self.first
    return jnp.where(patches < 0, self.grid[axis], patches % self.grid[1] if axis else patches // self.grid[1])
