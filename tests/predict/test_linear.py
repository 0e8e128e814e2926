"""Least squares against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.predict.linear import Linear, ridge
from nasformer.types import UserError


def problem(num=40, width=5):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(num, 1, width)).astype(np.float32) * [1, 10, 100, 1, 0.1]
  y = x[:, 0] @ rng.normal(size=width) + 50 + rng.normal(size=num)
  return x.astype(np.float32), y.astype(np.float32), rng.uniform(0.5, 2, num).astype(np.float32)


def test_linear_equals_numpy():
  x, y, weights = problem()
  model = Linear().fit(jax.random.key(0), *map(jnp.asarray, (x, y, weights)))
  root = np.sqrt(weights)
  design = np.c_[np.ones(len(y)), x[:, 0]]
  slopes = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
  np.testing.assert_allclose(Linear().predict(model, jnp.asarray(x)), design @ slopes, rtol=1e-3)


def test_the_penalty_is_chosen_by_leaving_one_out():
  """By brute force: fit without each row, predict it; weights all 1, so means are plain."""
  x, y, _ = problem(12)
  x, y = x[:, 0] - x[:, 0].mean(0), y - y.mean()
  x = x / x.std(0)
  penalties = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

  def error(penalty):
    total = 0
    for i in range(len(y)):
      keep = np.arange(len(y)) != i
      shift, level = x[keep].mean(0), y[keep].mean()
      centred = x[keep] - shift
      # the penalty is relative to the number of all rows, so the sum over those kept takes 12 of it
      slopes = np.linalg.solve(centred.T @ centred + penalty * 12 * np.eye(5), centred.T @ (y[keep] - level))
      total += (y[i] - level - (x[i] - shift) @ slopes) ** 2
    return total

  best = min(penalties, key=error)
  wanted = np.linalg.solve(x.T @ x / 12 + best * np.eye(5), x.T @ y / 12)
  got = ridge(jnp.asarray(x), jnp.asarray(y), jnp.ones(12), penalties)
  np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ridges", [(), (0.0,), (-1.0, 1.0)])
def test_senseless_ridges_are_refused(ridges):
  with pytest.raises(UserError, match="ridges="):
    Linear(ridges)
