"""The climber: every neighbour once, upwards only, and away from where nothing is left."""

import functools

import jax
import numpy as np
import pytest

from nasformer.search import loop, variation
from nasformer.search.local import LocalSearch
from nasformer.types import UserError


@functools.partial(jax.jit, static_argnums=(0, 1))
def ask(strategy, domain, key, state):
  return strategy.ask(key, state, domain)


tell = jax.jit(lambda strategy, state, genes, scores: strategy.tell(state, genes, scores), static_argnums=0)


def climb(domain, strategy, value, turns, seed=0):
  """(where the climber stood, what it asked for) of each generation."""
  state, steps = strategy.init(jax.random.key(0), domain), []
  for turn in range(turns):
    draw = ask(strategy, domain, jax.random.fold_in(jax.random.key(seed), turn), state)
    genes = np.asarray(draw.genes)
    assert domain.meets(genes).all()
    steps.append((np.asarray(state.genes[0]), genes))
    state = tell(strategy, state, genes, np.asarray(value(genes), np.float32)[:, None])
  return steps


def feasible_neighbours(domain, genes):
  near, other = variation.neighbours(domain.space, genes)
  near = np.asarray(near)[np.asarray(other)]
  return set(map(bytes, near[domain.meets(near)]))


@pytest.mark.parametrize("batch", [2, 60])
def test_a_peak_is_left_when_all_neighbours_were_tried_once(toy, batch):
  """The best network cannot be left upwards; where it is found, all its neighbours are asked for and then none."""
  domain = toy.make(flops=1.9e10, params=20)
  everything = domain.space.everything()
  everything = everything[domain.meets(everything)]
  best = everything[toy.quality(domain.space, everything).argmax()]
  steps = climb(domain, LocalSearch(batch), lambda genes: toy.quality(domain.space, genes), 150 if batch < 60 else 10)
  stays = [asked for stood, asked in steps[1:] if (stood == best).all()]
  assert stays, "the best network was never found"
  wanted, seen = feasible_neighbours(domain, best), []
  for asked in stays:
    if not (asked[0] == best).all():
      break  # a new start
    seen.append([row for row in map(bytes, asked[1:]) if row in wanted])
  else:
    pytest.fail("the climber never went on")
  first = next(i for i, (at, _) in enumerate(steps) if i and (at == best).all())
  known = {bytes(row) for _, genes in steps[:first] for row in genes}
  assert wanted - known <= set(sum(seen, []))  # those met on the way here need not be asked again
  asked = sum(seen[:-1], [])  # the last ones are filled up with random networks
  assert len(set(asked)) == len(asked)


def test_it_moves_to_the_best_of_its_batch(toy):
  """A batch for all neighbours: each step but a new start is the best improvement."""
  domain = toy.large
  value = functools.partial(toy.quality, domain.space)
  steps = climb(domain, LocalSearch(100), value, 8, seed=3)
  for (stood, asked), (after, _) in zip(steps[1:], steps[2:]):
    scores = value(asked)
    if (asked[0] == stood).all():
      assert value(after[None])[0] == scores.max()
    else:
      assert (after == asked[scores.argmax()]).all()


def test_a_worse_network_is_not_taken(toy):
  domain = toy.large
  value = functools.partial(toy.quality, domain.space)
  steps = climb(domain, LocalSearch(4), value, 40)
  climbs = [(before, after) for (before, asked), (after, _) in zip(steps[1:], steps[2:]) if (asked[0] == before).all()]
  assert all(value(after[None])[0] >= value(before[None])[0] for before, after in climbs)


def test_without_neighbours_it_draws(toy):
  """Only one network keeps the limit."""
  least, genes = toy.make().costs["flops"].minimum()
  domain = toy.make(flops=least)
  for generation in loop.run(jax.random.key(0), domain, LocalSearch(4), toy.scorer(domain.space), 4):
    assert generation.evaluated == 1 and generation.asked == 4 * (generation.number + 1)


def test_a_batch_of_one_is_refused():
  with pytest.raises(UserError, match="batch=1 must be at least 2"):
    LocalSearch(1)
