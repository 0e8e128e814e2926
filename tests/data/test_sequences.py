"""The contract of every data set of sequences with labels, and batches of unequal lengths."""

import itertools

import numpy as np
import pytest

from nasformer.data.batching import eval_batches, train_batches
from nasformer.data.sequences import Ragged, Split, shortened
from nasformer.types import UserError

STAGES = {"train": "search", "val": "search", "test": "evaluate"}
ROWS = [np.arange(count, dtype=np.int32) + 10 * count for count in (3, 1, 4, 2, 4, 1, 3, 8)]


def make():
  return Split("train", "texts", Ragged.joined(ROWS), np.arange(8, dtype=np.int32) % 2, (4, 8))


def known(splits, part):
  """What tells the examples of a part apart."""
  values = splits.get(part, STAGES[part]).values
  return [values.rows(np.array([i]), 400).tobytes() for i in range(len(values))]


def test_rows_are_padded_with_zeros():
  got = make().values.rows(np.array([1, -1, 0]), 4)
  np.testing.assert_array_equal(got, [[10, 0, 0, 0], [0] * 4, [30, 31, 32, 0]])


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_example_is_evaluated_once_in_its_bucket(batch_size):
  seen = []
  for batch in eval_batches(make(), batch_size):
    assert batch["values"].shape[0] == batch_size and batch["values"].shape[1] in (4, 8)
    np.testing.assert_array_equal(batch["mask"], batch["length"] > 0)
    for values, length, label, real in zip(*(batch[name] for name in ("values", "length", "label", "mask"))):
      if real:
        number = next(i for i, row in enumerate(ROWS) if row.tolist() == values[:length].tolist() and i not in seen)
        assert label == number % 2 and (length > 4) == (len(values) == 8)
        seen.append(number)
  assert sorted(seen) == list(range(8))


def test_training_goes_on_from_any_step_and_sees_all():
  take = lambda batches, num: [{name: x.tolist() for name, x in batch.items()} for batch in itertools.islice(batches, num)]
  through = train_batches(make(), 2, seed=3)
  assert take(itertools.islice(through, 5, None), 6) == take(train_batches(make(), 2, seed=3, start_step=5), 6)
  epoch = take(train_batches(make(), 2, seed=3), make().num_train_batches(2))
  assert {tuple(v[:n]) for batch in epoch for v, n in zip(batch["values"], batch["length"]) if n} == {
      tuple(row.tolist()) for row in ROWS}


def test_longer_ones_lose_their_tails_and_that_is_said():
  cut, said = shortened(make(), 3)
  assert said == ["cut to 3 in train: 3 of 8"] and cut.values.counts.max() == 3
  assert shortened(make(), 8)[1] == []


def test_bad_sizes_are_told():
  with pytest.raises(UserError, match="batch_size=9 is larger than the part 'train' of 8 texts"):
    train_batches(make(), 9, seed=0)


# -- every row of the table ---------------------------------------------------------------------------------------------


def test_parts_are_apart_and_the_same_each_time(sequence):
  one, two = sequence.load(), sequence.load()
  assert one.info == two.info and one.info.note.endswith(".")
  parts = {part: known(one, part) for part in STAGES}
  assert parts == {part: known(two, part) for part in STAGES}
  sets = [set(rows) for rows in parts.values()]
  assert not any(a & b for a, b in itertools.combinations(sets, 2)) and all(sets)
  for part in STAGES:
    split = one.get(part, STAGES[part])
    assert set(split.labels) == set(range(one.info.num_classes)) == {0, 1}
    assert split.values.counts.max() <= one.info.max_length <= one.info.lengths[-1]


def test_val_is_in_proportion_and_limits_are_kept(sequence):
  splits = sequence.load(max_train=20, max_val=6)
  assert (splits.sizes["train"], splits.sizes["val"]) == (20, 6)
  for part in ("train", "val"):
    assert np.ptp(np.bincount(splits.get(part, "search").labels)) <= 1
  with pytest.raises(UserError, match="may not read the part 'test'"):
    splits.get("test", "search")


def test_missing_files_are_told(sequence, tmp_path):
  for folder in (None, tmp_path / "absent", tmp_path):
    with pytest.raises(UserError):
      sequence.make().load(folder)
