"""Batches of sentence pairs: a function of seed and step, of few shapes, with every pair once."""

import itertools

import numpy as np
import pytest

from nasformer.data.batching import eval_batches, train_batches
from nasformer.data.buckets import Split
from nasformer.data.tokens import Tokens
from nasformer.data.vocabulary import EOS, PAD
from nasformer.types import UserError

LENGTHS = (8, 16, 32)
BATCH = 256  # rows: 32, 16, 8


def make(source_counts, target_counts, vocabularies):
  """Pairs whose source tokens are their position + 10, and whose target tokens are 5."""
  sides = [Tokens.joined(np.repeat(values, counts).astype(np.int32), np.array(counts, np.int32))
           for values, counts in ((np.arange(len(source_counts)) + 10, source_counts),
                                  (np.full(len(target_counts), 5), target_counts))]
  texts = [str(i) for i in range(len(source_counts))]
  return Split("train", texts, texts, *sides, LENGTHS, vocabularies)


@pytest.fixture
def split(vocabularies):
  """150 pairs, of which 3 are long: fewer than a batch has rows."""
  counts = np.random.default_rng(0).integers(1, 16, (2, 150))
  counts[0, :3] = 31
  return make(*counts, vocabularies)


def stream(batches, num):
  return [{key: value.tolist() for key, value in batch.items()} for batch in itertools.islice(batches, num)]


def test_rows_hold_about_the_same_number_of_tokens(split):
  assert split.rows(BATCH) == (32, 16, 8)
  assert split.rows(1000) == (120, 56, 24)  # 125, 62.5 and 31.25, down to a multiple of 8
  assert split.rows(1) == (8, 8, 8)


@pytest.mark.parametrize("batch_size", [1, BATCH, 1000, 10**5])
def test_an_epoch_has_every_pair_and_few_twice(split, batch_size):
  for epoch in range(3):
    num = split.num_train_batches(batch_size)
    batches = [split.train_batch(step, batch_size, 0) for step in range(epoch * num, (epoch + 1) * num)]
    index = np.concatenate([batch["index"] for batch in batches])
    seen = np.bincount(index[index >= 0], minlength=150)
    assert seen.min() == 1 and seen.max() <= 2
    assert (seen - 1).sum() + (index < 0).sum() < sum(split.rows(batch_size))  # what fills the last of each bucket


def test_shapes_are_bounded_by_the_lengths(split):
  shapes = {batch["source"].shape for batch in itertools.islice(train_batches(split, BATCH, 0), 40)}
  shapes |= {batch["target"].shape for batch in eval_batches(split, BATCH)}
  assert shapes == set(zip(split.rows(BATCH), LENGTHS))


def test_pairs_lie_in_the_shortest_bucket_that_holds_both_sides(vocabularies):
  split = make([7, 8, 1, 1, 31], [1, 1, 7, 15, 31], vocabularies)  # with EOS: 8, 9, 8, 16, 32
  lengths = {index: batch["source"].shape[1] for batch in eval_batches(split, 8) for index in batch["index"].tolist()}
  assert {index: lengths[index] for index in range(5)} == {0: 8, 1: 16, 2: 8, 3: 16, 4: 32}


def test_rows_are_tokens_and_an_end(split):
  for batch in [*itertools.islice(train_batches(split, BATCH, 3), 30), *eval_batches(split, BATCH)]:
    for row, index in enumerate(batch["index"]):
      for side, tokens, value in (("source", split.source_tokens, index + 10), ("target", split.target_tokens, 5)):
        count = tokens.counts[index] if index >= 0 else 0
        end = [EOS] if index >= 0 else []
        padding = [PAD] * (batch[side].shape[1] - count - len(end))
        assert batch[side][row].tolist() == [value] * count + end + padding
    assert {batch[key].dtype for key in ("source", "target", "index")} == {np.dtype(np.int32)}


