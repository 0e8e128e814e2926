import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.ops.toeplitz import convolve, fast_length, spectrum, toeplitz


@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 5), (5, 3), (1, 4)])
def test_entries_and_gradient_by_hand(rows, columns):
  """Entry (i, j) is that of lag j - i; a lag collects the slopes of all its entries."""
  lags = jnp.arange(rows + columns - 1.0)
  place = np.array([[rows - 1 + j - i for j in range(columns)] for i in range(rows)])
  np.testing.assert_array_equal(toeplitz(lags, rows, columns), place)
  both = toeplitz(jnp.stack([lags, 2 * lags])[None], rows, columns)
  np.testing.assert_array_equal(both, np.stack([place, 2 * place])[None])
  slope = np.arange(1.0, 1 + rows * columns).reshape(rows, columns)
  got = jax.grad(lambda lags: (toeplitz(lags, rows, columns) * slope).sum())(lags)
  np.testing.assert_allclose(got, np.bincount(place.ravel(), slope.ravel()))


@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 5), (6, 4)])
def test_convolving_is_multiplying(rows, columns):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    lags, x = (jnp.asarray(rng.normal(size=size)) for size in ((2, rows + columns - 1), (3, 2, columns)))
    want = np.einsum("dts,bds->bdt", toeplitz(lags, rows, columns), x)
    np.testing.assert_allclose(convolve(spectrum(lags, rows, columns), x, rows), want, 1e-10, 1e-12)


def test_fast_lengths():
  assert [fast_length(n) for n in (1, 7, 11, 97, 16383)] == [1, 8, 12, 100, 16384]
