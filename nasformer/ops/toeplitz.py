"""Matrices whose entries depend on the distance from the diagonal only."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float


def toeplitz(lags: Float[Array, "*B TS"], rows: int, columns: int) -> Float[Array, "*B T S"]:
  """The matrices whose entry (i, j) depends on j - i only: lags[rows - 1 + j - i].

  A row that is one longer than the period of its repetition moves on by one, so no entry is looked up.
  """
  period = rows + columns - 1
  lags = jnp.pad(lags, [(0, 0)] * (lags.ndim - 1) + [(0, 1)])
  repeated = jnp.tile(lags, rows)[..., : rows * period]
  return repeated.reshape(*lags.shape[:-1], rows, period)[..., rows - 1 :]


def spectrum(lags: Float[Array, "*B TS"], rows: int, columns: int) -> Complex[Array, "*B F"]:
  """Fourier transform of `toeplitz(lags, rows, columns)`, for `convolve`: of the circulant matrix with it in its corner."""
  rest = jnp.zeros((*lags.shape[:-1], fast_length(rows + columns - 1) - rows - columns + 1), lags.dtype)
  return jnp.fft.rfft(jnp.concatenate([lags[..., :rows][..., ::-1], rest, lags[..., rows:][..., ::-1]], axis=-1))


def convolve(response: Complex[Array, "*#B F"], x: Float[Array, "*B S"], rows: int) -> Float[Array, "*B T"]:
  """A Toeplitz matrix times vectors, in S log S, by its `spectrum`."""
  length = fast_length(rows + x.shape[-1] - 1)
  return jnp.fft.irfft(jnp.fft.rfft(x, length) * response, length)[..., :rows]


def fast_length(least: int) -> int:
  """The next product of twos, threes and fives, which transforms are quick for."""
  rest = least
  for prime in (2, 3, 5):
    while rest % prime == 0:
      rest //= prime
  return least if rest == 1 else fast_length(least + 1)


def transform_count(length: int) -> int:
  """What a Fourier transform of so many real numbers counts as: half of 5/2 N log N operations of the usual algorithm."""
  return round(1.25 * length * math.log2(length))
