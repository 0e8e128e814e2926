"""The translation pipeline from config to sentences: what it leaves, resume, early stop, which weights count, bad input."""

import dataclasses
import gzip
import io
import json
import random
import re
import runpy
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import rich.console

import nasformer
from nasformer import config, experiment, fitting, scoring, stages, workdir
from nasformer.experiment import Training
from nasformer.score.generated import Bleu
from nasformer.store import files
from nasformer.store.checkpoint import Checkpoints
from nasformer.store.writers import JsonlWriter
from nasformer.train.optimizer import Optimizer
from nasformer.types import UserError

SAME = ("trials.jsonl", "winner.json", "results.json", "supernet/seed0/stability.jsonl", "outputs/mixed/seed0.txt")


@pytest.fixture
def run(finished_text, tmp_path):
  """A copy of the finished run."""
  return open_run(shutil.copytree(finished_text, tmp_path / "run"))


def open_run(path, **fields):
  closed = config.close(experiment.Experiment, runpy.run_path("tests/micro_text.py")["get_config"]())
  return workdir.Run(dataclasses.replace(closed, **fields), path, console=rich.console.Console(file=io.StringIO()))


def test_what_a_run_leaves(finished_text):
  results = files.read_json(finished_text / "results.json")
  assert results["signatures"]["bleu"].startswith("nrefs:1")
  for row in results["rows"]:
    assert {"bleu", "chrf", "bleu_tokenised", "exact_match", "bleu_low", "bleu_high", "smoothed_bits"} <= set(
        row["retrained"]["test"])
    assert ("against_baseline" in row) == (row["arm"] != "baseline")
    assert row["flops_by_length"]["10"] < row["flops_by_length"]["1000"]
  lines = {name: (finished_text / "outputs" / f"{name}.txt").read_text().count("\n")
           for name in ("source", "reference", "mixed/seed0", "baseline/seed0")}
  assert set(lines.values()) == {24}
  assert (finished_text / "report" / "index.html").stat().st_size > 10_000


def test_run_again_nothing_changes(run, contents):
  before = contents(run.path)
  for stage in (stage for name, stage in stages.STAGES.items() if name not in stages.ON_DEMAND):
    stage(run)
  assert contents(run.path) == before


@pytest.mark.slow
def test_killed_and_started_again(text_program, finished_text, tmp_path):
  """The pipeline of images is killed in every stage elsewhere."""
  path, rng, text_program = tmp_path / "run", random.Random(time.time_ns()), dataclasses.replace(text_program, keeps=False)
  process = text_program.start(f"--workdir={path}")
  time.sleep(rng.uniform(3, 15))
  process.send_signal(signal.SIGKILL)
  process.communicate()
  status, _, errors = text_program.run(f"--workdir={path}")
  assert status == 0, errors
  for name in SAME:
    assert (path / name).read_bytes() == (finished_text / name).read_bytes(), name


# -- weights and early stop ------------------------------------------------------------------------------------------


def test_the_last_checkpoints_are_averaged(run):
  """The supernet's weights are the mean of those of steps 20 and 30."""
  trained = scoring.supernet_fitting(run, 0)
  assert trained.checkpoints.steps() == [20, 30]
  both = [trained._restored(step).params for step in (20, 30)]
  jax.tree.map(lambda got, one, two: np.testing.assert_allclose(got, (one + two) / 2, rtol=1e-5, atol=1e-7),
               trained.weights(), *both)


def test_the_best_checkpoint_is_kept(run):
  folder = run.model_dir("retrain", "mixed", 0)
  losses = {row["step"]: row["val_loss"] for row in JsonlWriter(folder / "metrics.jsonl").read() if "val_loss" in row}
  assert set(losses) == {10, 20}
  assert Checkpoints(folder / "best").latest_step() == min(losses, key=losses.get)
  results = {row["arm"]: row["retrained"]["val"]["loss"] for row in files.read_json(run.results)["rows"]}
  np.testing.assert_allclose(results["mixed"], min(losses.values()), rtol=1e-6)


def rows(*taus):
  return [{"step": 10 * i, "tau": tau} for i, tau in enumerate((None, *taus))]


