import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

from nasformer import config, workdir
from nasformer.experiment import Experiment
from nasformer.store import files
from nasformer.types import UserError


def test_purposes_and_seeds_have_randomness_of_their_own(make_run, tmp_path):
  run = make_run(tmp_path)
  keys = {tuple(np.asarray(jax.random.key_data(run.key(seed, purpose))))
          for seed in (0, 1) for purpose in ("init", "train", "search mixed", "search linear")}
  assert len(keys) == 8
  assert run.key(0, "train") == make_run(tmp_path).key(0, "train")


def test_every_winner_has_a_place_of_its_own(make_run, tmp_path):
  run = make_run(tmp_path)
  places = {run.model_dir(stage, arm, seed) for stage in ("derived", "retrain") for arm in "ab" for seed in (0, 1)}
  places |= {run.supernet_dir(seed) for seed in (0, 1)}
  assert len(places) == 10 and all(place.is_relative_to(tmp_path) for place in places)


def test_a_new_directory_is_described(make_run, tmp_path):
  run = dataclasses.replace(make_run(tmp_path), command=("python", "-m", "nasformer.main"))
  run.begin()
  about = files.read_json(tmp_path / "experiment.json")
  assert config.from_json(Experiment, about["config"]) == run.experiment
  assert about["command"] == ["python", "-m", "nasformer.main"] and "2 x multiply-adds" in about["counting"]
  assert {"python", "jax", "nasformer"} <= set(about["versions"]) and about["versions"]["jax"] == jax.__version__
  assert about["dataset"]["name"] == "digits"
  assert [about["dataset"][f"num_{part}"] for part in ("train", "val", "test")] == [200, 64, 359]


def test_it_is_described_once(make_run, tmp_path):
  """A later start leaves the first description, and needs no data."""
  make_run(tmp_path).begin()
  before = (tmp_path / "experiment.json").read_bytes()
  again = dataclasses.replace(make_run(tmp_path), command=("again",))
  again.begin()
  assert (tmp_path / "experiment.json").read_bytes() == before
  assert "splits" not in vars(again)


def test_what_a_kill_leaves_of_the_description_is_no_obstacle(make_run, tmp_path):
  (tmp_path / ".experiment.json.tmp").write_text('{"config')
  make_run(tmp_path).begin()
  assert (tmp_path / "experiment.json").exists()


def test_another_experiment_is_refused(make_run, tmp_path):
  make_run(tmp_path).begin()
  with pytest.raises(UserError, match=re.escape("config.seeds is [0] there and [0, 1] here")):
    make_run(tmp_path, seeds=(0, 1)).begin()


def test_the_table_of_latencies_may_change_until_a_search_has_learned_from_it(make_run, tmp_path):
  def begin(networks, **fields):
    micro = make_run(tmp_path).experiment
    make_run(tmp_path, latency=dataclasses.replace(micro.latency, networks=networks),
             search=dataclasses.replace(micro.search, latency="predicted"), **fields).begin()
    return files.read_json(tmp_path / "experiment.json")

  before = begin(100)
  for networks in (200, 50, 300):
    about = begin(networks)
    assert about["config"]["latency"]["networks"] == networks and about["versions"] == before["versions"]
  with pytest.raises(UserError, match=re.escape("config.seeds is [0] there and [1] here")):
    begin(400, seeds=(1,))
  (tmp_path / "winner.json").write_text("{}")
  begin(300)
  with pytest.raises(UserError, match="config.latency.networks is 300 there and 400 here"):
    begin(400)


def test_an_experiment_of_a_component_that_is_gone_is_refused(make_run, tmp_path):
  make_run(tmp_path).begin()
  path = tmp_path / "experiment.json"
  tree = json.loads(path.read_text())
  tree["config"]["space"] = "none"
  path.write_text(json.dumps(tree))
  with pytest.raises(UserError, match='config.space is "none" there and .* here'):
    make_run(tmp_path).begin()


def test_results_of_nobody_are_refused(make_run, tmp_path):
  (tmp_path / "trials.jsonl").write_text("")
  with pytest.raises(UserError, match="holds results but no experiment.json: choose an empty directory"):
    make_run(tmp_path).begin()


def test_winners_come_after_the_search(make_run, tmp_path, finished):
  with pytest.raises(UserError, match="--stages=derive needs .*winner.json, .* not there: run --stages=search first"):
    make_run(tmp_path).winners("derive")
  assert [row["arm"] for row in make_run(finished).winners("derive")] == ["mixed", "linear", "baseline"]


@pytest.mark.parametrize("repair", [False, True])
def test_damaged_checkpoints_are_set_aside_on_request(make_run, tmp_path, finished, repair):
  shutil.copytree(finished / "supernet", tmp_path / "supernet")
  run = dataclasses.replace(make_run(tmp_path), repair=repair)
  folder = run.supernet_dir(0) / "ckpt"
  (folder / "30" / "contents.json").write_text("")
  assert run.checkpoints(folder).steps() == ([20] if repair else [20, 30])
  assert run.console.file.getvalue() == (f"set aside {folder / '30.broken'}\n" if repair else "")


def test_timings_are_lines(make_run, tmp_path):
  run = make_run(tmp_path)
  run.note_timing("train", seconds=1.5)
  run.note_timing("search", seconds=0.5, arm="mixed")
  assert (tmp_path / "timings.jsonl").read_text() == ('{"stage": "train", "seconds": 1.5}\n'
                                                      '{"stage": "search", "seconds": 0.5, "arm": "mixed"}\n')


def test_device_and_commit():
  assert re.fullmatch(r"cpu: .+, \d+ cores?", workdir.device())
  assert workdir.commit() is None or re.fullmatch(r"[0-9a-f]{7,}\+?", workdir.commit())


def test_the_command_is_one_that_can_be_typed(monkeypatch):
  monkeypatch.setattr(workdir.sys, "argv", ["/somewhere/main.py", "--workdir=x"])
  assert workdir.command_line() == ("python", "-m", "nasformer.main", "--workdir=x")


def test_an_experiment_written_before_a_field_existed_is_the_same(finished, make_run, tmp_path):
  tree = json.loads((finished / "experiment.json").read_text())
  del tree["config"]["search"]["minimise"], tree["config"]["search"]["latency"]
  (tmp_path / "experiment.json").write_text(json.dumps(tree))
  make_run(tmp_path).begin()
