"""What a data set is: images and labels in three parts, the same on every machine, and who may read which.

A subclass of `Dataset` is a frozen dataclass; it reads its files (`load`) and leaves all else to `assemble`: carving
the validation part out of the training part, limits, sizes, statistics. Whatever is drawn at random is drawn from the
raw bits of PCG64, which NumPy promises not to change, unlike its `shuffle`.
"""

import dataclasses
import pathlib
from typing import Mapping

import numpy as np
from jaxtyping import Int, Int32, Shaped

from nasformer.data import images as images_lib
from nasformer.types import UserError

Batch = dict[str, Shaped[np.ndarray, "B ..."]]
Seed = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Info:
  """What is known of a data set.

  Attributes:
    name: its row in the table.
    image_shape: height, width, channels.
    num_classes: number of labels, which run from 0.
    class_names: a name for each.
    note: one sentence on origin, licence and fidelity, for reports.
    mean: mean of each channel over the training part, in grey levels of 0..255.
    std: standard deviation, likewise.
  """

  name: str
  image_shape: tuple[int, int, int]
  num_classes: int
  class_names: tuple[str, ...]
  note: str
  mean: tuple[float, ...]
  std: tuple[float, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """A part of a data set.

  Attributes:
    name: "train", "val" or "test".
    images: an array, or something that makes its rows on demand.
    labels: class of each image.
  """

  name: str
  images: images_lib.Images
  labels: Int32[np.ndarray, "E"]

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, indices: Int[np.ndarray, "B"]) -> Batch:
    """The examples at these positions, as arrays "image" and "label"."""
    return {"image": self.images[indices], "label": self.labels[indices]}

  def subset(self, name: str, indices: Int[np.ndarray, "K"]) -> "Split":
    """The examples at these positions, as a part of its own."""
    return Split(name, images_lib.pick(self.images, indices), self.labels[indices])

  def carve(self, name: str, fraction: float, seed: Seed) -> tuple["Split", "Split"]:
    """What is left, and a part with this share of every class; see `carve`."""
    kept, held = carve(self.labels, fraction, seed)
    return self.subset(self.name, kept), self.subset(name, held)


@dataclasses.dataclass(frozen=True)
class Splits:
  """A loaded data set.

  Attributes:
    info: what is known of it.
    parts: by name; read them with `get`, which keeps the test part away from search.
  """

  info: Info
  parts: Mapping[str, Split]

  @property
  def sizes(self) -> dict[str, int]:
    """Number of images in each part."""
    return {name: len(part) for name, part in self.parts.items()}

  def get(self, name: str, stage: str) -> Split:
    """One part, for one stage.

    Args:
      name: "train", "val" or "test".
      stage: who asks; only "evaluate" may read "test".

    Raises:
      UserError: there is no such part, or this stage may not read it.
    """
    if name not in self.parts:
      raise UserError(f"{self.info.name} has no part {name!r} (there are: {', '.join(self.parts)})")
    if name == "test" and stage != "evaluate":
      raise UserError(f"the stage {stage!r} may not read the part 'test', only 'evaluate' may: use 'train' or 'val'")
    return self.parts[name]


def shuffled(num: int, seed: Seed) -> Int[np.ndarray, "E"]:
  """The numbers below `num` in random order."""
  return np.argsort(np.random.PCG64(seed).random_raw(num), kind="stable")


