"""The order against loops over the definitions of Deb et al. 2002, and against a plain sort for one objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.ops.stats import pareto_mask
from nasformer.search import order

best_first, fronts = jax.jit(order.best_first), jax.jit(order.fronts)


def dominates(one, two):
  return all(a >= b for a, b in zip(one, two)) and any(a > b for a, b in zip(one, two))


def fronts_by_hand(scores):
  """The definition: nobody but members of earlier fronts dominates a member."""
  front, waiting = np.full(len(scores), len(scores)), {i for i, row in enumerate(scores) if np.isfinite(row).all()}
  number = 0
  while waiting:
    free = {i for i in waiting if not any(dominates(scores[j], scores[i]) for j in waiting)}
    front[list(free)] = number
    waiting, number = waiting - free, number + 1
  return front


def crowding_by_hand(rows):
  """Of one front without repeated rows."""
  distance = np.zeros(len(rows))
  for values in rows.T:
    at = np.argsort(values, kind="stable")
    distance[at[[0, -1]]] = np.inf
    for before, i, after in zip(at, at[1:], at[2:]):
      distance[i] += (values[after] - values[before]) / (values.max() - values.min())
  return distance


def draws(seed, num, objectives, options=1000):
  """Random rows, of which the third fails."""
  rows = np.random.default_rng(seed).integers(0, options, (num, objectives)).astype(np.float32)
  rows[2, 0] = np.nan
  return rows


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("options", [4, 1000])
def test_fronts_equal_the_definition(objectives, options):
  scores = draws(0, 40, objectives, options)
  found = fronts(scores)
  np.testing.assert_array_equal(found, fronts_by_hand(scores))
  np.testing.assert_array_equal(found == 0, pareto_mask(scores, (True,) * objectives))


@pytest.mark.parametrize("objectives", [2, 3])
def test_crowding_equals_the_definition(objectives):
  scores = draws(1, 40, objectives)
  front = np.asarray(fronts(scores))
  found = jax.jit(order.crowding)(scores, front)
  for number in range(front[np.isfinite(scores).all(1)].max() + 1):
    mine = front == number
    np.testing.assert_allclose(found[mine], crowding_by_hand(scores[mine]), rtol=1e-5)


def test_by_hand():
  """Front 0 is rows 0, 2, 4 and the copy 5; 2 lies between the ends. 1 and 3 are dominated, 6 and 7 fail."""
  scores = jnp.array([[4.0, 0], [1, 1], [3, 2], [0, 0], [0, 5], [3, 2], [jnp.inf, 9], [9, jnp.nan]])
  np.testing.assert_array_equal(best_first(scores), [0, 4, 2, 5, 1, 3, 6, 7])


def test_one_objective_is_a_sort():
  """The last row of the general rule would give the same order, so nothing depends on the shorter way."""
  scores = draws(2, 50, 1, 20)
  wanted = sorted(range(50), key=lambda i: (-scores[i, 0] if np.isfinite(scores[i, 0]) else np.inf, i))
  np.testing.assert_array_equal(best_first(scores), wanted)
  constant = np.concatenate([scores, np.zeros_like(scores)], 1)
  np.testing.assert_array_equal(best_first(constant), wanted)


def test_scale_and_shift_of_an_objective_do_not_matter():
  scores = draws(3, 60, 2)
  np.testing.assert_array_equal(best_first(scores), best_first(scores * np.array([4, 0.5]) + np.array([-64, 8])))


def test_failures_and_copies_get_the_worst_score():
  genes = jnp.array([[0, 1], [2, 2], [0, 1], [3, 3]])
  scores = jnp.array([[1.0, 2], [jnp.nan, 5], [9, 9], [3, 4]])
  np.testing.assert_array_equal(order.first_met(genes, scores), [[1, 2], [-np.inf] * 2, [-np.inf] * 2, [3, 4]])


def test_all_failed():
  scores = jnp.full((5, 2), -jnp.inf)
  np.testing.assert_array_equal(best_first(scores), range(5))
  np.testing.assert_array_equal(best_first(scores[:, :1]), range(5))
