"""A search that a person drives: it is the search of the loop, goes on from its file, and says what was wrong."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nasformer
from nasformer import asking, attention, registry
from nasformer.nets.vision import Vision, VisionNet
from nasformer.ops.stats import pareto_mask
from nasformer.search import loop
from nasformer.search.costs import CostTable
from nasformer.search.domain import Domain
from nasformer.search.evolution import Evolution
from nasformer.space.tiny import Tiny
from nasformer.types import Score, UserError

SMALL = Evolution(population=8, num_parents=4, num_mutations=4, num_crossovers=4)
LIMITS = {"params": 250_000}


@pytest.fixture(autouse=True, scope="module")
def one_domain():
  """Searches of one domain compile once."""
  counted, domain = functools.cache(asking._counted), functools.cache(
      lambda space, costs, limits: Domain(space, dict(costs), dict(limits)))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(asking, "_counted", counted)
    patch.setattr(asking, "Domain", lambda space, costs, limits: domain(space, *(tuple(x.items()) for x in (costs, limits))))
    yield


def value(spec):
  """Deep and narrow is good."""
  return spec.depth - spec.embed_dim / 100


def search(path=None, **settings):
  return nasformer.Search(**{"space": "tiny", "strategy": SMALL, "limits": LIMITS, "path": path, **settings})


def drive(mine, turns, score=lambda candidate: value(candidate.spec)):
  for _ in range(turns):
    mine.tell([score(candidate) for candidate in mine.ask()])
  return mine


def test_under_ten_lines(tmp_path):
  mine = nasformer.Search(space="tiny", strategy="aging_evolution", limits={"params": 1e6}, seed=0, path=tmp_path / "mine.jsonl")
  for _ in range(3):
    candidates = mine.ask()
    mine.tell([value(candidate.spec) for candidate in candidates])
  best = mine.best(3)
  assert len(best) == 3 and best[0].scores == (4 - 32 / 100,) and best[0].spec.depth == best[0].values["depth"] == 4


def test_it_is_the_search_of_the_loop():
  mine = drive(search(), 4)
  domain, space = mine.domain, mine.settings.space

  def score(genes):
    return Score(np.array([value(space.decode(row)) for row in genes]), {}, "table")

  run = loop.run(jax.random.key(0), domain, SMALL, score, 4)
  found = [trial for generation in run for trial in generation.trials]
  assert [list(trial.genes) for trial in mine.trials] == [trial["genes"] for trial in found]
  assert [trial.scores[0] for trial in mine.trials] == [trial["fitness"] for trial in found]
  assert [trial.costs for trial in mine.trials] == [{name: trial[name] for name in ("params", "flops")} for trial in found]
  assert all(trial.costs["params"] <= LIMITS["params"] for trial in mine.trials)


def test_costs_are_those_of_the_network():
  """By default of images of 224 x 224 and 1000 classes; else of the family that was given."""
  counted = lambda net, candidate: (net.count_spec(candidate.spec).params, 2 * net.count_spec(candidate.spec).products)
  kinds = tuple((name, registry.lookup(attention.TABLE, name)()) for name in Tiny().kinds)
  for given, net in ((None, VisionNet(Vision(), (224, 224, 3), 1000, kinds)),
                     (VisionNet(Vision(patch_size=2), (8, 8, 1), 10, kinds),) * 2):
    for candidate in search(net=given, limits={}).ask():
      assert (candidate.costs["params"], candidate.costs["flops"]) == counted(net, candidate)


def test_translation_spaces_have_costs_too():
  mine = search(space="tiny_translation", limits={"flops": 1e9}, strategy={"name": "random", "population": 5})
  assert len(mine.ask()) == 5 and all(0 < candidate.costs["flops"] <= 1e9 for candidate in mine.ask())


def test_costs_of_ones_own():
  space = Tiny()
  table = CostTable(space, ((((space.index["depth"],), np.array([1, 2, 3])),)))
  mine = search(space=space, costs={"layers": table}, limits={"layers": 2})
  assert all(candidate.costs["layers"] == candidate.spec.depth - 1 <= 2 for candidate in mine.ask())
  assert set(mine.ask()[0].costs) == {"params", "flops", "layers"}


def test_costs_that_do_not_add_up(tmp_path):
  """A stopwatch that is asked once for each network, limits candidates, and is an objective; a search goes on without it."""
  timed = []

  def milliseconds(spec):
    timed.append(spec)
    return spec.depth + spec.embed_dim / 1000

  def make(cost, path=tmp_path / "mine.jsonl"):
    return search(path, costs={"latency_ms": cost}, limits={**LIMITS, "latency_ms": 3.05}, minimise=("latency_ms",))

  whole = drive(make(milliseconds), 4)
  assert len(timed) == len(set(timed)) > len(whole.trials) > 0
  assert all(trial.costs["latency_ms"] == trial.spec.depth + trial.spec.embed_dim / 1000 <= 3.05 for trial in whole.trials)
  again = make(lambda spec: pytest.fail("it was timed before"))
  assert again.trials == whole.trials and [c.genes for c in again.ask()] == [c.genes for c in whole.ask()]
  columns = np.array([[trial.scores[0], -trial.costs["latency_ms"]] for trial in whole.trials])
  assert whole.front() == [trial for trial, best in zip(whole.trials, pareto_mask(columns, (True, True))) if best]
  with pytest.raises(UserError, match="Search.costs.latency_ms gave 'soon' for a network: a number is wanted"):
    make(lambda spec: "soon", None)
  with pytest.raises(UserError, match="Search.costs.latency_ms=3: a CostTable is wanted, or a function"):
    make(3, None)
  with pytest.raises(UserError, match="Search.limits.latency_ms=-1.0: a limit must be above 0"):
    search(costs={"latency_ms": milliseconds}, limits={"latency_ms": -1.0})


@pytest.mark.parametrize("strategy", [SMALL, {"name": "nsga2", "population": 8}])
def test_it_goes_on_from_its_file(tmp_path, strategy):
  """From every line of it that ends a generation, with failures and two objectives of one's own."""

  def score(candidate):
    return (math.nan if sum(candidate.genes) % 4 == 0 else value(candidate.spec), -candidate.spec.layers[0].ffn_dim)

  settings = dict(strategy=strategy, minimise=("flops",))
  whole = drive(search(tmp_path / "whole.jsonl", **settings), 4, score)
  assert any(math.isnan(trial.scores[0]) for trial in whole.trials)
  for turns in range(1, 5):
    path = tmp_path / f"{turns}.jsonl"
    drive(search(path, **settings), turns, score)
    again = search(path, **settings)
    asked = again.ask()
    assert drive(again, 4 - turns, score).trials[-1].genes == whole.trials[-1].genes
    assert repr(again.trials) == repr(whole.trials) and again.best(3) == whole.best(3)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert turns < 4 or asked == whole.ask()


