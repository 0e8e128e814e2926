"""Matrices whose entries depend on the distance from the diagonal only."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def toeplitz(lags: Float[Array, "TS"], rows: int, columns: int) -> Float[Array, "T S"]:
  """The matrix whose entry (i, j) depends on j - i only: lags[rows - 1 + j - i].

  A row that is one longer than the period of its repetition moves on by one, so no entry is looked up.
  """
  period = rows + columns - 1
  repeated = jnp.broadcast_to(jnp.pad(lags, (0, 1)), (rows, period + 1)).reshape(-1)
  return repeated[: rows * period].reshape(rows, period)[:, rows - 1 :]
