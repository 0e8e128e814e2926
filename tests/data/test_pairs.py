"""Sentence pairs: reading them, telling them apart, dealing them out."""

import collections

import numpy as np
import pytest

from nasformer.data import pairs
from nasformer.types import UserError


@pytest.fixture
def both(write, tmp_path):
  """Function (source lines, target lines) -> the two paths."""
  return lambda *sides: [write.lines(tmp_path / name, side) for name, side in zip(("a.en", "a.de.gz"), sides)]


def test_read(both):
  made = pairs.read(*both(["one", " two "], ["eins", "zwei"]))
  assert (made.sources, made.targets) == (["one", " two "], ["eins", "zwei"])
  assert [list(chunk) for chunk in made.chunks()] == [[made.sources, made.targets]]
  taken = made.take(np.array([1]))
  assert (taken.sources, taken.targets, len(taken)) == ([" two "], ["zwei"], 1)
  assert pairs.joined([made, taken]).targets == ["eins", "zwei", "zwei"]


def test_many_pairs_come_in_chunks(monkeypatch):
  monkeypatch.setattr(pairs, "CHUNK", 3)
  made = pairs.Lines([str(i) for i in range(8)], [str(-i) for i in range(8)])
  assert [len(sources) for sources, _ in made.chunks()] == [3, 3, 2]
  assert [line for _, targets in made.chunks() for line in targets] == made.targets
  assert len(pairs.keys(made)) == 8


LONG = " ".join("word" for _ in range(20))


@pytest.mark.parametrize("sources, targets, message", [
    (["a", "b", "c"], ["a", "b"], "a.en has 3 lines and .*a.de.gz has 2, .*: line 3 is the first without a counter"),
    (["a"], ["a", "b"], "has 1 lines and .* has 2, .*: line 2 is the first without"),
    (["a", LONG, "b", LONG], ["a", "b", LONG], "line 2 is the first that looks misaligned, with 20 words against 1"),
    (["a", " "], ["a", "b"], "a.en, line 2 is empty"),
    (["a", "b", "c"], ["a", "", ""], "a.de.gz, line 2 is empty"),
    (["a"], [], "a.de.gz is empty: put one sentence in each line"),
])
def test_bad_files(both, sources, targets, message):
  with pytest.raises(UserError, match=message):
    pairs.read(*both(sources, targets))


def test_blanks_may_be_allowed(both):
  made = pairs.read(*both(["a", "", "c"], ["a", "b", "\t"]), blanks=True)
  assert (pairs.keys(made) == pairs.BLANK).tolist() == [False, True, True]


def test_keys_tell_sources_apart():
  key = pairs.keys(pairs.Lines(["a", " a ", "b", "A"], ["1", "2", "1", "1"]))
  assert key[0] == key[1] and len(set(key.tolist())) == 3 and key.dtype == np.uint64
  assert int(key[0]) == 3405396810240292928  # once and for ever: splits of published runs depend on it


def numbers(*values):
  return np.array(values, np.uint64)


@pytest.mark.parametrize("seed", range(5))
def test_carve_keeps_repetitions_together(seed):
  keys = np.random.default_rng(0).integers(1, 300, 1000).astype(np.uint64)
  positions = np.flatnonzero(keys % np.uint64(7) != 0)
  kept, held = pairs.carve(keys, positions, 0.2, seed)
  np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), positions)
  assert not set(keys[kept]) & set(keys[held])
  wanted = round(len(positions) * 0.2)
  assert wanted <= len(held) < wanted + max(collections.Counter(keys.tolist()).values())
  again = pairs.carve(keys, positions, 0.2, seed)
  np.testing.assert_array_equal(held, again[1])
  assert set(held) != set(pairs.carve(keys, positions, 0.2, seed + 1)[1])


def test_deal_what_is_given():
  """Training loses 0 (blank), 5 and 6 (of val) and 8 (of test); val loses 8 (of test)."""
  dealt, gone = pairs.deal({"train": numbers(1, 0, 5, 2, 6, 5, 8, 3), "val": numbers(5, 8, 6), "test": numbers(8, 9)},
                           {}, seed=0)
  assert {part: positions.tolist() for part, positions in dealt.items()} == {
      "train": [0, 3, 7], "val": [0, 2], "test": [0, 1]}
  assert gone == {"train": 4, "val": 1}


@pytest.mark.parametrize("given", [(), ("val",), ("test",)])
def test_deal_what_is_carved(given):
  keys = {"train": np.arange(200, dtype=np.uint64)} | {part: numbers(5, 1000) for part in given}
  dealt, gone = pairs.deal(keys, {"test": 0.1, "val": 0.1}, seed=0)
  whole = 199 - len(given)  # without the blank and without 5
  test = 2 if "test" in given else round(whole * 0.1)
  left = whole - (0 if "test" in given else test)
  val = 2 if "val" in given else round(left * 0.1)
  assert {part: len(positions) for part, positions in dealt.items()} == {
      "train": left - (0 if "val" in given else val), "val": val, "test": test}
  own = [set(dealt[part].tolist()) for part in ("train", "val", "test") if part not in given]
  assert sum(map(len, own)) == len(set.union(*own)) == whole
  assert gone["train"] == len(given)
