"""Matrices whose entries depend on the distance from the diagonal only."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def toeplitz(lags: Float[Array, "*B TS"], rows: int, columns: int) -> Float[Array, "*B T S"]:
  """The matrices whose entry (i, j) depends on j - i only: lags[rows - 1 + j - i].

  A row that is one longer than the period of its repetition moves on by one, so no entry is looked up.
  """
  period = rows + columns - 1
  lags = jnp.pad(lags, [(0, 0)] * (lags.ndim - 1) + [(0, 1)])
  repeated = jnp.tile(lags, rows)[..., : rows * period]
  return repeated.reshape(*lags.shape[:-1], rows, period)[..., rows - 1 :]
