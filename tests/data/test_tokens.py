"""Flat arrays of tokens give back what was put in, from memory and from disk."""

import numpy as np
import pytest

from nasformer.data import tokens
from nasformer.data.tokens import Tokens
from nasformer.data.vocabulary import EOS, PAD
from nasformer.types import UserError

ROWS = [[5, 6, 7], [], [8], [9, 10, 11, 12]]


@pytest.fixture
def some():
  return Tokens.joined(np.array(sum(ROWS, []), np.int32), np.array([len(row) for row in ROWS], np.int32))


def padded(rows, length):
  return [row + [EOS] + [PAD] * (length - len(row) - 1) if row is not None else [PAD] * length for row in rows]


def test_rows(some):
  assert some.rows(np.arange(4), 5).tolist() == padded(ROWS, 5)
  assert some.rows(np.array([3, -1, 0, 0]), 6).tolist() == padded([ROWS[3], None, ROWS[0], ROWS[0]], 6)
  assert some.rows(np.array([-1]), 2).tolist() == [[PAD, PAD]]
  assert some.rows(np.zeros(0, int), 5).shape == (0, 5)


def test_take_and_cut(some):
  assert len(some.take(np.array([3, 1]))) == 2
  assert some.take(np.array([3, 1])).rows(np.arange(2), 5).tolist() == padded([ROWS[3], []], 5)
  assert some.take(np.array([True, False, False, True])).rows(np.arange(2), 5).tolist() == padded([ROWS[0], ROWS[3]], 5)
  assert some.cut(2).rows(np.arange(4), 3).tolist() == padded([row[:2] for row in ROWS], 3)


@pytest.fixture
def chunks(write):
  """Pairs in three chunks, an empty one among them."""
  text = [[write.sentence(language, number) for number in range(40)] + [""] for language in ("en", "de")]
  return [(text[0][a:b], text[1][a:b]) for a, b in ((0, 25), (25, 25), (25, 41))]


def test_encode(chunks, vocabularies):
  for side, made in enumerate(tokens.encode(chunks, vocabularies)):
    sentences = [line for chunk in chunks for line in chunk[side]]
    rows = vocabularies.source.encode(sentences)
    assert made.rows(np.arange(41), 64).tolist() == padded(rows, 64)
    assert made.flat.dtype == np.int32


def test_disk_gives_the_same(chunks, vocabularies, tmp_path):
  memory = tokens.encode(chunks, vocabularies)
  made = tokens.encode_to(tmp_path / "kept" / "train", chunks, vocabularies)
  again = tokens.encode_to(tmp_path / "kept" / "train", map(pytest.fail, ["encoded again"]), vocabularies)
  for one, *others in zip(memory, made, again):
    for other in others:
      assert isinstance(other.flat, np.memmap)
      np.testing.assert_array_equal(one.rows(np.arange(41), 64), other.rows(np.arange(41), 64))
  assert sorted(path.name for path in (tmp_path / "kept" / "train").iterdir()) == [
      "counts.npy", "source.npy", "target.npy"]


@pytest.mark.parametrize("texts", [[], [([], [])], [(["", ""], ["", ""])], [(["a"], [""])]])
def test_no_text(texts, vocabularies, tmp_path):
  num = sum(len(chunk[0]) for chunk in texts)
  for made in (tokens.encode(texts, vocabularies), tokens.encode_to(tmp_path / "train", texts, vocabularies)):
    assert [len(side) for side in made] == [num, num]
    assert made[1].rows(np.arange(num), 2).tolist() == padded([[]] * num, 2)


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "source.npy").write_bytes((folder / "source.npy").read_bytes()[:-8]),
    lambda folder: (folder / "target.npy").write_bytes(b""),
    lambda folder: (folder / "counts.npy").unlink(),
    lambda folder: np.save(folder / "counts.npy", np.ones((2, 5), np.int32)),
    lambda folder: np.save(folder / "counts.npy", np.ones(5, np.int32)),
])
def test_damage_is_told(chunks, vocabularies, tmp_path, damage):
  tokens.encode_to(tmp_path / "train", chunks, vocabularies)
  damage(tmp_path / "train")
  with pytest.raises(UserError, match="train holds encoded sentences that cannot be read .*delete it"):
    tokens.encode_to(tmp_path / "train", chunks, vocabularies)
