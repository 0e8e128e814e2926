"""A work directory becomes a Run; gaps stay gaps, damage is named."""

import json

import numpy as np
import pytest

from nasformer.report.load import load
from nasformer.types import EncoderSpec, LayerSpec, UserError


def read(path):
  return json.loads(path.read_text())


def test_reads_every_file(workdir):
  path = workdir(seeds=(0, 1), limits={"flops": 1e6, "latency_ms": 0.7})
  run = load(path)
  winners, results = read(path / "winner.json")["winners"], read(path / "results.json")["rows"]
  assert run.arms == ("mixed", "softmax", "linear", "baseline") and run.seeds == (0, 1)
  assert run.limits == {"flops": 1e6, "latency_ms": 0.7} and run.experiment["commit"] == "0123abc"
  assert len(run.models) == 8 and len(run.trials) == 6 and len(run.curves) == 2 + 8 and len(run.timings) == 2
  for model, winner, result in zip(run.models, winners, results):
    for name in ("arm", "seed", "params", "flops"):
      assert getattr(model, name) == winner[name]
    assert model.spec == EncoderSpec(winner["spec"]["embed_dim"],
                                     tuple(LayerSpec(**layer) for layer in winner["spec"]["layers"]))
    assert model.val_inherited == result["inherited"]["val"]["accuracy"]
    assert model.val_retrained == result["retrained"]["val"]["accuracy"]
    assert model.test_retrained == result["retrained"]["test"]["accuracy"]
    assert model.search_ms == winner["flops"] / 1.6e6
    assert (model.search is None) == (model.arm == "baseline")
  assert [model.seed for model in run.of("linear")] == [0, 1]


def test_trials_keep_their_order_and_curves_their_owner(workdir):
  path = workdir(seeds=(0, 1), generations=3, population=4)
  lines = [json.loads(line) for line in (path / "trials.jsonl").read_text().splitlines()]
  run = load(path)
  for trials in run.trials:
    mine = [row for row in lines if (row["arm"], row["seed"]) == (trials.arm, trials.seed)]
    for name in ("generation", "fitness", "accuracy", "params", "flops"):
      np.testing.assert_array_equal(getattr(trials, name), [row[name] for row in mine])
  assert [(curve.arm, curve.seed) for curve in run.curves[:3]] == [(None, 0), (None, 1), ("baseline", 0)]
  assert run.curves[0].step[:2].tolist() == [50, 100]


@pytest.mark.parametrize("until, models, tested, trials", [
    ("train", 0, 0, 0), ("search", 4, 0, 3), ("retrain", 4, 0, 3), ("evaluate", 4, 4, 3)])
def test_a_run_that_is_not_finished_is_read_as_far_as_it_went(workdir, until, models, tested, trials):
  run = load(workdir(until=until))
  assert len(run.models) == models and len(run.trials) == trials
  assert sum(model.test_retrained is not None for model in run.models) == tested
  assert (run.latency is not None) == (until == "evaluate")


def test_a_failed_evaluation_is_nan(workdir):
  path = workdir(until="search")
  rows = [json.loads(line) for line in (path / "trials.jsonl").read_text().splitlines()]
  rows[1] |= {"fitness": None, "accuracy": None}
  (path / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  trials = load(path).trials[0]
  assert np.isnan(trials.fitness[1]) and np.isnan(trials.accuracy[1]) and np.isfinite(trials.fitness[[0, 2]]).all()


def test_a_log_line_that_a_crash_cut_short_is_skipped(workdir):
  path = workdir(until="train")
  for name in ("timings.jsonl", "supernet/seed0/metrics.jsonl"):
    with open(path / name, "a") as file:
      file.write('{"stage": "tr')
  run = load(path)
  assert len(run.timings) == 1 and len(run.curves[0].step) == 40


def test_a_directory_without_a_run_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"holds no experiment.json: give the --workdir"):
    load(tmp_path)


@pytest.mark.parametrize("name", ["experiment.json", "winner.json", "results.json", "latency.json", "trials.jsonl"])
@pytest.mark.parametrize("content", ["{\n oops", "[]", '{"x": 1}', '"text"', "7"])
def test_damage_is_told_in_one_sentence(workdir, name, content):
  path = workdir()
  (path / name).write_text(content)
  with pytest.raises(UserError, match=rf"{name}(, line \d+)?: damaged \(.*\): ") as caught:
    load(path)
  assert "\n" not in str(caught.value)


def test_damage_names_the_line(workdir):
  path = workdir()
  lines = (path / "trials.jsonl").read_text().splitlines()
  (path / "trials.jsonl").write_text("\n".join([*lines[:6], lines[6][:20]]))
  with pytest.raises(UserError, match="trials.jsonl, line 7: .*--repair"):
    load(path)
  row = json.loads(lines[2])
  del row["flops"]
  (path / "trials.jsonl").write_text("\n".join([*lines[:2], json.dumps(row)]))
  with pytest.raises(UserError, match="trials.jsonl, line 3: damaged .there is no 'flops'"):
    load(path)


def test_results_of_another_search_are_refused(workdir):
  path = workdir()
  tree = read(path / "results.json")
  tree["rows"][1]["spec"]["embed_dim"] += 1
  (path / "results.json").write_text(json.dumps(tree))
  with pytest.raises(UserError, match="softmax, seed 0, is not the network of winner.json"):
    load(path)