def test_asking_again_gives_the_same():
  mine = search()
  assert mine.ask() == mine.ask() and len({candidate.genes for candidate in mine.ask()}) == len(mine.ask())


def test_several_objectives():
  mine = drive(search(strategy={"name": "nsga2", "population": 12}, minimise=("params",)), 5)
  columns = np.array([[trial.scores[0], -trial.costs["params"]] for trial in mine.trials])
  assert [trial.genes for trial in mine.front()] == [
      trial.genes for trial, best in zip(mine.trials, pareto_mask(columns, (True, True))) if best]
  best = mine.best(2)  # the ends of the front are the loneliest
  assert {candidate.genes for candidate in best} <= {trial.genes for trial in mine.front()}


def test_failures_are_never_the_best():
  mine = search()
  assert mine.best() == mine.front() == []
  candidates = mine.ask()
  mine.tell([math.nan] * (len(candidates) - 1) + [-5.0])
  assert [trial.genes for trial in mine.best(9)] == [candidates[-1].genes] == [trial.genes for trial in mine.front()]


@pytest.mark.parametrize("scores", [np.arange(8.0), jnp.arange(8.0), list(np.arange(8, dtype=np.float32)), range(8),
                                    [(float(i),) for i in range(8)], np.arange(8.0)[:, None], (i for i in range(8))])
def test_numbers_of_many_kinds(scores):
  mine = search()
  assert len(mine.ask()) == 8
  mine.tell(scores)
  assert [trial.scores for trial in mine.trials] == [(float(i),) for i in range(8)]


def test_a_space_that_is_used_up_asks_for_nothing():
  space = Tiny(embed_dim=(32,), depth=(2,), num_heads=(2,), ffn_dim=(48,), kinds=("softmax", "linear"))
  mine = search(space=space, limits={})
  while len(mine.trials) < 4:
    drive(mine, 1)
  drive(mine, 3)
  assert len(mine.trials) == 4 and mine.ask() == []


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores, told", [
    ([1.0, 2.0], r"given 2 score\(s\) for \d candidates"), (["good"] * 9, "score of candidate 0 is 'good': a number"),
    ([None] * 9, "candidate 0 is None"), ([1.0, [2.0, "x"]], "candidate 1 is .2.0, 'x'."), ([()], "candidate 0 is ()"),
    ("0.5", "a list with the score of each"), (0.5, r"tell\(0.5\)"), ({1: 2.0}, "a list with the score of each"),
])
def test_bad_scores_are_told_and_change_nothing(scores, told, tmp_path):
  mine = search(tmp_path / "mine.jsonl")
  before = mine.ask()
  with pytest.raises(UserError, match=told):
    mine.tell(scores)
  assert mine.ask() == before and mine.trials == [] and not (tmp_path / "mine.jsonl").exists()


