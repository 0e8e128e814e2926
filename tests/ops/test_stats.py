"""Statistics against their definitions written as loops."""

import itertools

import numpy as np
import pytest

from nasformer.ops import stats


def random_points(seed, num=40):
  return np.random.default_rng(seed).integers(0, 12, (num, 2)).astype(float)


@pytest.mark.parametrize("maximise", list(itertools.product((True, False), repeat=2)))
def test_pareto_mask_by_definition(maximise):
  points = random_points(0)
  sign = [1 if up else -1 for up in maximise]
  wanted = [
      not any(all(s * q[m] >= s * p[m] for m, s in enumerate(sign)) and tuple(p) != tuple(q) for q in points)
      for p in points
  ]
  np.testing.assert_array_equal(stats.pareto_mask(points, maximise), wanted)


def test_pareto_mask_keeps_equals_and_drops_nan():
  points = np.array([[1.0, 1.0], [1.0, 1.0], [np.nan, 5.0], [0.0, 2.0], [0.0, 0.0]])
  np.testing.assert_array_equal(stats.pareto_mask(points, (True, True)), [True, True, False, True, False])
  assert stats.pareto_mask(np.zeros((0, 2)), (True, True)).shape == (0,)


@pytest.mark.parametrize("maximise", list(itertools.product((True, False), repeat=2)))
def test_hypervolume_counts_unit_cells(maximise):
  """On an integer grid the area is the number of unit cells between the reference and some point."""
  points, sign = random_points(1), np.where(maximise, 1, -1)
  reference = np.array([4.0, 7.0])
  gains = (points - reference) * sign
  wanted = sum(((gains >= [x + 1, y + 1]).all(-1)).any() for x in range(12) for y in range(12))
  assert wanted > 0
  assert stats.hypervolume_2d(points, reference, maximise) == wanted


def test_hypervolume_of_nothing_better_is_zero():
  assert stats.hypervolume_2d(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.5, 0.5]), (True, True)) == 0
  assert stats.hypervolume_2d(np.zeros((0, 2)), np.zeros(2), (True, True)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_kendall_tau_by_definition(seed):
  predicted, measured = np.random.default_rng(seed).integers(0, 6, (2, 25)).astype(float)
  score = pairs = 0
  for i, j in itertools.combinations(range(25), 2):
    if measured[i] != measured[j]:
      pairs += 1
      score += np.sign(measured[i] - measured[j]) * np.sign(predicted[i] - predicted[j])
  assert stats.kendall_tau(predicted, measured) == pytest.approx(score / pairs, abs=1e-12)


def test_kendall_tau_at_its_ends():
  order = np.arange(5.0)
  assert stats.kendall_tau(order, order**3) == 1 and stats.kendall_tau(-order, order) == -1
  assert stats.kendall_tau(np.zeros(5), order) == 0
  assert np.isnan(stats.kendall_tau(order, np.zeros(5)))
  with pytest.raises(ValueError, match="1 architecture"):
    stats.kendall_tau(order[:1], order[:1])


def test_mean_and_spread():
  """Of 1, 2, 6: mean 3, squared deviations 4 + 1 + 9 over 2."""
  assert stats.mean_and_spread(np.array([1.0, 2.0, 6.0])) == pytest.approx((3.0, np.sqrt(7.0)))
  mean, spread = stats.mean_and_spread(np.array([2.0]))
  assert mean == 2 and np.isnan(spread)


def test_binomial_error_is_that_of_the_mean_of_coin_flips():
  flips = np.array([1.0] * 9 + [0.0])
  assert stats.binomial_error(0.9, 10) == pytest.approx(np.std(flips) / np.sqrt(10))


def test_errors_by_hand():
  predicted, measured = np.array([3.0, 1.0]), np.array([1.0, 2.0])
  assert stats.rmse(predicted, measured) == pytest.approx(np.sqrt(2.5))
  assert stats.mape(predicted, measured) == pytest.approx((2 / 1 + 1 / 2) / 2)


def test_bootstrap_interval_of_a_mean_is_that_of_its_error():
  values = np.random.default_rng(0).normal(5.0, 2.0, 400)
  low, high = stats.bootstrap_interval(np.random.default_rng(1), np.mean, values)
  error = values.std() / 20
  assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.3 * error)


def test_bootstrap_interval_of_rank_agreement():
  order = np.arange(30.0)
  assert stats.bootstrap_interval(np.random.default_rng(0), stats.kendall_tau, order, order) == (1, 1)
  low, high = stats.bootstrap_interval(np.random.default_rng(0), stats.kendall_tau, order,
                                       np.random.default_rng(2).permutation(order))
  assert -0.7 < low < high < 0.7
