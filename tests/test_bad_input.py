"""What a person gets wrong ends in one sentence with the flag or file, the value and the remedy, and loses nothing."""

import gzip
import io
import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from nasformer.data.cifar10 import CLASS_NAMES

MICRO = "--config=tests/micro.py"


@pytest.fixture
def refused(command, tmp_path):
  """Function (*flags) -> the sentence; a work directory is given unless one is named."""

  def call(*flags):
    flags = flags if any("workdir" in flag for flag in flags) else (*flags, f"--workdir={tmp_path / 'run'}")
    status, _, errors = command(*flags)
    assert status == 1 and errors.startswith("error: ") and errors.count("\n") == 1, errors
    return errors.removeprefix("error: ").strip()

  return call


def assert_matches(sentence, message):
  assert re.search(message, sentence), sentence


# -- flags -----------------------------------------------------------------------------------------------------------

FLAGS = {
    "no config": ([], "--config is missing: try --config=experiments/quickstart/digits.py"),
    "unknown config": (["--config=experiments/quickstart/digit.py"],
                       "--config=experiments/quickstart/digit.py: .*did you mean 'experiments/quickstart/digits.py'"),
    "unknown component": ([f"{MICRO}:digit"], "unknown dataset 'digit': did you mean 'digits'"),
    "unknown field": ([MICRO, "--config.train.step=3"], "--config.train.step: .*did you mean 'steps'"),
    "unknown flag": ([MICRO, "--workdirs=x"], "'workdirs'.*workdir"),
    "not a flag": ([MICRO, "train"], "'train' is not a flag: flags begin with --"),
    "unknown stage": ([MICRO, "--stages=train,serch"], "--stages=train,serch: there is no stage 'serch' .*search"),
    "text for a whole number": ([MICRO, "--config.train.steps=many"], "--config.train.steps=many: a whole number"),
    "fraction for a whole number": ([MICRO, "--config.train.steps=1.5"], "--config.train.steps=1.5: a whole number"),
    "text for a tuple": ([MICRO, "--config.seeds=all"], r"--config.seeds\[0\]='all': a whole number"),
    "text in a tuple": ([MICRO, "--config.space.depth=('a',)"], r"--config.space.depth\[0\]='a': a whole number"),
    "empty population": ([MICRO, "--config.search.strategy.population=0"], "population=0"),
    "nobody bred": ([MICRO, "--config.search.strategy.num_mutations=0", "--config.search.strategy.num_crossovers=0"],
                    "num_mutations=0 and .*num_crossovers=0 must be .* not both 0"),
    "no generations": ([MICRO, "--config.search.generations=0"], "generations=0.*at least 1"),
    "no choice": ([MICRO, "--config.space.depth=()"], "depth.* is empty: give at least one choice"),
    "unknown kind": ([MICRO, "--config.space.kinds=('softmx',)"],
                     "unknown attention kind 'softmx': did you mean 'softmax'"),
    "hand-made for nothing": ([MICRO, "--config.search.baseline_flops=0"], "baseline_flops=0.*above 0; leave it out"),
    "zero budget": ([MICRO, "--config.search.limits.flops=0"], "flops=0.*above 0"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags(refused, contents, tmp_path, case):
  flags, message = FLAGS[case]
  assert_matches(refused(*flags), message)
  assert not contents(tmp_path)


EARLY = {
    "infeasible budget": (["--config.search.limits.flops=4000"],
                          "search.limits.flops=4000 cannot be met: the smallest network of this space needs flops="),
    "infeasible latency": (["--config.search.limits.latency_ms=1e-6"],
                           "search.limits.latency_ms=1e-06 cannot be met: the smallest network .* ms here"),
    "arm of no kind": (["--config.search.arms.linear=layer.*.kind=liner"],
                       r"--config.search.arms.linear: .*kind cannot be 'liner' \(it can be: softmax, linear\)"),
    "baseline of no kind": (["--config.search.baseline=kinds=softmax"],
                            "--config.search.baseline: .*no gene matches 'kinds'"),
    "baseline of unlike layers": (["--config.space.restrict=layer.0.kind=softmax; layer.1.kind=linear",
                                   "--config.search.arms.linear=", "--config.search.baseline="],
                                  "--config.search.baseline: restrict='.*' leaves no network with all blocks alike"),
    "batch of the last stage": (["--config.retrain.batch_size=500"], "--config.retrain: batch_size=500 is larger than"),
    "batch over two devices": (["--config.retrain.batch_size=15"],
                               "--config.retrain: a batch of 15 examples does not divide over 2 devices"),
    "patches": (["--config.task.net.patch_size=3"], "patch_size=3 does not divide images of 8x8: .* such as 2"),
}


@pytest.mark.parametrize("case", EARLY)
def test_what_a_later_stage_would_refuse_is_refused_before_training(refused, tmp_path, case):
  flags, message = EARLY[case]
  assert_matches(refused(MICRO, *flags), message)
  assert not (tmp_path / "run" / "supernet").exists()


# -- data ------------------------------------------------------------------------------------------------------------


def test_no_data_directory(refused, tmp_path):
  assert_matches(refused(f"{MICRO}:mnist"), "mnist is read from files: .*--data_dir or the variable NASFORMER_DATA")
  nowhere = tmp_path / "nowhere"
  assert_matches(refused(f"{MICRO}:mnist", f"--data_dir={nowhere}"), f"--data_dir.*'{nowhere}', which is no directory")
  assert_matches(refused(f"{MICRO}:mnist", f"--data_dir={tmp_path}"), "mnist")


def test_truncated_archive(refused, tmp_path):
  (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(10_000))[:20])
  (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(10_000)))
  assert_matches(refused(f"{MICRO}:mnist", f"--data_dir={tmp_path}"),
                 "train-images-idx3-ubyte.gz cannot be read .*cut short or damaged, fetch it again")