def test_weights_make_the_mean_over_tokens(split):
  """mean over rows of weight x (sum of a row's losses / its tokens) = sum of all losses / all tokens."""
  for batch in [*itertools.islice(train_batches(split, BATCH, 0), 10), *eval_batches(split, BATCH)]:
    tokens = (batch["target"] != PAD).sum(1)
    losses = np.random.default_rng(1).random(len(tokens)) * tokens
    expected = losses.sum() / tokens.sum()
    np.testing.assert_allclose((batch["weight"] * losses / np.maximum(tokens, 1)).mean(), expected, rtol=1e-5)
    assert batch["weight"].dtype == np.float32
    np.testing.assert_array_equal(batch["weight"] == 0, batch["index"] < 0)


@pytest.mark.parametrize("start", [1, 7, 12, 13, 1000])
def test_any_step_can_be_resumed_at(split, start):
  through = itertools.islice(train_batches(split, BATCH, seed=3), start, None)
  assert stream(through, 15) == stream(train_batches(split, BATCH, seed=3, start_step=start), 15)


def test_seed_and_epoch_set_the_order(split):
  num = split.num_train_batches(BATCH)
  one, same, other = (stream(train_batches(split, BATCH, seed=seed), num) for seed in (1, 1, 2))
  assert one == same != other
  later = stream(train_batches(split, BATCH, seed=1, start_step=num), num)
  lengths = [[len(batch["source"][0]) for batch in epoch] for epoch in (one, later)]
  assert lengths[0] != lengths[1] and sorted(lengths[0]) == sorted(lengths[1])  # batches are shuffled, too
  assert sorted(batch["index"] for batch in one) != sorted(batch["index"] for batch in later)


def test_a_bucket_smaller_than_a_batch_is_filled_with_padding(split):
  (batch,) = [batch for batch in stream(train_batches(split, BATCH, 0), split.num_train_batches(BATCH))
              if len(batch["source"][0]) == 32]
  assert sorted(batch["index"]) == [-1] * 5 + [0, 1, 2]


@pytest.mark.parametrize("batch_size", [1, BATCH, 10**5])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_each_batch(split, batch_size, count):
  whole = stream(train_batches(split, batch_size, 0), 20), stream(eval_batches(split, batch_size), 99)
  shares = [(stream(train_batches(split, batch_size, 0, process_index=i, process_count=count), 20),
             stream(eval_batches(split, batch_size, i, count), 99)) for i in range(count)]
  for which in range(2):
    joined = [{key: sum((part[key] for part in parts), []) for key in parts[0]}
              for parts in zip(*(share[which] for share in shares), strict=True)]
    assert joined == whole[which]


@pytest.mark.parametrize("batch_size", [1, BATCH, 10**5])
def test_evaluation_sees_every_pair_once_in_order(split, batch_size):
  batches = stream(eval_batches(split, batch_size), 99)
  assert len(batches) == split.num_eval_batches(batch_size)
  for length in LENGTHS:
    seen = [index for batch in batches if len(batch["source"][0]) == length for index in batch["index"] if index >= 0]
    assert seen == sorted(seen)
  assert sorted(index for batch in batches for index in batch["index"] if index >= 0) == list(range(150))


def test_only_lengths_that_occur_count(vocabularies):
  """Batches of 16 rows, of the only length that there is, can be shared by 16 processes; those of 8 rows would not occur."""
  split = make([12] * 40, [9] * 40, vocabularies)
  assert split.rows_by_length(BATCH) == (32, 16, 8) and split.rows(BATCH) == (16,)
  split.check(BATCH, 16, training=True)
  with pytest.raises(UserError, match="batches of 16 sentence pairs, which 32 processes cannot share"):
    split.check(BATCH, 32, training=True)


def test_bad_sizes_are_told(split):
  for make_batches in (lambda **count: train_batches(split, 0, 0, **count), lambda **count: eval_batches(split, -1)):
    with pytest.raises(UserError, match="must be a positive number of padded target tokens"):
      make_batches()
  with pytest.raises(UserError, match="batches of 32 sentence pairs, which 3 processes cannot share equally"):
    train_batches(split, BATCH, 0, process_count=3)
