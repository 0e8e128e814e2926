import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from nasformer.store import files
from nasformer.types import UserError

TREE = {"b": [1, 2.5, None, True], "a": {"é": "x", "tiny": 1e-300, "third": 1 / 3}}


def test_json_comes_back_equal_and_its_bytes_are_known(tmp_path):
  files.write_json(tmp_path / "new" / "a.json", TREE)
  assert files.read_json(tmp_path / "new" / "a.json") == TREE
  assert files.encode({"b": [1], "a": 0.1}, indent=1) == b'{\n "b": [\n  1\n ],\n "a": 0.1\n}\n'
  assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_numpy_becomes_plain_numbers():
  tree = {"i": np.int32(3), "d": np.float64(0.1), "f": np.float32(0.5), "b": np.bool_(True), "v": np.arange(3)}
  assert files.encode(tree) == b'{"i": 3, "d": 0.1, "f": 0.5, "b": true, "v": [0, 1, 2]}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_what_json_does_not_know_is_refused_and_nothing_is_touched(tmp_path, value):
  files.write_json(tmp_path / "a.json", TREE)
  with pytest.raises(ValueError):
    files.write_json(tmp_path / "a.json", {"x": value})
  assert files.read_json(tmp_path / "a.json") == TREE


@pytest.mark.parametrize("code, words", [
    (errno.ENOSPC, "no space is left on the disk; free some and run the same command again"),
    (errno.EACCES, "permission denied; choose a directory that you may write to"),
    (errno.EROFS, "permission denied"),
    (errno.EIO, "put that right and run the same command again"),
])
def test_a_failed_write_is_told_and_leaves_the_old_file(tmp_path, monkeypatch, code, words):
  path = tmp_path / "a.json"
  files.write_json(path, TREE)

  def fail(_):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(os, "fsync", fail)
  with pytest.raises(UserError, match=f"^{path}: .*{words}"):
    files.write_json(path, {})
  assert files.read_json(path) == TREE
  assert os.listdir(tmp_path) == ["a.json"]


def test_a_real_full_disk():
  with pytest.raises(UserError, match="^/dev/full: no space is left"), files.explained("/dev/full"):
    with open("/dev/full", "wb", buffering=0) as file:
      file.write(b"x")


def test_reading_what_is_not_there_or_not_json(tmp_path):
  with pytest.raises(UserError, match="winner.json: there is no such file; run the stage that writes it first"):
    files.read_json(tmp_path / "winner.json")
  (tmp_path / "winner.json").write_text('{"main": ')
  with pytest.raises(UserError, match="winner.json: not valid JSON .*move it away"):
    files.read_json(tmp_path / "winner.json")


def test_writable_dir_makes_the_directory_and_leaves_it_empty(tmp_path):
  assert os.listdir(files.writable_dir(tmp_path / "a" / "b")) == []
  files.writable_dir(tmp_path / "a" / "b")


@pytest.mark.parametrize("name", ["taken", "taken/below"])
def test_writable_dir_where_a_file_stands(tmp_path, name):
  (tmp_path / "taken").write_text("")
  with pytest.raises(UserError, match=f"^{tmp_path / name}: a file stands where a directory is wanted"):
    files.writable_dir(tmp_path / name)


def test_a_directory_has_one_process_until_that_is_killed(tmp_path):
  program = ("import sys, time; from nasformer.store import files\n"
             "with files.locked(sys.argv[1]): print('locked', flush=True); time.sleep(60)")
  child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
  try:
    assert child.stdout.readline() == b"locked\n"
    with pytest.raises(UserError, match=f"another process .pid {child.pid}. is using"), files.locked(tmp_path):
      pass
  finally:
    child.send_signal(signal.SIGKILL)
    child.communicate()
  for _ in range(2):
    with files.locked(tmp_path):
      assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_lock_lets_the_errors_of_its_block_through(tmp_path):
  with pytest.raises(FileNotFoundError), files.locked(tmp_path):
    open(tmp_path / "missing")


def test_floats_survive_exactly(tmp_path):
  values = np.random.default_rng(0).standard_normal(1000).tolist()
  files.write_json(tmp_path / "a.json", values)
  assert json.loads((tmp_path / "a.json").read_text()) == values