def test_image_of_the_wrong_shape(refused, tmp_path):
  for part in ("train", "test"):
    with tarfile.open(tmp_path / f"cifar10-{part}.tar.gz", "w:gz") as archive:
      for number in range(30):
        data = io.BytesIO()
        Image.fromarray(np.zeros((32, 31 if number == 7 else 32, 3), np.uint8)).save(data, "jpeg")
        member = tarfile.TarInfo(f"{part}/{CLASS_NAMES[number % 10]}/{number}.jpg")
        member.size = len(data.getvalue())
        archive.addfile(member, io.BytesIO(data.getvalue()))
  assert_matches(refused(f"{MICRO}:cifar10", f"--data_dir={tmp_path}"), r"train/horse/7.jpg.*31.*32")


# -- the work directory ----------------------------------------------------------------------------------------------


def test_no_work_directory(command):
  status, _, errors = command(MICRO)
  assert status == 1 and errors.startswith("error: --workdir is missing: try ")


@pytest.mark.parametrize("path", ["/dev/null/run", "/sys/run"])
def test_unwritable_directory(refused, path):
  assert_matches(refused(MICRO, f"--workdir={path}"), f"{path}: .*choose")


def test_work_directory_of_another_experiment(refused, finished, contents):
  before = contents(finished)
  sentence = refused(MICRO, f"--workdir={finished}", "--config.search.generations=5")
  assert_matches(sentence, r"another experiment \(config.search.generations is 4 there and 5 here\): choose another")
  assert contents(finished) == before


@pytest.mark.parametrize("name, text", [("experiment.json", "{"), ("experiment.json", "[]"), ("winner.json", "{")])
def test_damaged_json(refused, copied, name, text):
  (copied / name).write_text(text)
  assert_matches(refused(MICRO, f"--workdir={copied}"), f"{copied / name}: .*move it away")


def test_results_without_their_experiment(refused, copied):
  (copied / "experiment.json").unlink()
  assert_matches(refused(MICRO, f"--workdir={copied}"), "results but no experiment.json: choose an empty directory")


# -- stages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage, first", [("search", "train"), ("derive", "search"), ("retrain", "search"),
                                          ("evaluate", "search")])
