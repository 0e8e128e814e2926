"""Batches are a function of seed and step, cover every epoch, and are shared out without loss."""

import itertools

import numpy as np
import pytest

from nasformer.data.base import Split
from nasformer.data.batching import eval_batches, train_batches
from nasformer.types import UserError


@pytest.fixture
def split():
  """Images whose one pixel is their position."""
  positions = np.arange(50)
  return Split("train", positions.astype(np.uint8)[:, None, None, None], (positions % 7).astype(np.int32))


def positions(batches, num):
  return [batch["image"].ravel().tolist() for batch in itertools.islice(batches, num)]


@pytest.mark.parametrize("batch_size", [1, 8, 25, 50])
def test_each_epoch_holds_every_image_once_in_another_order(split, batch_size):
  order = np.concatenate(positions(train_batches(split, batch_size, seed=0), 200 // batch_size)).reshape(-1, 50)
  np.testing.assert_array_equal(np.sort(order, 1), np.tile(np.arange(50), (len(order), 1)))
  assert len({tuple(row) for row in order}) == len(order)


def test_batches_go_on_in_the_next_epoch(split):
  order = np.concatenate(positions(train_batches(split, 8, seed=0), 13))
  assert sorted(order[:50]) == sorted(order[50:100]) == list(range(50))


@pytest.mark.parametrize("start", [1, 6, 7, 40, 1000])
def test_any_step_can_be_resumed_at(split, start):
  through = itertools.islice(train_batches(split, 8, seed=3), start, None)
  resumed = train_batches(split, 8, seed=3, start_step=start)
  assert positions(through, 15) == positions(resumed, 15)


def test_seed_sets_the_order(split):
  one, same, other = (positions(train_batches(split, 8, seed=seed), 5) for seed in (1, 1, 2))
  assert one == same != other


def test_images_keep_their_labels(split):
  for batch in itertools.islice(train_batches(split, 8, seed=0), 10):
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"].ravel() % 7, batch["label"])


def test_processes_share_each_batch(split):
  whole = positions(train_batches(split, 8, seed=0), 20)
  shares = [positions(train_batches(split, 8, 0, process_index=i, process_count=4), 20) for i in range(4)]
  assert whole == [sum(parts, []) for parts in zip(*shares)]


@pytest.mark.parametrize("batch_size", [1, 8, 25, 50, 64])
@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_sees_every_image_once_in_order(split, batch_size, count):
  if batch_size % count:
    return
  shares = [list(eval_batches(split, batch_size, i, count)) for i in range(count)]
  seen = []
  for batches in zip(*shares, strict=True):
    for batch in batches:
      assert len(batch["image"]) == len(batch["label"]) == len(batch["mask"]) == batch_size // count
      seen += batch["image"].ravel()[batch["mask"]].tolist()
  assert seen == list(range(50))


def test_bad_sizes_are_told(split):
  with pytest.raises(UserError, match="batch_size=51 is larger than the part 'train' of 50 images"):
    train_batches(split, 51, seed=0)
  for make in (lambda: train_batches(split, 9, 0, process_count=2), lambda: eval_batches(split, 0)):
    with pytest.raises(UserError, match="must be a positive multiple of the number of processes"):
      make()
