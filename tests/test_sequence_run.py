"""Texts and series from files to results, cut short and gone on with."""

import dataclasses
import pathlib
import random
import runpy
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import config, fitting, workdir
from nasformer.experiment import Experiment

MICRO = pathlib.Path(__file__).parent / "micro_sequences.py"
SAME = ("trials.jsonl", "winner.json", "results.json", "supernet/seed0/metrics.jsonl")
over_tasks = pytest.mark.parametrize("what", ["texts", pytest.param("series", marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
  """What the micro configuration defines, and a folder with its files."""
  members, folder = runpy.run_path(MICRO), tmp_path_factory.mktemp("data")
  members["write"](folder)
  return members["get_config"], folder


class Killed(Exception):
  pass


@over_tasks
def test_a_training_that_is_cut_short_goes_on_to_the_same_weights(micro, tmp_path, monkeypatch, what):
  """A line with noise, on batches of two lengths, stopped between two checkpoints."""
  get_config, data_dir = micro
  experiment, write = config.close(Experiment, get_config(what)), fitting.JsonlWriter.write
  training = dataclasses.replace(experiment.train, steps=6, report_every=1, checkpoint_every=2)

  def loss(params, batch, keys):
    values, length = experiment.task.inputs(batch)
    x = values.reshape(*values.shape[:2], -1) * (jnp.arange(values.shape[1]) < length[:, None])[..., None]
    logits = x.sum(1) @ params["w"] + jax.random.normal(keys.micro, (2,))
    return experiment.task.loss(logits, batch).mean(), ({}, None)

  def fit(path, stop=None):
    toy = fitting.Fitting(workdir.Run(experiment, path, data_dir), what, path / "toy", 0, training,
                          lambda key: {"w": jax.random.normal(key, (1, 2)) / 100})

    def write_or_die(log, row):
      if stop and row.get("step") == stop:
        raise Killed
      write(log, row)

    with monkeypatch.context() as patch:
      patch.setattr(fitting.JsonlWriter, "write", write_or_die)
      toy.fit(loss)
    return toy.weights()["w"], (path / "toy" / "metrics.jsonl").read_bytes()

  with pytest.raises(Killed):
    fit(tmp_path / "cut", 5)
  (cut, cut_log), (whole, whole_log) = fit(tmp_path / "cut"), fit(tmp_path / "whole")
  np.testing.assert_array_equal(cut, whole)
  assert cut_log == whole_log


@pytest.mark.slow
@over_tasks
def test_killed_and_started_again(program, micro, tmp_path, what):
  """The whole pipeline, at any moment."""
  _, data_dir = micro
  program = dataclasses.replace(program, config=f"--config={MICRO}:{what}", keeps=False)
  folders = {name: [f"--workdir={tmp_path / name}", f"--data_dir={data_dir}"] for name in ("whole", "killed")}
  began = time.monotonic()
  assert program.run(*folders["whole"])[0] == 0
  process, moment = program.start(*folders["killed"]), random.Random(time.time_ns()).uniform(0.2, 0.9)
  time.sleep(moment * (time.monotonic() - began))
  process.send_signal(signal.SIGKILL)
  process.communicate()
  status, _, errors = program.run(*folders["killed"])
  assert status == 0, errors
  for name in SAME:
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (name, moment)
