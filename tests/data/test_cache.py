"""What is kept is whole, made once, and refused when damaged."""

import concurrent.futures
import time

import numpy as np
import pytest

from nasformer.data import cache
from nasformer.types import UserError


def test_place_tells_things_apart(tmp_path):
  told = [("keys", "a"), ("keys", "b"), ("train", "a"), ("keys", "a", "b"), ("keys", "ab")]
  places = {cache.place(tmp_path, *words) for words in told}
  assert len(places) == 5 and cache.place(tmp_path, "keys", "a") in places


def test_a_thing_is_made_once_though_many_ask(tmp_path):
  calls = []

  def make(path):
    calls.append(path)
    path.mkdir()
    time.sleep(0.02)  # the others come meanwhile
    (path / "file").write_text("whole")

  ask = lambda _: (cache.made(tmp_path / "deep" / "thing", make) / "file").read_text()
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(ask, range(4))) == ["whole"] * 4
  assert len(calls) == 1


def test_what_a_killed_process_left_is_replaced(tmp_path):
  def fail(path):
    path.mkdir()
    (path / "half").write_text("")
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    cache.made(tmp_path / "thing", fail)
  assert not (tmp_path / "thing").exists()
  assert not list(cache.made(tmp_path / "thing", lambda path: path.mkdir()).iterdir())


def test_array(tmp_path):
  path = tmp_path / "keys"
  for _ in range(2):
    np.testing.assert_array_equal(cache.array(path, lambda: np.arange(5)), np.arange(5))
  never = lambda: pytest.fail("made again")
  np.testing.assert_array_equal(cache.array(path, never), np.arange(5))
  path.write_bytes(path.read_bytes()[:-3])
  with pytest.raises(UserError, match="keys cannot be read .*delete it"):
    cache.array(path, never)
