"""Latency: sums over layers, and the drift of a machine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.predict.additive import Additive, smooth
from nasformer.types import UserError


fit = jax.jit(lambda predictor, *args: predictor.fit(*args), static_argnums=0)
predict = jax.jit(lambda predictor, *args: predictor.predict(*args), static_argnums=0)


def table(num=400, slow=0.0, noise=0.0, seed=0):
  """Rows of (width, depth, hidden): depth x (3 + width x hidden) + 2, while every fourth stretch of 50 rows is slower."""
  rng = np.random.default_rng(seed)
  x = np.stack([rng.choice([1.0, 1.25], num), rng.integers(1, 7, num), rng.uniform(1, 3, num)], 1)
  clean = x[:, 1] * (3 + x[:, 0] * x[:, 2]) + 2
  state = 1 + slow * (np.arange(num) // 50 % 4 == 0)
  y = clean * state * (1 + noise * rng.normal(size=num))
  return jnp.asarray(x[:, None], jnp.float32), jnp.asarray(y, jnp.float32), clean, state


def rms(x):
  return float(np.sqrt(np.mean(np.square(x))))


def test_drift_is_taken_out_of_the_machine_and_not_of_the_networks():
  """Half of the rows are held out: their stretch says how slow they were, and without it predictions are clean."""
  x, y, clean, state = table(slow=0.25, noise=0.01)
  weights = jnp.asarray(np.random.default_rng(1).integers(0, 2, len(y)), jnp.float32)
  held = np.asarray(weights) == 0
  predictor = Additive()
  model = fit(predictor, jax.random.key(0), x, jnp.where(weights > 0, y, jnp.nan), weights)
  predicted = np.asarray(predict(predictor, model, x))
  assert rms(np.asarray(predictor.measured(model, x))[held] / (clean * state)[held] - 1) < 0.04
  assert abs(float(model.usual) * np.mean(state) - 1) < 0.02  # most stretches are fast, the mean is not
  steady = predicted * float(model.usual) / clean - 1
  assert rms(steady) < 0.03 and rms(predicted[held] / y[held] - 1) > 0.08


def test_without_order_there_is_no_drift():
  """The same slow rows, shuffled: the factor of a row says nothing of its neighbours."""
  x, y, _, _ = table(slow=0.25, noise=0.01)
  order = np.random.default_rng(0).permutation(len(y))
  model = fit(Additive(), jax.random.key(0), x[order], y[order], jnp.ones(len(y)))
  np.testing.assert_array_equal(model.state, 1)


def test_layers_of_blocks_add_up():
  """Tokens of a network and three layers; absent ones are 0. The cost of a layer is its size times that of the network."""
  rng = np.random.default_rng(0)
  depth = rng.integers(1, 4, 200)
  layers = rng.uniform(0.5, 1, (200, 3)) * (np.arange(3) < depth[:, None])
  width = rng.choice([0.5, 1.0], 200)
  x = np.zeros((200, 4, 3), np.float32)
  x[:, 0, 0], x[:, 1:, 1], x[:, 1:, 2] = width, layers, layers > 0
  y = 1 + (width[:, None] * layers + 0.3 * (layers > 0)).sum(1)
  model = fit(Additive(), jax.random.key(0), jnp.asarray(x[:150]), jnp.asarray(y[:150], jnp.float32), jnp.ones(150))
  assert rms(np.asarray(predict(Additive(), model, jnp.asarray(x[150:]))) - y[150:]) < 0.01


def test_labels_below_0_are_learned_without_drift():
  x, y, _, _ = table()
  model = fit(Additive(), jax.random.key(0), x, y - 30, jnp.ones(len(y)))
  assert rms(np.asarray(predict(Additive(), model, x)) - np.asarray(y - 30)) < 0.5
  np.testing.assert_array_equal(model.state, 1)


def test_smooth_equals_the_formula():
  """Gaussian conditioning with the covariance written out, at the memory and share of the greatest likelihood."""
  rng = np.random.default_rng(0)
  num, memory, share = 120, np.exp(-1 / 10.0), 0.7
  time = np.arange(num)
  cover = lambda m, s: s * m ** np.abs(time[:, None] - time)
  values = np.linalg.cholesky(cover(memory, share) + (1 - share) * np.eye(num)) @ rng.normal(size=num)
  weights = (rng.random(num) < 0.8).astype(np.float32)
  seen = weights > 0

  def fit(m, s):
    total = (cover(m, s) + (1 - s) * np.eye(num))[np.ix_(seen, seen)]
    solved = np.linalg.solve(total, values[seen])
    likelihood = -0.5 * (seen.sum() * np.log(values[seen] @ solved / seen.sum()) + np.linalg.slogdet(total)[1])
    return likelihood, cover(m, s)[:, seen] @ solved

  grid = [fit(np.exp(-1 / r), s) for r in (1.0, 3.0, 10.0, 30.0, 100.0, 300.0) for s in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)]
  _, wanted = max(grid, key=lambda pair: pair[0])
  got = jax.jit(smooth)(jnp.asarray(np.where(seen, values, 0), jnp.float32), jnp.asarray(weights))
  np.testing.assert_allclose(got, wanted, atol=2e-3)


def test_senseless_settings_are_refused():
  with pytest.raises(UserError, match="rounds must be"):
    Additive(rounds=0)