def test_stage_out_of_order(refused, tmp_path, stage, first):
  assert_matches(refused(MICRO, f"--stages={stage}"), f"--stages={stage} needs .*: run --stages={first} first")


def test_evaluation_before_retraining(refused, copied):
  shutil.rmtree(copied / "retrain")
  (copied / "results.json").unlink()
  assert_matches(refused(MICRO, f"--workdir={copied}", "--stages=evaluate"), "needs .*: run --stages=retrain first")


# -- what a crash or a bad disk leaves -------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut short", "changed", "removed"])
def test_corrupt_checkpoint(refused, command, finished, copied, contents, damage):
  """It is told, and `--repair` goes on from the checkpoint before it, to the same bytes."""
  folder = copied / "supernet" / "seed0" / "ckpt"
  inside = (path for path in (folder / "30" / "state").rglob("*") if path.is_file())
  victim = max(inside, key=lambda path: path.stat().st_size)
  data = victim.read_bytes()
  if damage == "removed":
    victim.unlink()
  else:
    victim.write_bytes(data[:-9] if damage == "cut short" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
  (copied / "winner.json").unlink()
  (copied / "trials.jsonl").unlink()
  before = contents(copied)
  sentence = refused(MICRO, f"--workdir={copied}")
  assert_matches(sentence, f"{folder / '30'}: the checkpoint is damaged .*--repair to set it .* go on from step 20")
  assert contents(copied) == before
  if damage == "changed":
    status, output, errors = command(MICRO, f"--workdir={copied}", "--stages=train,search", "--repair")
    assert status == 0 and f"set aside {folder / '30.broken'}" in output, errors
    for name in ("trials.jsonl", "winner.json"):
      assert (copied / name).read_bytes() == (finished / name).read_bytes()


def test_trial_log_whose_last_line_is_cut(refused, command, finished, copied, contents):
  data = (finished / "trials.jsonl").read_bytes()
  (copied / "trials.jsonl").write_bytes(data[:-20])
  (copied / "winner.json").unlink()
  before = contents(copied)
  num = len(data.splitlines())
  assert_matches(refused(MICRO, f"--workdir={copied}", "--stages=search"),
                 f"trials.jsonl: line {num} of {num} is damaged and the {num - 1} trials before .*--repair")
  assert contents(copied) == before
  status, _, errors = command(MICRO, f"--workdir={copied}", "--stages=search", "--repair")
  assert status == 0, errors
  assert contents(copied) == {**contents(finished), "trials.jsonl.broken": data[:-20]}


def test_full_disk(refused, command, finished, copied):
  """Whatever file meets it: what is there stays, and the same command goes on when there is space again."""
  for name in ("trials.jsonl", "winner.json", "results.json", "latency.json"):
    (copied / name).unlink()
  for name in ("trials.jsonl", "results.json"):
    (copied / f".{name}.tmp").symlink_to("/dev/full")  # a real "no space left", where the file would be written
    assert refused(MICRO, f"--workdir={copied}") == (
        f"{copied / name}: no space is left on the disk; free some and run the same command again: it continues where it"
        " stopped")
    assert not (copied / name).exists()
  status, _, errors = command(MICRO, f"--workdir={copied}")
  assert status == 0, errors
  for name in ("trials.jsonl", "winner.json", "results.json"):
    assert (copied / name).read_bytes() == (finished / name).read_bytes()


def test_loss_that_is_not_finite(refused, tmp_path):
  """The checkpoints before it stay."""
  flags = ["--config.train.optimizer.peak_lr=1e30", "--config.train.optimizer.warmup_steps=20",
           "--config.train.report_every=1", "--config.train.checkpoint_every=1", "--config.space.depth=(1,)",
           "--config.space.kinds=('softmax',)", "--config.search.arms.linear="]
  sentence = refused(MICRO, f"--workdir={tmp_path}", *flags)
  assert_matches(sentence, "^supernet, seed 0, optimizer.peak_lr=1e[+]30: the loss or its .*lower")
  assert (tmp_path / "supernet" / "seed0" / "ckpt" / "1" / "contents.json").exists()