def test_stability():
  training = Training(stability_networks=3, stability_threshold=0.8, stability_patience=2)
  assert not fitting.stable([], training) and not fitting.stable(rows(), training)
  assert fitting.stable(rows(0.1, 0.9), training) and not fitting.stable(rows(0.9, 0.1), training)
  assert not fitting.stable(rows(0.1, 0.2, 0.3), training)
  assert fitting.stable(rows(0.1, 0.2, 0.3, 0.4), training)
  assert not fitting.stable(rows(0.1, 0.2, 0.1, 0.2, 0.3), training)


def test_a_training_stops_when_the_order_is_stable(make_run, tmp_path):
  """The order never changes, so the second checkpoint is the last, also for a training that is started again."""
  run = make_run(tmp_path)
  training = Training(steps=60, batch_size=8, report_every=5, checkpoint_every=10, stability_networks=3,
                      optimizer=Optimizer(weight_decay=0.0))
  rank = lambda params: np.array([0.1, 0.2, 0.3])
  toy = fitting.Fitting(run, "toy", tmp_path / "toy", 0, training, lambda key: {"w": jax.random.normal(key, (64, 10))},
                        rank=rank)
  loss = lambda params, batch, keys: ((batch["image"].reshape(8, -1) / 16 @ params["w"]).var(), ({}, None))
  for _ in range(2):
    assert not toy.ended or toy.checkpoints.latest_step() == 20
    toy.fit(loss)
    assert toy.ended and toy.checkpoints.latest_step() == 20 and toy.weights()["w"].shape == (64, 10)
  assert run.console.file.getvalue().count("stopped at step 20") == 1


@pytest.mark.parametrize("fields, message", [
    ({"average_last": 4}, "average_last=4 is more than the checkpoints"),
    ({"average_last": 1, "keep_best": True}, "exclude each other"), ({"stability_networks": 1}, "at least 2 networks")])
def test_training_fields_that_make_no_sense(fields, message):
  with pytest.raises(UserError, match=message):
    Training(steps=30, checkpoint_every=10, report_every=10, **fields)


def test_search_by_bleu(run):
  scorer = scoring.Scorer(open_run(run.path, search=dataclasses.replace(run.experiment.search, score=Bleu(sentences=5))))
  params = scoring.trained_supernet(run, 0, "search")
  genes = np.asarray(run.experiment.space.sample(jax.random.key(0), 1))
  score = scorer(params, genes)
  spec, split = run.experiment.space.decode(genes[0]), run.splits.get("val", "search")
  judged = run.experiment.task.judge(run.supernet.module(spec), run.supernet.derive(params, spec), split, run.splits.info, 5)
  assert score.value.tolist() == score.parts["bleu"].tolist() == [judged["bleu"]] and len(judged["outputs"]) == 5


# -- translating -----------------------------------------------------------------------------------------------------


def test_load_gives_a_translator(finished_text):
  apply, params, spec = nasformer.load(finished_text)
  sentences = (finished_text / "outputs" / "source.txt").read_text().splitlines()
  made = (finished_text / "outputs" / "mixed" / "seed0.txt").read_text().splitlines()
  assert [" ".join(text.splitlines()) for text in apply(params, sentences)] == made
  assert json.loads(json.dumps(spec.to_json())) == files.read_json(finished_text / "winner.json")["winners"][0]["spec"]


def test_translate_from_a_file_and_from_standard_input(command, finished_text, tmp_path, monkeypatch):
  text = "twenty-one\n\nthree dollars\n"
  (tmp_path / "in.txt").write_text(text)
  flags = ["--stages=translate", f"--workdir={finished_text}"]
  status, found, errors = command(*flags, f"--input={tmp_path / 'in.txt'}")
  assert status == 0 and not errors and found.count("\n") == 3 and found.splitlines()[1] == ""
  monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
  assert command(*flags)[1] == found
  status, two, _ = command(*flags, f"--input={tmp_path / 'in.txt'}", "--n_best=2")
  numbers, scores, texts = zip(*(line.split("\t") for line in two.splitlines()))
  scores = [float(score) for score in scores]
  assert status == 0 and numbers == ("1", "1", "3", "3") and scores[0] >= scores[1] and scores[2] >= scores[3]
  assert texts[0] == found.splitlines()[0]
  (tmp_path / "prefixes.gz").write_bytes(gzip.compress(b"\n\nneun Dollar\n"))
  monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
  status, begun, errors = command(*flags, f"--prefixes={tmp_path / 'prefixes.gz'}")
  assert status == 0 and not errors and begun.splitlines()[:2] == found.splitlines()[:2]
  assert begun.splitlines()[2].startswith("neun Dollar")


