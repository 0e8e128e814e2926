"""The contract of every strategy, over the table, and the bookkeeping of the loop."""

import collections
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.registry import lookup
from nasformer.ops.stats import pareto_mask
from nasformer.predict.nar import Nar
from nasformer.predict.pairwise import Pairwise
from nasformer.search import TABLE, loop
from nasformer.types import Score, UserError

strategies = pytest.mark.parametrize("name", TABLE)
SMALL = {  # of those that fit a model in every generation
    "ranknas": {"labels": 32, "batch": 16, "memory": 64, "turns": 3, "ranker": Pairwise(num_members=2, steps=20)},
    "nar": {"labels": 32, "batch": 16, "memory": 64, "pool": 128, "ranker": Nar(num_tiers=3, width=8, steps=10)},
}

quick_strategies = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SMALL else name for name in TABLE])


def domain_of(toy, name):
  """The large domain; the small one, for which most is compiled already, for those that take long to compile."""
  return toy.small if name in SMALL else toy.large


def make(name):
  return lookup(TABLE, name)(**(SMALL[name] if name in SMALL else {}))


def search(domain, name, score, generations=4, seed=0, **options):
  strategy = make(name)
  return list(loop.run(jax.random.key(seed), domain, strategy, score, generations, **options))


def trials(run):
  return [trial for generation in run for trial in generation.trials]


@quick_strategies
def test_finds_the_toy_optimum_within_budget(toy, name):
  domain = toy.small
  everything = domain.space.everything()
  optimum = toy.quality(domain.space, everything[domain.meets(everything)]).max()
  found = trials(search(domain, name, toy.scorer(domain.space), 20))
  assert max(trial["fitness"] for trial in found) == pytest.approx(optimum, abs=1e-6)


@functools.cache
def linear(domain, name, scorer):
  """Scores of searches by random linear objectives, one after another, for each of 8 seeds."""
  rows = []
  for seed in range(8):
    worth = np.random.default_rng(seed).normal(size=domain.space.num_genes)
    run = search(domain, name, scorer(domain.space, lambda _, genes: genes @ worth), 8, seed)
    rows.append([trial["fitness"] for trial in trials(run)])
  return rows


@pytest.mark.slow
@quick_strategies
def test_beats_chance_on_random_linear_objectives(toy, name):
  if name == "random":
    pytest.skip("it is chance")
  domain = toy.large
  both = [linear(domain, who, toy.scorer) for who in (name, "random")]
  most = min(map(len, sum(both, [])))  # evaluations of each
  mine, chance = (np.array([max(row[:most]) for row in rows]) for rows in both)
  assert most > 100 and mine.mean() > chance.mean() and (mine >= chance).sum() >= 5


@quick_strategies
def test_several_objectives_give_the_front_of_the_toy(toy, name):
  """Quality against both costs, within two limits: most of the true front is found."""
  domain = toy.small
  everything = domain.space.everything()
  everything = everything[domain.meets(everything)]
  quality = toy.quality(domain.space, everything)
  columns = np.stack([quality, *(-domain.costs[cost].exact(everything) for cost in ("flops", "params"))], 1)
  best = set(map(bytes, everything[pareto_mask(columns, (True,) * 3)]))
  run = search(domain, name, toy.scorer(domain.space), 12, minimise=("flops", "params"))
  found = {bytes(np.array(trial["genes"], np.int32)) for trial in trials(run)}
  assert len(found & best) >= 0.8 * len(best) > 3


