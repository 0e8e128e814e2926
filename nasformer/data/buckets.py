"""Batches of examples of about one length, and parts of sentence pairs that are cut into them.

Pairs are sorted into buckets by their longer side. A batch is of one bucket and has about the same number of padded
target tokens whatever its length, so there are no more shapes than lengths, and each is compiled once.

A batch is {"source": int32 [B S], "target": int32 [B S], "weight": float32 [B], "index": int32 [B]}. Sentences are
tokens, EOS, then PAD, up to S, the length of the bucket on both sides. The weight is B times the share of the row in
the target tokens (EOS included) of the batch, so weighting the mean losses of rows gives the mean loss of a token. The
index is the position in the part, -1 for a row of PAD that only fills up, whose weight is 0.
"""

import dataclasses
import functools
import itertools
from typing import Callable, Sequence

import numpy as np
from jaxtyping import Int

from nasformer.data import base
from nasformer.data.tokens import Tokens
from nasformer.data.vocabulary import Vocabularies
from nasformer.types import UserError

ROWS = 8  # batches have a multiple of this many rows


class Bucketed(base.Part):
  """A part whose examples are sorted into buckets by length; a batch is of one bucket.

  Attributes:
    lengths: to which batches are padded, in ascending order: one for each bucket.
  """

  lengths: tuple[int, ...]

  def rows_by_length(self, batch_size: int) -> tuple[int, ...]:
    """Number of rows of a batch of each length, also of one that no example needs."""
    raise NotImplementedError

  def rows(self, batch_size: int) -> tuple[int, ...]:
    return tuple(rows for rows, size in zip(self.rows_by_length(batch_size), self._sizes) if size)

  def needed(self) -> Int[np.ndarray, "E"]:
    """The length that each example needs."""
    raise NotImplementedError

  def collated(self, indices: Int[np.ndarray, "_"], length: int, share: base.Share) -> base.Batch:
    """A share of the batch of these examples, padded to this length; -1 is a row that only fills up."""
    raise NotImplementedError

  def num_train_batches(self, batch_size: int) -> int:
    """Batches of an epoch."""
    return sum(self._batches(batch_size))

  def train_batch(self, step: int, batch_size: int, seed: int, share: base.Share = base.WHOLE) -> base.Batch:
    """The batch of a step: one bucket, shuffled; the bucket's last batch is filled up from its beginning."""
    epoch, position = divmod(step, self.num_train_batches(batch_size))
    order, numbers = self._epoch(batch_size, seed, epoch)
    return self._batch(order, int(numbers[position]), batch_size, share, again=True)

  def num_eval_batches(self, batch_size: int) -> int:
    return self.num_train_batches(batch_size)

  def eval_batch(self, index: int, batch_size: int, share: base.Share = base.WHOLE) -> base.Batch:
    """Examples bucket by bucket, in order; each bucket's last batch is filled up with rows of padding."""
    return self._batch(self._in_order, index, batch_size, share, again=False)

  def _batch(self, order: np.ndarray, number: int, batch_size: int, share: base.Share, again: bool) -> base.Batch:
    """A batch, by its number, of examples that are in order of their buckets."""
    ends = np.cumsum(self._batches(batch_size))
    bucket = int(np.searchsorted(ends, number, side="right"))
    rows, length = self.rows_by_length(batch_size)[bucket], self.lengths[bucket]
    first = (number - int(ends[bucket]) + self._batches(batch_size)[bucket]) * rows
    start = int(self._sizes[:bucket].sum())
    members = order[start : start + int(self._sizes[bucket])]
    indices = members[first : first + rows]
    missing = rows - len(indices)
    fill = members[:missing] if again and len(members) >= rows else np.full(missing, -1)
    return self.collated(np.concatenate([indices, fill]), length, share)

  def _batches(self, batch_size: int) -> list[int]:
    """Number of batches of each bucket."""
    return [-(-int(size) // rows) for size, rows in zip(self._sizes, self.rows_by_length(batch_size))]

  @functools.cached_property
  def _buckets(self) -> np.ndarray:
    return np.searchsorted(self.lengths, self.needed()).astype(np.int8)

  @functools.cached_property
  def _sizes(self) -> np.ndarray:
    return np.bincount(self._buckets, minlength=len(self.lengths))

  @functools.cached_property
  def _in_order(self) -> np.ndarray:
    return np.argsort(self._buckets, kind="stable")

  @functools.cached_property
  def _epoch(self) -> Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]:
    """Examples, in random order inside each bucket, and the numbers of the batches that are cut from them."""

    def epoch(batch_size: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
      drawn = base.shuffled(len(self), (seed, epoch))
      numbers = base.shuffled(self.num_train_batches(batch_size), (seed, epoch, 1))
      return drawn[np.argsort(self._buckets[drawn], kind="stable")], numbers

    return functools.lru_cache(maxsize=2)(epoch)


def check_lengths(lengths: tuple[int, ...], max_length: int) -> None:
  """Refuses lengths that do not ascend, or end before the longest example.

  Args:
    lengths: to which batches are padded.
    max_length: of an example.

  Raises:
    UserError: they do.
  """
  if not lengths or any(one >= two for one, two in itertools.pairwise((1, *lengths))):
    raise UserError(f"lengths={lengths} must ascend from at least 2, such as (16, 32, 64, 128)")
  if lengths[-1] < max_length:
    raise UserError(f"lengths={lengths} must end with at least max_length={max_length}")


@dataclasses.dataclass(frozen=True, eq=False)
class Split(Bucketed):
  """A part of a data set of sentence pairs.

  Attributes:
    name: "train", "val" or "test".
    sources: the sentences as they were written.
    targets: their translations, likewise.
    source_tokens: what the network reads.
    target_tokens: what it should write.
    lengths: to which batches are padded, in ascending order.
    vocabularies: of both sides, to turn tokens back into text.
  """

  name: str
  sources: Sequence[str]
  targets: Sequence[str]
  source_tokens: Tokens
  target_tokens: Tokens
  lengths: tuple[int, ...]
  vocabularies: Vocabularies

  def __len__(self) -> int:
    return len(self.source_tokens)

  @property
  def lazy(self) -> bool:
    return isinstance(self.source_tokens.flat, np.memmap)

  def rows_by_length(self, batch_size: int) -> tuple[int, ...]:
    """Number of rows of a batch of each length, for batches of so many padded target tokens."""
    return tuple(max(ROWS, batch_size // length // ROWS * ROWS) for length in self.lengths)

  def check(self, batch_size: int, process_count: int, training: bool) -> None:
    if batch_size < 1:
      raise UserError(f"batch_size={batch_size} must be a positive number of padded target tokens")
    uneven = [rows for rows in self.rows(batch_size) if rows % process_count]
    if uneven:
      raise UserError(f"batch_size={batch_size} makes batches of {uneven[0]} sentence pairs, which {process_count} "
                      f"processes cannot share equally: use a number of them that divides {ROWS}")

  def needed(self) -> Int[np.ndarray, "E"]:
    return np.maximum(self.source_tokens.counts, self.target_tokens.counts) + 1  # for EOS

  def collated(self, indices: Int[np.ndarray, "_"], length: int, share: base.Share) -> base.Batch:
    counts = np.where(indices >= 0, self.target_tokens.counts[indices] + 1, 0)
    weight = (len(indices) * counts / counts.sum()).astype(np.float32)
    rows = base.portion(len(indices), share)
    mine = indices[rows]
    return {"source": self.source_tokens.rows(mine, length), "target": self.target_tokens.rows(mine, length),
            "weight": weight[rows], "index": mine.astype(np.int32)}
