"""The steps of evolution, and evolution against chance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.search import loop
from nasformer.search.evolution import Evolution, State
from nasformer.search.uniform import Uniform
from nasformer.types import UserError


@functools.partial(jax.jit, static_argnums=(0, 1))
def ask(strategy, domain, key, state):
  return strategy.ask(key, state, domain).genes


def test_tell_keeps_the_best_distinct_finite(toy):
  """By hand: 9 is a copy of the parent with 5, so the row of 5 stays; NaN and inf are failures."""
  genes = jnp.arange(6, dtype=jnp.int32)[:, None] * jnp.ones((1, 3), jnp.int32)
  state = State(genes[:2], jnp.array([[5.0], [3.0]]))
  offspring = genes[jnp.array([0, 2, 3, 4, 5])]
  scores = jnp.array([9.0, jnp.nan, 4.0, jnp.inf, 1.0])[:, None]
  kept = Evolution(population=4, num_parents=4).tell(state, offspring, scores)
  np.testing.assert_array_equal(kept.genes[:, 0], [0, 3, 1, 5])
  np.testing.assert_array_equal(kept.scores, [[5], [4], [3], [1]])


def test_sizes_of_the_generations(toy):
  run = loop.run(jax.random.key(0), toy.large, Evolution(), toy.scorer(toy.large.space), 3)
  assert [generation.asked for generation in run] == [125, 225, 325]


def test_crossover_takes_two_different_parents(toy):
  """Parents all 0 and all 1: with many children both parents show up, at every gene half of the time."""
  domain = toy.make(4, "scale=1,2; depth=4; layer.*.kind=local; layer.*.width=1,2")
  parents = jnp.stack([domain.space.genome({"scale": s, "depth": 4, **{
      f"layer.{i}.{field}": value for i in range(4)
      for field, value in {"kind": "local", "window": w, "width": s}.items()}}) for s, w in ((1, 4), (2, 8))])
  strategy = Evolution(population=2, num_parents=2, num_mutations=0, num_crossovers=2000)
  children = ask(strategy, domain, jax.random.key(0), State(parents, jnp.zeros((2, 1))))
  differ = np.asarray(parents[0] != parents[1])
  share = np.asarray(children == parents[1]).mean(0)[differ]
  assert np.abs(share - 0.5).max() < 5 * np.sqrt(0.25 / 2000)  # 5 standard errors
  assert np.asarray(children == parents[0])[:, ~differ].all()


def test_mutation_rate(toy):
  """A gene of two options changes with probability rate / 2, since the redraw may give what it was."""
  domain = toy.make()
  parents = jnp.zeros((2, domain.space.num_genes), jnp.int32)
  strategy = Evolution(population=2, num_parents=2, num_mutations=4000, num_crossovers=0, mutation_rate=0.3)
  mutants = ask(strategy, domain, jax.random.key(0), State(parents, jnp.zeros((2, 1))))
  assert abs(float((mutants[:, 0] == 1).mean()) - 0.15) < 5 * np.sqrt(0.15 * 0.85 / 4000)


@pytest.mark.parametrize("seed", range(3))
def test_beats_chance_at_equal_evaluations(toy, seed):
  best = []
  for strategy in (Evolution(), Uniform()):
    run = loop.run(jax.random.key(seed), toy.large, strategy, toy.scorer(toy.large.space), 10)
    found = [trial["fitness"] for generation in run for trial in generation.trials]
    best.append(max(found[:600]))
  assert best[0] > best[1]


@pytest.mark.parametrize("fields, told", [
    ({"num_parents": 1}, "num_parents=1 must be between 2"), ({"population": 5}, "population=5"),
    ({"num_mutations": 0, "num_crossovers": 0}, "not both 0"), ({"num_mutations": -1}, "at least 0"),
    ({"mutation_rate": 1.5}, "mutation_rate=1.5"), ({"mutation_rate": 0.0}, "mutation_rate=0.0"),
])
def test_senseless_settings_are_refused(fields, told):
  with pytest.raises(UserError, match=told):
    Evolution(**fields)
