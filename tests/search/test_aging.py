"""The queue of aging evolution: who dies, who is a parent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.search.aging import AgingEvolution, State
from nasformer.types import UserError


def rows(*numbers):
  return jnp.tile(jnp.array(numbers, jnp.int32)[:, None], (1, 3))


def test_the_oldest_die_however_good():
  state = State(rows(0, 1, 2, 3), jnp.array([[9.0], [8], [1], [2]]), jnp.arange(4))
  told = AgingEvolution(population=4, tournament=2, num_children=2).tell(
      state, rows(4, 5), jnp.array([[3.0], [jnp.nan]]))
  np.testing.assert_array_equal(told.genes[:, 0], [2, 3, 4, 5])
  np.testing.assert_array_equal(told.place, [2, 1, 0, 3])


def test_parents_win_tournaments(toy):
  """A member wins a tournament of s out of n if nobody better and not only worse ones are drawn: by their places r from
  0, with probability ((n - r)^s - (n - r - 1)^s) / n^s."""
  domain = toy.make(6)
  genes = jnp.asarray(np.unique(domain.space.sample(jax.random.key(0), 10), axis=0))
  num, size = len(genes), 3
  strategy = AgingEvolution(population=8000, tournament=size, num_children=8000, mutation_rate=1e-6)
  state = State(genes, jnp.zeros((num, 1)), jnp.arange(num)[::-1])
  children = jax.jit(lambda key: strategy.ask(key, state, domain).genes)(jax.random.key(1))
  differing = np.asarray((children[:, None] != genes).sum(-1))
  parent = differing.argmin(1)[differing.min(1) == 1]  # one gene changed, and no other genes with it
  share = np.bincount(parent, minlength=num) / len(parent)
  places = np.arange(num)[::-1]
  wanted = ((num - places) ** size - (num - places - 1) ** size) / num**size
  assert np.abs(share - wanted).max() < 0.05


@pytest.mark.parametrize("fields, told", [
    ({"population": 1}, "population=1 must be at least 2"), ({"tournament": 0}, "tournament=0 must be between 1 and"),
    ({"population": 20}, "tournament=25 must be .*population=20"), ({"num_children": 101}, "num_children=101"),
    ({"mutation_rate": 0.0}, "mutation_rate=0.0"), ({"eta": -2.0}, "eta=-2.0"),
])
def test_senseless_settings_are_refused(fields, told):
  with pytest.raises(UserError, match=told):
    AgingEvolution(**fields)