@pytest.mark.parametrize("content, flags, message", [
    (b"", [], "is empty: put one sentence in each line"), (b"a\nb\xff\n", [], "line 2: the text is not UTF-8"),
    (b"a\n", ["--n_best=3"], "--n_best=3: it must lie between 1 and 2"), (b"a\n", ["--arm=softmx"], "no winner of arm 'softmx'")])
def test_input_that_cannot_be_translated(command, finished_text, tmp_path, content, flags, message):
  (tmp_path / "in.txt").write_bytes(content)
  status, found, errors = command("--stages=translate", f"--workdir={finished_text}", f"--input={tmp_path / 'in.txt'}", *flags)
  assert status == 1 and not found and errors.startswith("error: ") and message in errors and errors.count("\n") == 1


def test_prefixes_that_cannot_be_used(command, finished_text, tmp_path):
  """With the input from a file; all that is read of the run is its network."""
  (tmp_path / "in.txt").write_text("one\ntwo\n")
  path = tmp_path / "prefixes.txt"
  for content, message in (
      (None, ": there is no such file, give a text with one line for each line of the input"),
      (b"eins\n", " has 1 lines and the input 2: give one line for each, an empty one where nothing is forced"),
      (b"eins\nz\xff\n", ", line 2: the text is not UTF-8"),
      (b"\n" + b"zwei " * 30, r", line 2: it has \d+ tokens, and a translation of this sentence at most \d+ .*: shorten")):
    if content:
      path.write_bytes(content)
    status, found, errors = command("--stages=translate", f"--workdir={finished_text}", f"--input={tmp_path / 'in.txt'}",
                                    f"--prefixes={path}")
    assert status == 1 and not found and errors.count("\n") == 1
    assert re.match(f"error: --prefixes={re.escape(str(path))}{message}", errors), errors


def test_a_run_of_another_task_does_not_translate(command, finished):
  status, _, errors = command("--stages=translate", f"--workdir={finished}")
  assert status == 1 and "needs a translation run" in errors


def test_another_vocabulary_is_refused(run):
  other = open_run(run.path.parent / "other", data=dataclasses.replace(run.experiment.data, split_seed=1))
  other.path.mkdir()
  other.splits
  shutil.copy(other.path / "vocabulary" / "joint.model", run.path / "vocabulary" / "joint.model")
  with pytest.raises(UserError, match="trained with another vocabulary .*bring back"):
    open_run(run.path).splits
  with pytest.raises(UserError, match="does not hold the vocabulary that this network was trained with"):
    nasformer.load(run.path)


@pytest.mark.parametrize("flag, message", [
    ("--config.data.target_language=xx", "numbers has no pair en-xx, it has en-de"),
    ("--config.data.vocab_size=9000", "vocab_size=9000 is more than the training text allows: set it to at most"),
    ("--config.task.net.norm=between", "norm='between': one of 'post', 'pre' is wanted"),
    ("--config.task.decoding.beam=0", "decoding: beam=0"),
    ("--config.data.max_length=1", "max_length=1: use at least 1 and at least 2"),
    ("--config.space.span=(1,3)", "a span of 3 needs as many encoder layers"),
    ("--config.search.limits.flops=10", "search.limits.flops=10 cannot be met")])
def test_flags(command, tmp_path, flag, message):
  status, _, errors = command("--config=tests/micro_text.py", f"--workdir={tmp_path / 'run'}", flag)
  assert status == 1 and errors.startswith("error: ") and message in errors and errors.count("\n") == 1, errors


@pytest.mark.parametrize("data", ["digits", "numbers"])
def test_data_of_another_task(command, tmp_path, data):
  micro = {"digits": "tests/micro_text.py", "numbers": "tests/micro.py"}[data]
  status, _, errors = command(f"--config={micro}:{data}", f"--workdir={tmp_path / 'run'}")
  assert status == 1 and f"which the data set '{data}' is not" in errors and errors.count("\n") == 1, errors