def carve(labels: Int[np.ndarray, "E"], fraction: float,
          seed: Seed) -> tuple[Int[np.ndarray, "K"], Int[np.ndarray, "H"]]:
  """Cuts positions in two at random, each class in proportion (largest remainders first, so the total is exact).

  Args:
    labels: class of each example.
    fraction: share of the second group.
    seed: the same labels, fraction and seed give the same groups, everywhere.

  Returns:
    The positions of both groups, each in ascending order.
  """
  order = shuffled(len(labels), seed)
  order = order[np.argsort(labels[order], kind="stable")]  # class by class, in random order inside a class
  counts = np.bincount(labels)
  exact = counts * fraction
  quota = np.floor(exact).astype(int)
  missing = round(len(labels) * fraction) - quota.sum()
  quota[np.argsort(quota - exact, kind="stable")[:missing]] += 1
  rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
  held = rank < np.repeat(quota, counts)
  return np.sort(order[~held]), np.sort(order[held])


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Base of all data sets.

  Attributes:
    val_fraction: share of the training part that becomes the validation part.
    split_seed: which images those are, and which the limits below keep.
    max_train: number of training images that are kept, each class in proportion; 0 keeps all.
    max_val: likewise for the validation part.
    image_size: side in pixels that images are scaled to; 0 leaves them as they are.
  """

  val_fraction: float = 0.1
  split_seed: int = 0
  max_train: int = 0
  max_val: int = 0
  image_size: int = 0

  def __post_init__(self):
    check_fraction("val_fraction", self.val_fraction)
    for field in ("split_seed", "max_train", "max_val", "image_size"):
      if getattr(self, field) < 0:
        raise UserError(f"{field}={getattr(self, field)} must not be negative")

  def load(self, data_dir: pathlib.Path | None) -> Splits:
    """Reads the data set.

    Args:
      data_dir: the data directory; None where the user gave none.

    Raises:
      UserError: a file is missing, damaged or not what it should be.
    """
    raise NotImplementedError

  def assemble(self, name: str, note: str, class_names: tuple[str, ...], train: Split, test: Split,
               val: Split | None = None) -> Splits:
    """Makes the three parts from what was read.

    Args:
      name: row in the table.
      note: see `Info`.
      class_names: see `Info`.
      train: all training images.
      test: test images.
      val: validation images; None carves them out of `train`, as is the rule.
    """
    if val is None:
      train, val = train.carve("val", self.val_fraction, (self.split_seed, 1))
    train = _limit(train, "max_train", self.max_train, (self.split_seed, 2))
    val = _limit(val, "max_val", self.max_val, (self.split_seed, 3))
    _check(name, class_names, (train, val, test))
    parts = {part.name: self._ready(part) for part in (train, val, test)}
    mean, std = images_lib.moments(parts["train"].images)
    shape = tuple(parts["train"].images.shape[1:])
    info = Info(name, shape, len(class_names), class_names, note, tuple(mean.tolist()), tuple(std.tolist()))
    return Splits(info, parts)

  def _ready(self, part: Split) -> Split:
    images = images_lib.in_memory(part.images)
    if self.image_size:
      images = images_lib.in_memory(images_lib.resized(images, self.image_size))
    return Split(part.name, images, part.labels)


def check_fraction(field: str, value: float) -> None:
  """Refuses a share that takes nothing or leaves nothing.

  Args:
    field: its name, for the message.
    value: the share.

  Raises:
    UserError: it does not lie between 0 and 1.
  """
  if not 0 < value < 1:
    raise UserError(f"{field}={value} must lie between 0 and 1, such as 0.1")


def _limit(split: Split, field: str, limit: int, seed: Seed) -> Split:
  if limit > len(split):
    raise UserError(f"{field}={limit} is more than the {len(split)} images there are in {split.name!r}: use 0 for all")
  return split.carve(split.name, limit / len(split), seed)[1] if limit else split


def _check(name: str, class_names: tuple[str, ...], parts: tuple[Split, ...]) -> None:
  for part in parts:
    if not len(part):
      raise UserError(f"{name}: the part {part.name!r} would be empty; give more images or a larger fraction")
  absent = np.flatnonzero(np.bincount(parts[0].labels, minlength=len(class_names)) == 0)
  if len(absent):
    raise UserError(f"{name}: no training image is left of class {class_names[absent[0]]!r}; give more images, a "
                    "larger max_train or smaller fractions")
