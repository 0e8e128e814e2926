"""Series of numbers with one label each: what all data sets of them share, from raw cases to parts."""

import dataclasses
import pathlib
from typing import Mapping, NamedTuple

import numpy as np
from jaxtyping import Float

from nasformer.data import base, sequences
from nasformer.data.buckets import check_lengths
from nasformer.types import UserError

PARTS = ("train", "val", "test")


class Case(NamedTuple):
  """One series as it was read: where, its label, and its values."""

  where: str
  label: str
  values: Float[np.ndarray, "steps channels"]


@dataclasses.dataclass(frozen=True)
class SeriesInfo:
  """What is known of a data set of series.

  Attributes:
    name: its row in the table, and the set.
    num_classes: number of labels, which run from 0.
    class_names: a name for each.
    max_length: steps of the longest series that is read.
    lengths: to which batches are padded.
    note: one sentence on origin, licence and what was cut, for reports.
    mean: mean of each channel over the training part.
    std: standard deviation, likewise.
  """

  name: str
  num_classes: int
  class_names: tuple[str, ...]
  max_length: int
  lengths: tuple[int, ...]
  note: str
  mean: tuple[float, ...]
  std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Series(base.Dataset):
  """Base of the data sets of series. A subclass reads cases and leaves the rest to `assemble`.

  Channels are standardised by the network, with mean and deviation over the steps of the training part. Of a series that is
  too long the head is kept.

  Attributes:
    max_length: steps of the longest series; 0 takes the longest one to learn from.
    lengths: to which batches are padded, ascending, the last `max_length` or more; empty takes `max_length` alone.
  """

  val_fraction: float = 0.2
  max_length: int = 0
  lengths: tuple[int, ...] = ()

  def __post_init__(self):
    super().__post_init__()
    base.check_not_negative(self, "max_length")
    if self.lengths:
      check_lengths(self.lengths, self.max_length)

  def assemble(self, name: str, note: str, cases: Mapping[str, list[Case]], test_fraction: float = 0.0) -> base.Splits:
    """Makes the three parts from cases.

    Args:
      name: row in the table, and the set.
      note: begin of the note, without its last full stop.
      cases: of "train", and of "val" and "test" where they are given; they are carved out of "train" otherwise.
      test_fraction: share of the training cases that becomes the test part where there is none.

    Raises:
      UserError: a part would be empty or lack a class, or series do not fit each other.
    """
    class_names = tuple(sorted({case.label for case in cases["train"]}, key=lambda label: (len(label), label)))
    if len(class_names) < 2:
      raise UserError(f"{name}: {len(class_names)} class in its {len(cases['train'])} training series: there must be at"
                      " least 2")
    longest = self.max_length or max(len(case.values) for case in cases["train"])
    lengths, said = self.lengths or (longest,), [note]
    parts = {}
    for part, rows in cases.items():
      _check(rows, class_names, cases["train"][0].values.shape[1])
      labels = np.array([class_names.index(case.label) for case in rows], np.int32)
      values = sequences.Ragged.joined([case.values for case in rows])
      parts[part], cut = sequences.shortened(sequences.Split(part, "series", values, labels, lengths), longest)
      said += cut
    if "test" not in parts:
      parts["train"], parts["test"] = parts["train"].carve("test", test_fraction, (self.split_seed, 0))
    carved = [part for part in PARTS if part not in cases]
    said += [f"{' and '.join(carved)} carved out of train in proportion of the classes"] if carved else []
    train, val, test = self.dealt(name, class_names, parts["train"], parts["test"], parts["val"] if "val" in parts else None)
    steps = train.values.steps().astype(np.float64)
    std = np.where(steps.std(0) > 1e-8, steps.std(0), 1.0)  # no division by nothing where a channel is constant
    info = SeriesInfo(name, len(class_names), class_names, longest, lengths, "; ".join(said) + ".",
                      tuple(steps.mean(0).tolist()), tuple(std.tolist()))
    return base.Splits(info, {part.name: part for part in (train, val, test)})

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    raise NotImplementedError


def numbers(where: str, text: str) -> Float[np.ndarray, "steps"]:
  """The values of one channel, separated by commas.

  Raises:
    UserError: one is missing or no finite number.
  """
  cells = text.split(",")
  try:
    values = np.array(cells, np.float32)
  except ValueError:
    values = np.full(len(cells), np.nan, np.float32)
    for i, cell in enumerate(cells):
      if cell.strip() in ("?", ""):
        raise UserError(f"{where}: value {i + 1} is missing ({cell.strip() or 'nothing'!r}): fill it in or remove the series") from None
      try:
        values[i] = float(cell)
      except ValueError:
        raise UserError(f"{where}: value {i + 1} is {cell.strip()!r}, which is no number") from None
  if not np.isfinite(values).all():
    bad = int(np.flatnonzero(~np.isfinite(values))[0])
    raise UserError(f"{where}: value {bad + 1} is {cells[bad].strip()!r}: missing and infinite values cannot be used, fill them"
                    " in or remove the series")
  return values


def _check(cases: list[Case], class_names: tuple[str, ...], channels: int) -> None:
  for case in cases:
    if case.label not in class_names:
      raise UserError(f"{case.where}: the class {case.label!r} is none that the training series have"
                      f" ({', '.join(class_names)})")
    if case.values.shape[1] != channels:
      raise UserError(f"{case.where}: {case.values.shape[1]} dimensions, and the first series has {channels}: all must have as"
                      " many")