@quick_strategies
def test_the_front_is_repeated_from_a_log_where_scores_fail(toy, name):
  """With two objectives and NaN for a third of the networks."""
  domain = toy.large
  value = lambda space, genes: np.where(genes.sum(-1) % 3 == 0, np.nan, toy.quality(space, genes))
  run = functools.partial(search, domain, name, generations=4, minimise=("flops",))
  whole = trials(run(score=toy.scorer(domain.space, value)))
  assert any(np.isnan(trial["fitness"]) for trial in whole) and whole[-1]["generation"] == 3
  again = trials(run(score=toy.scorer(domain.space, value), known=whole[: len(whole) // 2]))
  assert list(map(repr, again)) == list(map(repr, whole))


@strategies
def test_limits_are_never_broken(toy, name):
  domain = domain_of(toy, name)
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
  domain = domain_of(toy, name)
  one, two = (search(domain, name, toy.scorer(domain.space), 3, seed=4) for _ in range(2))
  assert one == two
  assert trials(one) != trials(search(domain, name, toy.scorer(domain.space), 3, seed=5))


EVEN = {"odd": loop.Measured(lambda genes: genes.sum() % 2, limit=0)}


@functools.cache
def whole_search(domain, name, scorer):
  """An undisturbed one."""
  return search(domain, name, scorer(domain.space), 4, measured=EVEN)


@strategies
@pytest.mark.parametrize("kept", [0, 1, 2.5, 4])
def test_interrupted_and_repeated_equals_uninterrupted(toy, name, kept):
  """From a log through JSON that ends after, or in the middle of, a generation."""
  domain = domain_of(toy, name)
  whole = whole_search(domain, name, toy.scorer)
  log = [json.loads(json.dumps(trial)) for trial in trials(whole)]
  sizes = collections.Counter(trial["generation"] for trial in log)
  cut = sum(sizes[number] for number in range(int(kept))) + (sizes[int(kept)] // 2 if kept % 1 else 0)
  calls = collections.Counter()

  def score(genes):
    calls[len(genes)] += 1
    return toy.scorer(domain.space)(genes)

  again = search(domain, name, score, 4, known=log[:cut], measured=EVEN)
  assert trials(again) == trials(whole) == log
  assert [generation.replayed for generation in again] == [number < int(kept) for number in range(4)]
  assert again[-1].rejected == whole[-1].rejected and again[-1].duplicates == whole[-1].duplicates
  assert sum(calls.values()) == 4 - int(kept)


def test_what_no_longer_costs_what_the_log_says_is_scored_anew(toy):
  domain = toy.small
  run = functools.partial(search, domain, "random", toy.scorer(domain.space))
  whole = trials(run())
  again = run(known=[{**trial, "flops": trial["flops"] + (trial["generation"] == 2)} for trial in whole])
  assert [generation.replayed for generation in again] == [True, True, False, False] and trials(again) == whole


@strategies
def test_programs_compiled_do_not_depend_on_the_generations(toy, name):
  """A short search compiles all that a longer one needs."""
  compiled, counts = [], []
  jax.monitoring.register_event_duration_secs_listener(
      lambda event, _, **more: compiled.append(event) if event.endswith("backend_compile_duration") else None)
  jax.jit(lambda: 0)()
  assert len(compiled) == 1
  for generations in (3, 8):
    compiled.clear()
    search(toy.small, name, toy.scorer(toy.small.space), generations)
    counts.append(len(compiled))
  assert counts[0] <= 5 and counts[1] == 0


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
  assert last.asked == sum(len(generation.trials) for generation in run) + last.duplicates and last.duplicates > 0


@quick_strategies
def test_each_limit_counts_whom_it_turned_away(toy, name):
  domain = toy.large
  run = search(domain, name, toy.scorer(domain.space), 3)
  counts = np.array([[generation.rejected[limit] for limit in domain.limits] for generation in run])
  assert (np.diff(counts, axis=0, prepend=0) > 0).all()


def test_ranknas_does_not_propose_again_what_it_no_longer_learns_from(toy):
  """Most networks of a space were scored, and their labels say the contrary of those that are learned from."""
  domain, strategy = toy.small, make("ranknas")
  everything = domain.space.everything()
  genes = everything[domain.meets(everything)]
  genes = genes[np.arange(len(genes)) % 4 > 0]
  scores = toy.quality(domain.space, genes)
  scores[np.argsort(-scores)[:16]] -= 100
  genes, scores = jnp.asarray(genes), jnp.asarray(scores[:, None], jnp.float32)
  state = strategy.tell(strategy.init(jax.random.key(0), domain), genes, scores)
  assert len(genes) > strategy.memory and state.knows(genes).all() and not state.best(strategy.memory).knows(genes).all()
  asked = loop._ask(strategy, domain, jax.random.key(0), 1, state).genes
  assert not state.knows(asked).any()


@strategies
def test_a_refused_network_is_not_scored_and_never_wins(toy, name):
  domain = toy.small
  deep = lambda genes: 0.5 + genes[1]
  run = search(domain, name, toy.scorer(domain.space), 4, measured={"latency_ms": loop.Measured(deep, 0.5)})
  found = trials(run)
  assert found and all(trial["genes"][1] == 0 and trial["latency_ms"] == 0.5 for trial in found)
  last = run[-1]
  assert last.rejected["latency_ms"] == last.asked - last.duplicates - last.evaluated > 0


@quick_strategies
def test_what_is_measured_can_be_an_objective(toy, name):
  """By a fake timer that orders networks as their FLOPs do, and so leads to the same trials. Each network is timed once."""
  domain, timed = toy.large, collections.Counter()

  def milliseconds(genes):
    timed[bytes(genes)] += 1
    return 1e-9 * domain.costs["flops"].exact(genes).item()

  run = functools.partial(search, domain, name, toy.scorer(domain.space), 4)
  found = trials(run(measured={"latency_ms": loop.Measured(milliseconds)}, minimise=("latency_ms",)))
  assert all(trial["latency_ms"] == 1e-9 * trial["flops"] for trial in found)
  strip = lambda rows: [{key: row[key] for key in row if key != "latency_ms"} for row in rows]
  assert strip(found) == trials(run(minimise=("flops",)))
  assert max(timed.values()) == 1 and sum(timed.values()) == len(found)


def test_what_cannot_be_timed_never_wins(toy):
  """The clock fails for every network that begins with a full layer."""
  domain = toy.small
  clock = {"latency_ms": loop.Measured(lambda genes: np.nan if genes[2] == 0 else float(genes[0]))}
  seen = []

  class Listening(lookup(TABLE, "evolution")):
    def tell(self, state, genes, scores):
      state = super().tell(state, genes, scores)
      jax.debug.callback(lambda *told: seen.append(tuple(map(np.asarray, told))), state.genes, state.scores)
      return state

  small = Listening(population=16, num_parents=8, num_mutations=8, num_crossovers=8)
  run = loop.run(jax.random.key(0), domain, small, toy.scorer(domain.space), 4, measured=clock, minimise=("latency_ms",))
  assert any(np.isnan(trial["latency_ms"]) for trial in trials(run))
  jax.effects_barrier()
  parents, scores = seen[-1]
  alive = np.isfinite(scores).all(1)
  assert alive.any() and (parents[alive, 2] == 1).all() and not alive[(parents[:, 2] == 0)].any()


@quick_strategies
def test_a_search_begins_anew_until_something_is_within_the_limits(toy, name):
  """All of the first generation is refused; its scores would not have told how many objectives there are."""
  domain, first = toy.large, {}

  def late(genes):
    return 2.0 if bytes(genes) in first else 1.0

  talk = loop.rounds(jax.random.key(0), domain, make(name), {"late": loop.Measured(lambda genes: 1.0)}, ())
  first.update((bytes(row), row) for row in talk.send(None).new)
  talk = loop.rounds(jax.random.key(0), domain, make(name), {"late": loop.Measured(late, 1.5)}, ())
  found = talk.send(None)
  assert found.new == () and found.rejected["late"] == len(first)
  for _ in range(3):
    found = talk.send([(1.0, float(i)) for i in range(len(found.new))])
    assert found.new and not first.keys() & set(map(bytes, found.new))


def test_records_are_plain_and_complete(toy):
  domain = toy.large
  record = trials(search(domain, "random", toy.scorer(domain.space), 1))[0]
  assert list(record) == ["generation", "genes", "fitness", "loss", "flops", "params", "source", "split"]
  assert record["loss"] == -record["fitness"] and record["source"] == "table" and record["split"] == "val"
  assert record["flops"] == domain.costs["flops"].exact(np.array(record["genes"]))
  assert json.loads(json.dumps(record)) == record


@strategies
def test_infeasible_limits_are_refused_at_the_call(toy, name):
  strategy = make(name)
  with pytest.raises(UserError, match="search.limits.flops=10 "):
    loop.run(jax.random.key(0), toy.make(flops=10), strategy, lambda genes: 1 / 0, 3)


@pytest.mark.parametrize("minimise, told", [(("flop",), "no cost 'flop' .there are: flops, params"),
                                            (("flops", "flops"), "names a cost twice")])
def test_senseless_objectives_are_refused_at_the_call(toy, minimise, told):
  with pytest.raises(UserError, match=told):
    loop.run(jax.random.key(0), toy.small, lookup(TABLE, "nsga2")(), lambda genes: 1 / 0, 3, minimise=minimise)


def test_what_a_strategy_is_told(toy):
  """The fitness, further objectives as they are sent, then costs relative to the least; a refused network has -inf."""
  domain, told = toy.small, []

  class Listening(lookup(TABLE, "random")):
    def tell(self, state, genes, scores):
      jax.debug.callback(lambda *seen: told.append(tuple(map(np.asarray, seen))), genes, scores)
      return state

  talk = loop.rounds(jax.random.key(0), domain, Listening(5), EVEN, ("params",))
  new = talk.send(None).new
  sent = {bytes(row): (float(i), -2.0 * i) for i, row in enumerate(new)}
  talk.send(list(sent.values()))
  jax.effects_barrier()
  least = domain.costs["params"].minimum()[0]
  genes, scores = told[0]
  assert scores.shape == (5, 3) and scores.dtype == np.float32
  for row, objectives in zip(genes, scores):
    cost = 1 - domain.costs["params"].exact(row) / least
    wanted = [*sent[bytes(row)], cost] if row.sum() % 2 == 0 else [-np.inf] * 3
    np.testing.assert_allclose(objectives, wanted, rtol=1e-6)


def test_the_test_split_is_refused(toy):
  def score(genes):
    return Score(np.zeros(len(genes)), {}, "inherited", "test")

  with pytest.raises(ValueError, match="test split"):
    search(toy.small, "random", score)
