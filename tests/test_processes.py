"""Two processes of one device each do what one process with two devices does, to the last bit."""

import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent

# A small training with noise in each row, that keeps the best weights: `fit(work directory) -> weights`.
TOY = """
import dataclasses, io, runpy
import jax, jax.numpy as jnp, numpy as np
import rich.console
from nasformer import config, experiment, fitting, workdir
from nasformer.experiment import Training

closed = config.close(experiment.Experiment, runpy.run_path("tests/micro.py")["get_config"]())
training = Training(steps=6, batch_size=8, ema_decay=0.5, report_every=1, checkpoint_every=2, keep_best=True)

def loss(params, batch, keys):
  noise = jax.random.normal(keys.micro, (8, 10))
  return closed.task.loss(batch["image"].reshape(8, -1) / 16 @ params["weights"] + noise, batch).mean(), ({}, None)

def fit(path):
  run = workdir.Run(closed, path, console=rich.console.Console(file=io.StringIO()))
  init = lambda key: {"weights": jax.random.normal(key, (np.prod(run.splits.info.image_shape), 10))}
  validate = lambda params: {"loss": -float(jnp.abs(params["weights"]).mean())}
  toy = fitting.Fitting(run, "toy", path / "toy", 0, training, init, validate)
  toy.fit(loss)
  return toy
"""

SCRIPT = TOY + """
import pathlib, shutil, sys, time
from nasformer import processes
from nasformer.types import Told, UserError

me = int(sys.argv[2])
processes.join(f"localhost:{sys.argv[1]}", 2, me)
assert processes.share() == (me, 2) and processes.first() == (me == 0)

def told(act):
  try:
    act()
  except UserError as error:
    return isinstance(error, Told), str(error)

def refuse():
  assert me == 0
  raise UserError("no disk")

def refuse_here(process):
  if me == process:
    raise UserError("no data")

large = bytes(range(256)) * 1000
processes._PIECE_BYTES = 1 << 16
assert processes.led(lambda: (me, time.sleep(1), large)) == (0, None, large)
assert processes.led(lambda: None) is None
assert told(lambda: processes.led(refuse)) == (me > 0, "no disk")
assert processes.agree(lambda: {"a": 1.5}, "flags") == {"a": 1.5}
assert told(lambda: processes.agree(lambda: me, "flags")) == (
    me > 0, "process 1 of 2 has other flags than the first: give all the same")
for process, words in ((0, "no data"), (1, "process 1: no data")):
  assert told(lambda: processes.agree(lambda: refuse_here(process), "flags")) == (me > 0, words)

mine = pathlib.Path(sys.argv[3])
fit(mine)
if me == 0:
  shutil.rmtree(mine / "toy/ckpt/6")
fit(mine)  # goes on from step 4, which the second process learns from the first
assert me == 0 or not mine.exists()
"""


def both(start):
  """What `start(*flags)` makes two processes come to: (exit status, standard output, standard error) of each."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  started = [start(port, i) for i in range(2)]
  outputs = [process.communicate(timeout=500) for process in started]
  return [(process.returncode, *output) for process, output in zip(started, outputs)]


@pytest.fixture
def pair(program):
  """Function (*flags) -> what two processes of the program come to."""
  program = dataclasses.replace(program, devices=1)
  return lambda *flags: both(lambda port, i: program.start(
      f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={i}", *flags))


def test_the_first_leads_and_all_train_like_one(tmp_path, monkeypatch):
  """Mistakes are told once, the second writes nothing; numbers are those of one process with two devices."""
  env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
  results = both(lambda port, i: subprocess.Popen(
      [sys.executable, "-c", SCRIPT, str(port), str(i), str(tmp_path / str(i))], cwd=ROOT, env=env, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE))
  assert [status for status, *_ in results] == [0, 0], results
  toy = {}
  monkeypatch.chdir(ROOT)
  exec(TOY, toy)
  one = toy["fit"](tmp_path / "one")
  two = dataclasses.replace(one, folder=tmp_path / "0" / "toy")
  np.testing.assert_array_equal(one.weights()["weights"], two.weights()["weights"])
  assert (one.folder / "metrics.jsonl").read_bytes() == (two.folder / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_two_processes_go_on_with_a_training_like_one(pair, finished, copied):
  folder = pathlib.Path("supernet/seed0")
  shutil.rmtree(copied / folder / "ckpt/30")
  (one, output, errors), (two, silence, _) = pair(f"--workdir={copied}", "--stages=train")
  assert (one, two) == (0, 0), errors
  assert "supernet, seed 0" in output and "supernet" not in silence
  assert (copied / folder / "ckpt/30").exists()
  assert (copied / folder / "metrics.jsonl").read_bytes() == (finished / folder / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_two_processes_do_all_like_one(pair, finished, tmp_path, contents):
  results = pair(f"--workdir={tmp_path}")
  assert [status for status, *_ in results] == [0, 0], results
  logs = [path for path in contents(finished) if path.endswith((".jsonl", "winner.json", "results.json"))]
  assert len(logs) >= 7
  for name in logs:
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.parametrize("flags, words", [
    (["--distributed", "--process_id=1"], "--distributed lets JAX find the processes and --process_id would name them"),
    (["--num_processes=2"], "--coordinator and --process_id missing: each process needs all of"),
    (["--stages=translate", "--distributed"], "--stages=translate is for one process"),
    (["--coordinator=here", "--num_processes=2", "--process_id=0"], "--coordinator=here must be HOST:PORT"),
    (["--coordinator=a:1", "--num_processes=0", "--process_id=0"], "--num_processes=0 must be at least 1"),
    (["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
     "--process_id=2 must be one of 0 to 1, for --num_processes=2"),
])
def test_flags_that_contradict_each_other(command, tmp_path, flags, words):
  status, _, errors = command("--config=tests/micro.py", f"--workdir={tmp_path / 'run'}", *flags)
  assert status == 1 and errors.startswith(f"error: {words}") and errors.count("\n") == 1
  assert not (tmp_path / "run").exists()


def test_a_batch_that_processes_cannot_share(make_run, tmp_path, monkeypatch):
  from nasformer import processes, stages
  from nasformer.types import UserError

  monkeypatch.setattr(processes, "share", lambda: (0, 3))
  words = "--config.train: batch_size=16 must be a positive multiple of the number of processes, 3"
  with pytest.raises(UserError, match=words):
    stages.train(make_run(tmp_path))
