"""NAR: tiers and their means, and what the published losses say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.predict.base import checked
from nasformer.predict.nar import Nar, positions, segment_means, tiers_of
from nasformer.types import UserError


def test_tiers_have_equal_counts_and_the_last_the_remainder():
  targets = jnp.asarray(np.random.default_rng(0).permutation(13).astype(np.float32))
  tiers = np.asarray(tiers_of(targets, jnp.ones(13), 5))
  np.testing.assert_array_equal(np.bincount(tiers), [2, 2, 2, 2, 5])
  assert tiers[np.asarray(targets).argmax()] == 0
  assert all(np.asarray(targets)[tiers == t].min() > np.asarray(targets)[tiers == t + 1].max() for t in range(4))


def test_rows_of_weight_0_are_in_no_tier_but_the_last():
  targets, weights = jnp.array([9.0, 5.0, jnp.nan, 7.0, 99.0, 1.0]), jnp.array([1.0, 1, 0, 1, 0, 1])
  tiers = np.asarray(tiers_of(targets, weights, 2))
  np.testing.assert_array_equal(tiers[[0, 3, 1, 5]], [0, 0, 1, 1])
  assert (tiers[[2, 4]] == 1).all()


def test_means_of_tiers_by_hand():
  values = jnp.arange(8.0).reshape(4, 1, 2)
  got = segment_means(values, jnp.array([0, 2, 0, 2]), jnp.array([1.0, 1, 1, 0]), 3)
  np.testing.assert_allclose(got, [[[2, 3]], [[0, 0]], [[2, 3]]])


def test_positions_are_sines_and_cosines():
  """Width 4: rates 1 and 1/100."""
  np.testing.assert_allclose(positions(3, 4)[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], rtol=1e-6)


def test_tiers_and_score_agree(labelled):
  inputs, targets = labelled(60)
  predictor = Nar()
  model = checked(predictor, jax.random.key(0), inputs, targets)
  tiers = np.asarray(jax.jit(predictor.tiers)(model, jnp.asarray(inputs)))
  np.testing.assert_allclose(tiers.sum(1), 1, rtol=1e-5)
  best = np.asarray(jax.jit(predictor.predict)(model, jnp.asarray(inputs))).argsort()
  mean_tier = tiers @ np.arange(5)
  assert mean_tier[best[:8]].mean() > mean_tier[best[-8:]].mean() + 1


@pytest.mark.slow
def test_the_decoder_reads_every_tier(labelled):
  """Another mean encoding of any tier changes the probabilities."""
  inputs, targets = labelled(20)
  predictor = Nar(steps=2)
  model = predictor.fit(jax.random.key(0), jnp.asarray(inputs), jnp.asarray(targets), jnp.ones(20))
  usual = predictor.tiers(model, jnp.asarray(inputs))
  for t in range(5):
    changed = predictor.tiers(model.replace(tiers=model.tiers.at[t].add(jnp.arange(16.0))), jnp.asarray(inputs))
    assert float(jnp.abs(changed - usual).max()) > 1e-6


@pytest.mark.parametrize("fields", [{"width": 15}, {"num_tiers": 1}, {"steps": 0}])
def test_senseless_settings_are_refused(fields):
  with pytest.raises(UserError, match="=15 must be a multiple|above 0"):
    Nar(**fields)
