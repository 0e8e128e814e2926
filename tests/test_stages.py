"""The stages as a person meets them: run twice, cut short, with limits that bind. Searches use untrained supernets."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import evaluate, fitting, stages, workdir
from nasformer.compilations import counted
from nasformer.data.batching import eval_batches
from nasformer.experiment import Limits, Search, Training
from nasformer.search.evolution import Evolution
from nasformer.search.nsga2 import Nsga2
from nasformer.store import files
from nasformer.store.trials import TrialLog
from nasformer.train.optimizer import Optimizer
from nasformer.types import Score, UserError

SEARCH = Search(strategy=Evolution(population=8, num_parents=4, num_mutations=4, num_crossovers=4), generations=3,
                arms={"mixed": "", "linear": "layer.*.kind=linear"}, batch_size=64)
DOMAINS = {}  # of all searches here: those of one domain compile once


@pytest.fixture
def scored(monkeypatch):
  """Function (genes -> accuracies): searches score with it and need no supernet."""
  build = stages._domain

  def domain(run, rule, limits):
    name = run.experiment.space, rule, *limits.items()
    if name not in DOMAINS:
      DOMAINS[name] = build(run, rule, limits)
    return DOMAINS[name]

  def use(quality):
    def scorer(params, genes):
      accuracy = quality(genes)
      return Score(accuracy, {"loss": 1 - accuracy, "accuracy": accuracy}, "inherited", "val")

    scorer.chunk, scorer.chunk_seconds = 1, {}
    monkeypatch.setattr(stages, "Scorer", lambda run: scorer)

  monkeypatch.setattr(stages, "_domain", domain)
  monkeypatch.setattr(stages, "trained_supernet", lambda *_: {})
  use(lambda genes: (genes @ np.arange(1, 9)) / 100)
  return use


def winners(path, arm=None):
  rows = files.read_json(path / "winner.json")["winners"]
  return [row for row in rows if arm in (None, row["arm"])]


# -- all stages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [name for name in stages.STAGES if name not in stages.ON_DEMAND])
def test_a_stage_that_is_run_again_changes_no_byte(finished, copied, contents, make_run, stage):
  stages.STAGES[stage](make_run(copied))
  assert contents(copied) == contents(finished)


def test_no_result_holds_a_time(finished):
  for name in ("trials.jsonl", "winner.json", "results.json"):
    text = (finished / name).read_text()
    assert "second" not in text and "_ms" not in text


def test_results_are_complete(finished):
  found, results = winners(finished), files.read_json(finished / "results.json")["rows"]
  assert [(row["arm"], row["seed"], row["spec"]) for row in found] == [
      (row["arm"], row["seed"], row["spec"]) for row in results]
  assert [row["arm"] for row in results] == ["mixed", "linear", "baseline"]
  for row in results:
    assert set(row["inherited"]) == {"val"} and set(row["retrained"]) == {"val", "test"}
    assert all(set(part) == {"accuracy", "loss"} for part in row["retrained"].values())
    assert row["flops"] <= 15_000
  assert [row["arm"] for row in files.read_json(finished / "latency.json")["rows"]] == ["mixed", "linear", "baseline"]
  stages_timed = [json.loads(line)["stage"] for line in (finished / "timings.jsonl").read_text().splitlines()]
  assert {"train", "search", "search arm", "train total", "retrain total"} <= set(stages_timed)


# -- training --------------------------------------------------------------------------------------------------------


def test_a_training_that_is_cut_short_goes_on_to_the_same_weights(make_run, tmp_path, monkeypatch):
  """On two devices, with an average; stopped between two checkpoints and right before the last."""
  training = Training(steps=6, batch_size=8, ema_decay=0.5, report_every=1, checkpoint_every=2,
                      optimizer=Optimizer(weight_decay=0.0))

  def fit(path, stop=None):
    run = make_run(path)
    data = run.splits.info.image_shape
    init = lambda key: {"weights": jax.random.normal(key, (np.prod(data), 10)), "bias": jnp.zeros(10)}

    def loss(params, batch, keys):
      noise = jax.random.normal(keys.micro, (10,))
      logits = batch["image"].reshape(8, -1) / 16 @ params["weights"] + params["bias"] + noise
      return run.experiment.task.loss(logits, batch).mean(), ({}, None)

    def write_or_die(log, row):
      if stop and row["step"] == stop:
        raise Killed
      write(log, row)

    with monkeypatch.context() as patch:
      patch.setattr(fitting.JsonlWriter, "write", write_or_die)
      trained = fitting.Fitting(run, "toy", path / "toy", 0, training, init)
      trained.fit(loss)
      return trained.weights()

  class Killed(Exception):
    pass

  write = fitting.JsonlWriter.write
  for stop in (4, 6):
    with pytest.raises(Killed):
      fit(tmp_path / "cut", stop)
  assert jax.tree.all(jax.tree.map(np.array_equal, fit(tmp_path / "cut"), fit(tmp_path / "whole")))
  metrics = [tmp_path / name / "toy" / "metrics.jsonl" for name in ("cut", "whole")]
  assert metrics[0].read_bytes() == metrics[1].read_bytes()


# -- search ----------------------------------------------------------------------------------------------------------


def test_a_search_goes_on_from_any_line_of_its_log(scored, make_run, tmp_path):
  def search(path):
    stages.search(make_run(path, seeds=(0, 1), search=SEARCH))
    return {name: (path / name).read_bytes() for name in ("trials.jsonl", "winner.json")}

  whole = search(tmp_path)
  lines = whole["trials.jsonl"].splitlines(keepends=True)
  assert {(row["arm"], row["seed"]) for row in map(json.loads, lines)} == {
      (arm, seed) for arm in ("mixed", "linear") for seed in (0, 1)}
  foreign = json.dumps({**json.loads(lines[0]), "generation": 99}).encode() + b"\n"
  half = len(lines) // 2
  for cut, rest in ((0, []), (1, []), (half, []), (half, [foreign]), (len(lines) - 1, []), (len(lines), [foreign])):
    (tmp_path / "winner.json").unlink()
    (tmp_path / "trials.jsonl").write_bytes(b"".join(lines[:cut] + rest))
    assert search(tmp_path) == whole


def test_a_failed_candidate_never_wins_and_is_remembered(scored, make_run, contents, tmp_path):
  """A score of NaN for every network of two layers."""
  scored(lambda genes: np.where(genes[:, 1] == 1, np.nan, (genes @ np.arange(8)) / 100))
  run = make_run(tmp_path, search=dataclasses.replace(SEARCH, baseline="depth=1"))
  stages.search(run)
  trials = TrialLog(tmp_path / "trials.jsonl").read()
  assert any(np.isnan(trial["fitness"]) for trial in trials) and any(trial["fitness"] > 0 for trial in trials)
  assert all(len(row["spec"]["layers"]) == 1 for row in winners(tmp_path))
  before = contents(tmp_path)
  (tmp_path / "winner.json").unlink()
  stages.search(run)
  assert contents(tmp_path) == before


def test_the_winner_is_the_best_and_within_the_margin_the_cheapest(scored, make_run, tmp_path):
  scored(lambda genes: 0.5 + 0.001 * (genes @ np.arange(8)))
  for margin in (0.0, 3.0):
    path = tmp_path / str(margin)
    stages.search(make_run(path, search=dataclasses.replace(SEARCH, margin=margin)))
    trials = [trial for trial in TrialLog(path / "trials.jsonl").read() if trial["arm"] == "mixed"]
    best = max(trial["accuracy"] for trial in trials)
    near = [trial for trial in trials if trial["accuracy"] >= best - margin * (best * (1 - best) / 64) ** 0.5]
    (row,) = winners(path, "mixed")
    assert row["flops"] == min(trial["flops"] for trial in near)


@pytest.mark.parametrize("limits", [Limits(), Limits(flops=12e3, params=1200.0)])
def test_limits_bind_everyone_and_the_baseline_uses_what_there_is(scored, make_run, tmp_path, limits):
  run = make_run(tmp_path, search=dataclasses.replace(SEARCH, limits=limits, arms={"mixed": ""}))
  stages.search(run)
  bounds = limits.counted()
  (main,) = winners(tmp_path, "mixed")
  for row in [*TrialLog(tmp_path / "trials.jsonl").read(), *winners(tmp_path)]:
    assert all(row[name] <= bound for name, bound in bounds.items())
  for row in winners(tmp_path):
    spec = run.experiment.space.decode(np.array(row["genes"]))
    count = run.supernet.net.count_spec(spec)
    assert (row["params"], row["flops"]) == (count.params, 2 * count.products)
  bounds = {"flops": main["flops"], **bounds}
  alike = dataclasses.replace(run.experiment.space, restrict="layer.*.kind=softmax").uniform_genomes()
  costs = [run.supernet.net.count_spec(run.experiment.space.decode(genes)) for genes in alike]
  inside = [2 * cost.products for cost in costs
            if 2 * cost.products <= bounds["flops"] and cost.params <= bounds.get("params", np.inf)]
  (baseline,) = winners(tmp_path, "baseline")
  assert baseline["flops"] == max(inside)
  assert set(main["rejected"]) == set(limits.counted())


def test_a_limit_on_latency_is_measured_once_for_each_network(scored, make_run, contents, tmp_path, monkeypatch):
  """A network takes a millisecond for every layer and head beyond the first."""
  measured = []

  def measure(run, genes):
    measured.append(tuple(genes))
    return {"median_ms": 1.0 + int(genes[1]) + int(genes[3])}

  monkeypatch.setattr(stages.timing, "measure", measure)
  search = lambda limit: stages.search(make_run(tmp_path, search=dataclasses.replace(
      SEARCH, limits=Limits(latency_ms=limit))))
  with pytest.raises(UserError, match="search.limits.latency_ms=0.5 cannot be met: the smallest network .* takes 1 ms"):
    search(0.5)
  search(2.0)
  assert all(genes[1] + genes[3] <= 1 for genes in (row["genes"] for row in winners(tmp_path)))
  assert len(measured) == len(set(measured))
  (main,) = winners(tmp_path, "mixed")
  assert main["rejected"]["latency_ms"] == main["asked"] - main["duplicates"] - main["evaluated"] > 0
  before, times = contents(tmp_path), len(measured)
  (tmp_path / "winner.json").unlink()
  search(2.0)
  assert contents(tmp_path) == before and len(measured) == times


def test_costs_can_be_objectives(scored, make_run, tmp_path):
  """The quality cannot be improved, so only the cheapest networks are worth anything."""
  scored(lambda genes: np.zeros(len(genes)))
  search = dataclasses.replace(SEARCH, strategy=Nsga2(population=8), arms={"any": ""}, generations=6, minimise=("flops",))
  stages.search(make_run(tmp_path, search=search))
  flops = [trial["flops"] for trial in TrialLog(tmp_path / "trials.jsonl").read()]
  assert np.mean(flops[-8:]) < np.mean(flops[:8])  # the first ones are drawn at random
  with pytest.raises(UserError, match="config.search.arms.mixed: search.minimise=.*no cost 'flop' .there are: flops, latency_ms, memory_mb"):
    stages._domains(make_run(tmp_path, search=dataclasses.replace(SEARCH, minimise=("flop",))))


@pytest.mark.parametrize("name", ["latency_ms", "memory_mb", "training_memory_mb"])
def test_what_must_be_compiled_can_be_an_objective(scored, make_run, contents, tmp_path, monkeypatch, name):
  """One more for every gene's step; of equals by quality the winner is the cheapest by what is minimised, not by FLOPs."""
  scored(lambda genes: np.zeros(len(genes)))
  measured = []

  def cost(run, genes):
    measured.append(tuple(genes.tolist()))
    return 10.0 - genes[0] + genes[2:].sum()

  monkeypatch.setattr(stages.timing, "measure", lambda run, genes: {"median_ms": cost(run, genes)})
  monkeypatch.setattr(stages.footprint, "in_use", cost)
  monkeypatch.setattr(stages.footprint, "in_training", cost)
  search = dataclasses.replace(SEARCH, strategy=Nsga2(population=8), arms={"any": ""}, generations=6, minimise=(name,))
  stages.search(make_run(tmp_path, search=search))
  trials = TrialLog(tmp_path / "trials.jsonl").read()
  costs = [trial[name] for trial in trials]
  assert costs == [10.0 - trial["genes"][0] + sum(trial["genes"][2:]) for trial in trials]
  assert np.mean(costs[-8:]) < np.mean(costs[:8])
  (main,) = winners(tmp_path, "any")
  assert 10.0 - main["genes"][0] + sum(main["genes"][2:]) == min(costs) and "predicted_ms" not in main
  assert len(measured) == len(set(measured)) == len(trials)
  before = contents(tmp_path)
  (tmp_path / "winner.json").unlink()
  TrialLog(tmp_path / "trials.jsonl").truncate_to(len(trials) // 2)
  stages.search(make_run(tmp_path, search=search))
  assert contents(tmp_path) == before and len(measured) == len(trials)


def test_a_search_without_a_survivor_is_told(scored, make_run, tmp_path, monkeypatch):
  """Only the smallest network keeps the limit, and it is not among the first that are drawn."""
  search = dataclasses.replace(SEARCH, limits=Limits(latency_ms=2.0), arms={"any": ""}, generations=1)
  run = make_run(tmp_path, search=search)
  smallest = stages.timing.cheapest(run, run.experiment.space).tolist()
  monkeypatch.setattr(stages.timing, "measure", lambda run, genes: {"median_ms": 1.0 if genes.tolist() == smallest else 9.0})
  with pytest.raises(UserError, match="search.limits.latency_ms=2.0: none of .* proposals of arm 'any' keeps it"):
    stages.search(make_run(tmp_path, search=search))


def test_the_programs_of_a_search_do_not_grow_with_its_candidates(make_run, tmp_path, monkeypatch):
  """Ten generations compile what the first three compile, however many are new in each."""
  strategy = Evolution(population=24, num_parents=8, num_mutations=8, num_crossovers=8)
  search = Search(strategy=strategy, generations=10, arms={"mixed": ""}, batch_size=64)
  run = make_run(tmp_path, search=search)
  params = jax.jit(run.supernet.init)(jax.random.key(0))
  monkeypatch.setattr(stages, "trained_supernet", lambda *_: params)
  seen, append = [], TrialLog.append
  with counted() as count:
    monkeypatch.setattr(TrialLog, "append", lambda log, trials: (seen.append(count.num), append(log, trials)))
    stages.search(run)
  (main,) = winners(tmp_path, "mixed")
  assert main["asked"] == 24 + 9 * 16 and main["evaluated"] > 60 and len(seen) == 10
  assert len(set(seen[2:])) == 1
  assert count.num <= seen[-1] + 1  # and the hand-made network


# -- scores ----------------------------------------------------------------------------------------------------------


def test_attention_layers_have_a_cost_of_their_own(make_run, tmp_path):
  """The table of another device is refused by name."""
  rows = [{"kind": kind, "mode": "bidirectional", "what": "forward", "length": length, "ms": 1.0 + (kind == "linear")}
          for kind in ("softmax", "linear") for length in (4, 64)]
  table = tmp_path / "attention.jsonl"

  def domains(device):
    table.write_text("".join(json.dumps(row) + "\n" for row in [{"device": device, "width": 8}, *rows]))
    run = make_run(tmp_path / "run")
    search = dataclasses.replace(run.experiment.search, attention_table=str(table), minimise=("attention_ms",))
    return stages._domains(make_run(tmp_path / "run", search=search))[0]

  cost = domains(workdir.device())["mixed"].costs["attention_ms"]
  for kind, expected in (("softmax", 2.0), ("linear", 4.0)):  # two layers whose heads are together as wide as the table's
    genes = cost.space.genome({"depth": 2} | {f"layer.{i}.{gene}": value for i in range(2)
                                              for gene, value in (("kind", kind), ("num_heads", 2))})
    assert cost.exact(genes) == pytest.approx(expected)
  with pytest.raises(UserError, match="was measured on 'elsewhere'"):
    domains("elsewhere")