def test_the_number_of_objectives_stays():
  mine = search()
  num = len(mine.ask())
  with pytest.raises(UserError, match="2 number.s. for a candidate and 1 for another"):
    mine.tell([1.0] * (num - 1) + [(1.0, 2.0)])
  mine.tell([(1.0, 2.0)] * num)
  num = len(mine.ask())
  with pytest.raises(UserError, match="1 number.s. for a candidate and 2 for another"):
    mine.tell([1.0] * num)


def test_telling_twice_is_refused():
  mine = drive(search(), 1)
  with pytest.raises(UserError, match="tell.. without ask"):
    mine.tell([1.0] * 8)


@pytest.mark.parametrize("settings, told", [
    ({"seed": 1}, "seed is 0 there and 1 here"), ({"limits": {"params": 1e6}}, "limits.params is 250000.0 there and 1000000.0"),
    ({"strategy": "random"}, 'strategy.name is "evolution" there and "random" here'),
    ({"space": Tiny(depth=(2, 3))}, "space.depth is"), ({"minimise": ("flops",)}, "minimise is"),
])
def test_the_file_of_another_search_is_refused(tmp_path, settings, told):
  path = tmp_path / "mine.jsonl"
  drive(search(path), 1)
  before = path.read_bytes()
  with pytest.raises(UserError, match=f"mine.jsonl holds another search .Search.{told}"):
    search(path, **settings)
  assert path.read_bytes() == before


def test_a_file_made_with_other_costs_is_refused(tmp_path):
  path, space = tmp_path / "mine.jsonl", Tiny()
  drive(search(path), 2)
  table = CostTable(space, ((((space.index["depth"],), np.array([1, 1, 900_000])),)))
  with pytest.raises(UserError, match="generation . there is not what this search asks for"):
    search(path, costs={"params": table})


def test_any_other_file_is_refused(tmp_path):
  (tmp_path / "trials.jsonl").write_text('{"arm": "mixed"}\n')
  with pytest.raises(UserError, match="trials.jsonl is not the file of a search of this kind"):
    search(tmp_path / "trials.jsonl")
  (tmp_path / "notes.txt").write_text("notes\n")
  with pytest.raises(UserError, match="line 1 of 1 is damaged"):
    search(tmp_path / "notes.txt")


@pytest.mark.parametrize("kept", [150, 800, -20])
def test_a_file_that_was_cut_short_is_repaired_on_demand(tmp_path, kept):
  """In its first line, in the first generation and in the last."""
  path = tmp_path / "mine.jsonl"
  whole = drive(search(path), 3)
  data = path.read_bytes()
  path.write_bytes(data[:kept])
  with pytest.raises(UserError, match="is damaged"):
    search(path)
  again = search(path, repair=True)
  assert len(again.trials) < len(whole.trials) and bool(again.trials) == (kept < 0)
  drive(again, 1 if kept < 0 else 3)
  assert path.read_bytes() == data and again.trials == whole.trials


@pytest.mark.parametrize("settings, told", [
    ({"space": "tinny"}, "Search.space: unknown space 'tinny': did you mean 'tiny'"),
    ({"strategy": "evolutoin"}, "Search.strategy: unknown search strategy"),
    ({"strategy": {"name": "nsga2", "populatoin": 9}}, "Search.strategy.populatoin: there is no such field"),
    ({"limits": {"param": 1e6}}, "limits.param=1000000: there is no such cost .there are: flops, params"),
    ({"limits": {"params": 10}}, "params=10 cannot be met: the smallest network of this space needs params="),
    ({"limits": {"params": "many"}}, "Search.limits.params='many': a number is wanted"),
    ({"minimise": ("latency",)}, "no cost 'latency'"), ({"seed": "x"}, "Search.seed='x': a whole number"),
    ({"strategy": {"name": "local_search", "batch": 1}}, "batch=1"),
])
def test_senseless_settings_are_refused(settings, told):
  with pytest.raises(UserError, match=told):
    search(**settings)


def test_a_space_without_a_task_needs_costs():
  from nasformer.space.base import Gene, Space

  @dataclasses.dataclass(frozen=True)
  class Mine(Space):
    @property
    def genes(self):
      return (Gene("width", (1, 2, 3)),)

    def decode(self, genes):
      return self.values(genes)

  with pytest.raises(UserError, match="no costs are known of a space of class Mine: give the network family as net= or"):
    nasformer.Search(space=Mine(), limits={"params": 5})
  mine = nasformer.Search(space=Mine(), strategy={"name": "random", "population": 50})
  assert sorted(candidate.spec["width"] for candidate in mine.ask()) == [1, 2, 3] and mine.ask()[0].costs == {}
