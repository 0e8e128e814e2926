"""Scales of labelled rows against numpy."""

import jax.numpy as jnp
import numpy as np

from nasformer.predict.base import filled, flat, standard


def rows():
  return np.random.default_rng(0).normal(3.0, 2.0, (7, 4)).astype(np.float32)


def test_standard_is_that_of_the_live_rows():
  values, weights = rows(), np.array([1, 1, 0, 1, 0, 1, 1], np.float32)
  dirty = np.where(weights[:, None] > 0, values, np.nan)
  scale, live = standard(jnp.asarray(dirty), jnp.asarray(weights)), values[weights > 0]
  np.testing.assert_allclose(scale.mean, live.mean(0), rtol=1e-6)
  np.testing.assert_allclose(scale.spread, live.std(0), rtol=1e-5)
  np.testing.assert_allclose(scale.undo(scale(jnp.asarray(live))), live, rtol=1e-6)


def test_weights_count_as_repetitions():
  values, times = rows(), np.array([1, 2, 3, 0, 1, 1, 2])
  once = standard(jnp.asarray(np.repeat(values, times, 0)), jnp.ones(times.sum()))
  weighted = standard(jnp.asarray(values), jnp.asarray(times, jnp.float32))
  np.testing.assert_allclose(weighted.mean, once.mean, rtol=1e-6)
  np.testing.assert_allclose(weighted.spread, once.spread, rtol=1e-5)


def test_a_constant_column_becomes_0():
  scale = standard(jnp.full((5, 2), 1234.567), jnp.ones(5))
  np.testing.assert_allclose(scale(jnp.full((5, 2), 1234.567)), 0, atol=1e-3)


def test_flat_and_filled():
  inputs = jnp.arange(12.0).reshape(2, 3, 2)
  np.testing.assert_array_equal(flat(inputs)[1], np.arange(6, 12))
  np.testing.assert_array_equal(filled(jnp.array([1.0, jnp.nan]), jnp.array([1.0, 0.0])), [1, 0])
