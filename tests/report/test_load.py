"""A work directory becomes a Run; gaps stay gaps, damage is named."""

import json

import numpy as np
import pytest

from nasformer.report.load import load
from nasformer.types import DecoderLayerSpec, EncoderSpec, LayerSpec, TranslationSpec, UserError


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
    assert model.test == result["retrained"]["test"] and model.against_baseline is None and not model.flops_by_length
    assert model.search_ms == winner["flops"] / 1.6e6
    assert (model.search is None) == (model.arm == "baseline")
  assert [model.seed for model in run.of("linear")] == [0, 1]


def test_reads_a_translation(workdir):
  path = workdir(seeds=(1, 2), task="text")
  run = load(path)
  tree = read(path / "results.json")
  assert run.signatures == tree["signatures"] and len(run.models) == 8
  for model, result in zip(run.models, tree["rows"]):
    spec = result["spec"]
    assert model.spec == TranslationSpec(
        spec["encoder_embed_dim"], spec["decoder_embed_dim"], tuple(LayerSpec(**row) for row in spec["encoder"]),
        tuple(DecoderLayerSpec(**row) for row in spec["decoder"]))
    assert model.val_inherited == result["inherited"]["val"]["loss"]
    assert model.val_retrained == result["retrained"]["val"]["loss"] and model.test == result["retrained"]["test"]
    assert model.flops_by_length == {int(n): flops for n, flops in result["flops_by_length"].items()}
    assert (model.against_baseline is None) == (model.arm == "baseline")
  assert run.texts.seed == 1 and list(run.texts.outputs) == ["mixed", "softmax", "linear", "baseline"]
  for arm, lines in run.texts.outputs.items():
    assert "\n".join(lines) + "\n" == (path / f"outputs/{arm}/seed1.txt").read_text()
  assert len(run.texts.sources) == len(run.texts.references) == 40


def test_lines_end_at_line_feeds_only(workdir):
  path = workdir(task="text")
  for name in ("source", "reference", "mixed/seed0"):
    (path / f"outputs/{name}.txt").write_bytes("eins\u2028 zwei\r\n\nd\x85rei\n".encode())
  for arm in ("softmax", "linear", "baseline"):
    (path / f"outputs/{arm}/seed0.txt").unlink()
  assert load(path).texts.outputs == {"mixed": ("eins\u2028 zwei\r", "", "d\x85rei")}


def test_runs_without_kept_texts_have_none(workdir):
  assert load(workdir()).texts is None
  path = workdir(task="text")
  (path / "outputs/source.txt").unlink()
  assert load(path).texts is None


def test_translations_that_do_not_fit_their_sources_are_named(workdir):
  path = workdir(task="text")
  with open(path / "outputs/linear/seed0.txt", "a") as file:
    file.write("zu viel\n")
  with pytest.raises(UserError, match="linear/seed0.txt: damaged .41 lines for 40 source sentences.: move"):
    load(path)


def test_an_older_run_is_of_images(workdir):
  path = workdir()
  assert "headline" not in read(path / "experiment.json") and load(path).experiment["headline"] == "accuracy"


def test_an_unknown_headline_is_refused(workdir):
  path = workdir()
  (path / "experiment.json").write_text(json.dumps(read(path / "experiment.json") | {"headline": "f1"}))
  with pytest.raises(UserError, match="experiment.json: the report knows no headline 'f1' .there are: accuracy, bleu."):
    load(path)


@pytest.mark.parametrize("name", ["bleu", "chrf", "loss", "bleu_low"])
def test_a_missing_score_is_named(workdir, name):
  path = workdir(task="text")
  tree = read(path / "results.json")
  del tree["rows"][2]["retrained"]["test"][name]
  (path / "results.json").write_text(json.dumps(tree))
  with pytest.raises(UserError, match=f"results.json: damaged .there is no '{name}'"):
    load(path)


@pytest.mark.parametrize("task, column", [("images", "accuracy"), ("text", "loss")])
def test_trials_keep_their_order_and_curves_their_owner(workdir, task, column):
  path = workdir(task=task, seeds=(0, 1), generations=3, population=4)
  lines = [json.loads(line) for line in (path / "trials.jsonl").read_text().splitlines()]
  run = load(path)
  for trials in run.trials:
    mine = [row for row in lines if (row["arm"], row["seed"]) == (trials.arm, trials.seed)]
    for name in ("generation", "fitness", "params", "flops"):
      np.testing.assert_array_equal(getattr(trials, name), [row[name] for row in mine])
    np.testing.assert_array_equal(trials.quality, [row[column] for row in mine])
  assert [(curve.arm, curve.seed) for curve in run.curves[:3]] == [(None, 0), (None, 1), ("baseline", 0)]
  assert run.curves[0].step[:2].tolist() == [50, 100]


@pytest.mark.parametrize("until, models, tested, trials", [
    ("train", 0, 0, 0), ("search", 4, 0, 3), ("retrain", 4, 0, 3), ("evaluate", 4, 4, 3)])
def test_a_run_that_is_not_finished_is_read_as_far_as_it_went(any_workdir, until, models, tested, trials):
  run = load(any_workdir(until=until))
  assert len(run.models) == models and len(run.trials) == trials
  assert sum(bool(model.test) for model in run.models) == tested
  assert (run.latency is not None) == (until == "evaluate")


def test_a_failed_evaluation_is_nan(workdir):
  path = workdir(until="search")
  rows = [json.loads(line) for line in (path / "trials.jsonl").read_text().splitlines()]
  rows[1] |= {"fitness": None, "accuracy": None}
  (path / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  trials = load(path).trials[0]
  assert np.isnan(trials.fitness[1]) and np.isnan(trials.quality[1]) and np.isfinite(trials.fitness[[0, 2]]).all()


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
def test_damage_is_told_in_one_sentence(any_workdir, name, content):
  path = any_workdir()
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
