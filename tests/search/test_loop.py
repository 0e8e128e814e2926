"""The contract of every strategy, over the table, and the bookkeeping of the loop."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest

from nasformer.registry import lookup
from nasformer.search import TABLE, loop
from nasformer.types import Score, UserError

strategies = pytest.mark.parametrize("name", TABLE)


def search(domain, name, score, generations=4, seed=0, **options):
  strategy = lookup(TABLE, name)()
  return list(loop.run(jax.random.key(seed), domain, strategy, score, generations, **options))


def trials(run):
  return [trial for generation in run for trial in generation.trials]


@strategies
def test_finds_the_toy_optimum_within_budget(toy, name):
  domain = toy.small
  everything = domain.space.everything()
  optimum = toy.quality(domain.space, everything[domain.meets(everything)]).max()
  found = trials(search(domain, name, toy.scorer(domain.space), 20))
  assert max(trial["fitness"] for trial in found) == pytest.approx(optimum, abs=1e-6)


@strategies
def test_limits_are_never_broken(toy, name):
  domain = toy.large
  found = trials(search(domain, name, toy.scorer(domain.space)))
  genes = np.array([trial["genes"] for trial in found], np.int32)
  assert domain.meets(genes).all() and domain.space.contains(genes).all()
  assert all(trial[name] <= limit for trial in found for name, limit in domain.limits.items())


@strategies
def test_a_failed_score_never_wins(toy, name):
  """With NaN or infinity for every network that begins with a full layer, the best of the others is found."""
  domain = toy.small

  def value(space, genes):
    failure = np.where(genes[:, 0] == 0, np.nan, np.inf)
    return np.where(genes[:, 2] == 0, failure, toy.quality(space, genes))

  everything = domain.space.everything()
  allowed = everything[domain.meets(everything) & (everything[:, 2] == 1)]
  optimum = toy.quality(domain.space, allowed).max()
  fitness = np.array([trial["fitness"] for trial in trials(search(domain, name, toy.scorer(domain.space, value), 20))])
  assert fitness[np.isfinite(fitness)].max() == pytest.approx(optimum, abs=1e-6)


@strategies
def test_same_key_same_trials(toy, name):
  domain = toy.large
  one, two = (search(domain, name, toy.scorer(domain.space), 3, seed=4) for _ in range(2))
  assert one == two
  assert trials(one) != trials(search(domain, name, toy.scorer(domain.space), 3, seed=5))


@strategies
@pytest.mark.parametrize("kept", [0, 1, 2.5, 4])
def test_interrupted_and_repeated_equals_uninterrupted(toy, name, kept):
  """From a log through JSON that ends after, or in the middle of, a generation."""
  domain = toy.large
  checks = {"even": lambda genes: genes.sum(-1) % 2 == 0}
  whole = search(domain, name, toy.scorer(domain.space), 4, checks=checks)
  log = [json.loads(json.dumps(trial)) for trial in trials(whole)]
  cut = sum(trial["generation"] < kept for trial in log) - (5 if kept % 1 else 0)
  calls = collections.Counter()

  def score(genes):
    calls[len(genes)] += 1
    return toy.scorer(domain.space)(genes)

  again = search(domain, name, score, 4, known=log[:cut], checks=checks)
  assert trials(again) == trials(whole) == log
  assert [generation.replayed for generation in again] == [number < int(kept) for number in range(4)]
  assert again[-1].rejected == whole[-1].rejected and again[-1].duplicates == whole[-1].duplicates
  assert sum(calls.values()) == 4 - int(kept)


@strategies
def test_programs_compiled_do_not_depend_on_the_generations(toy, name):
  """A short search compiles all that a longer one needs."""
  compiled, counts = [], []
  jax.monitoring.register_event_duration_secs_listener(
      lambda event, _, **more: compiled.append(event) if event.endswith("backend_compile_duration") else None)
  domain = dataclasses.replace(toy.make())  # a new one, for which nothing is compiled yet
  jax.random.key(0)
  for generations in (3, 8):
    compiled.clear()
    search(domain, name, toy.scorer(domain.space), generations)
    counts.append(len(compiled))
  assert 1 <= counts[0] <= 3 and counts[1] == 0


@strategies
def test_every_network_is_scored_once(toy, name):
  domain = toy.small
  seen = collections.Counter()

  def score(genes):
    seen.update(map(bytes, genes))
    return toy.scorer(domain.space)(genes)

  run = search(domain, name, score)
  everything = domain.space.everything()
  assert max(seen.values()) == 1
  assert set(seen) <= set(map(bytes, everything[domain.meets(everything)]))
  last = run[-1]
  assert last.asked == last.duplicates + last.evaluated and last.evaluated == len(seen) == len(trials(run))
  assert last.asked == sum(len(generation.trials) for generation in run) + last.duplicates > len(everything)


@strategies
def test_each_limit_counts_whom_it_turned_away(toy, name):
  domain = toy.large
  run = search(domain, name, toy.scorer(domain.space), 3)
  counts = np.array([[generation.rejected[limit] for limit in domain.limits] for generation in run])
  assert (np.diff(counts, axis=0, prepend=0) > 0).all()


@strategies
def test_a_refused_network_is_not_scored_and_never_wins(toy, name):
  domain = toy.small
  shallow = lambda genes: genes[:, 1] == 0
  run = search(domain, name, toy.scorer(domain.space), 4, checks={"latency_ms": shallow})
  found = trials(run)
  assert found and all(trial["genes"][1] == 0 for trial in found)
  last = run[-1]
  assert last.rejected["latency_ms"] == last.asked - last.duplicates - last.evaluated > 0


def test_records_are_plain_and_complete(toy):
  domain = toy.large
  record = trials(search(domain, "random", toy.scorer(domain.space), 1))[0]
  assert list(record) == ["generation", "genes", "fitness", "loss", "flops", "params", "source", "split"]
  assert record["loss"] == -record["fitness"] and record["source"] == "table" and record["split"] == "val"
  assert record["flops"] == domain.costs["flops"].exact(np.array(record["genes"]))
  assert json.loads(json.dumps(record)) == record


def test_infeasible_limits_are_refused_at_the_call(toy):
  strategy = lookup(TABLE, "evolution")()
  with pytest.raises(UserError, match="search.limits.flops=10 "):
    loop.run(jax.random.key(0), toy.make(flops=10), strategy, lambda genes: 1 / 0, 3)


def test_the_test_split_is_refused(toy):
  def score(genes):
    return Score(np.zeros(len(genes)), {}, "inherited", "test")

  with pytest.raises(ValueError, match="test split"):
    search(toy.small, "random", score)
