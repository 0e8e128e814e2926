"""Parts of data sets of sequences with one label each, such as texts and series: unequal lengths, and batches of few shapes.

A batch is of one bucket of lengths and has `batch_size` rows: {"values": [B steps ...], "length": int32 [B], "label": int32
[B], "mask": bool [B]}. Values are zero beyond the length; rows that only fill up have length 0 and are False in the mask.
"""

import dataclasses
from typing import Sequence

import numpy as np
from jaxtyping import Int, Int32, Num

from nasformer.data import base
from nasformer.data.buckets import Bucketed


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
  """Sequences of unequal lengths, all in one array.

  Attributes:
    flat: the steps of all sequences, one after another; may be longer than what is used of it.
    starts: where each sequence begins.
    counts: steps of each.
  """

  flat: Num[np.ndarray, "N *channels"]
  starts: Int[np.ndarray, "E"]
  counts: Int[np.ndarray, "E"]

  @classmethod
  def joined(cls, rows: Sequence[Num[np.ndarray, "_ *channels"]]) -> "Ragged":
    """Sequences one after another; there must be at least one."""
    counts = np.array([len(row) for row in rows], np.int64)
    return cls(np.concatenate(rows), np.cumsum(counts) - counts, counts)

  def __len__(self) -> int:
    return len(self.counts)

  def take(self, indices: Int[np.ndarray, "K"]) -> "Ragged":
    """The sequences at these positions."""
    return Ragged(self.flat, self.starts[indices], self.counts[indices])

  def cut(self, limit: int) -> "Ragged":
    """The first steps of each sequence, at most so many."""
    return Ragged(self.flat, self.starts, np.minimum(self.counts, limit))

  def steps(self) -> Num[np.ndarray, "K *channels"]:
    """All steps that are used."""
    return np.concatenate([self.flat[start : start + count] for start, count in zip(self.starts, self.counts)])

  def rows(self, indices: Int[np.ndarray, "B"], length: int) -> Num[np.ndarray, "B length *channels"]:
    """These sequences, zero from their ends up to `length`; a row of zeros for every negative index."""
    made = np.zeros((len(indices), length, *self.flat.shape[1:]), self.flat.dtype)
    for row, index in enumerate(indices):
      if index >= 0:
        made[row, : self.counts[index]] = self.flat[self.starts[index] : self.starts[index] + self.counts[index]]
    return made


@dataclasses.dataclass(frozen=True, eq=False)
class Split(base.Labelled, Bucketed):
  """A part of a data set of sequences.

  Attributes:
    name: "train", "val" or "test".
    noun: what the examples are, such as "texts".
    values: the sequences.
    labels: class of each.
    lengths: to which batches are padded, in ascending order.
  """

  name: str
  noun: str
  values: Ragged
  labels: Int32[np.ndarray, "E"]
  lengths: tuple[int, ...]

  @property
  def lazy(self) -> bool:
    return False

  def subset(self, name: str, indices: Int[np.ndarray, "K"]) -> "Split":
    return dataclasses.replace(self, name=name, values=self.values.take(indices), labels=self.labels[indices])

  def rows_by_length(self, batch_size: int) -> tuple[int, ...]:
    return (batch_size,) * len(self.lengths)

  def needed(self) -> Int[np.ndarray, "E"]:
    return self.values.counts

  def collated(self, indices: Int[np.ndarray, "_"], length: int, share: base.Share) -> base.Batch:
    mine = indices[base.portion(len(indices), share)]
    real = mine >= 0
    return {"values": self.values.rows(mine, length), "length": np.where(real, self.values.counts[mine], 0).astype(np.int32),
            "label": np.where(real, self.labels[mine], 0).astype(np.int32), "mask": real}


def shortened(split: Split, max_length: int) -> tuple[Split, list[str]]:
  """A part whose longer sequences are cut to their first steps, and what is to be said of that."""
  num = int((split.values.counts > max_length).sum())
  said = [f"cut to {max_length:,} in {split.name}: {num:,} of {len(split):,}"] if num else []
  return dataclasses.replace(split, values=split.values.cut(max_length)), said
