"""What a data set is: examples in three parts, the same on every machine, and who may read which.

A subclass of `Dataset` is a frozen dataclass; it reads its files (`load`) and leaves all else to the `assemble` of its
kind, such as `ImageDataset` here or `Parallel` for sentence pairs: carving the validation part out of the training part, limits, sizes,
statistics. Whatever is drawn at random is drawn from the raw bits of PCG64, which NumPy promises not to change, unlike
its `shuffle`.
"""

import dataclasses
import functools
import pathlib
from typing import Any, Callable, ClassVar, Mapping

import numpy as np
from jaxtyping import Int, Int32, Shaped

from nasformer.data import images as images_lib
from nasformer.types import UserError

Batch = dict[str, Shaped[np.ndarray, "B ..."]]
Seed = int | tuple[int, ...]
Share = tuple[int, int]  # which, of how many equal shares of the rows of a batch
WHOLE: Share = (0, 1)


@dataclasses.dataclass(frozen=True)
class Info:
  """What is known of a data set of images.

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


class Part:
  """A part of a data set. What a batch holds depends on the arguments alone, so reading goes on from any step.

  Attributes:
    name: "train", "val" or "test".
  """

  name: str

  def __len__(self) -> int:
    raise NotImplementedError

  @property
  def lazy(self) -> bool:
    """Whether making a batch takes long enough for reading ahead to pay."""
    raise NotImplementedError

  def rows(self, batch_size: int) -> tuple[int, ...]:
    """Examples of a batch, of each of the shapes that batches have."""
    raise NotImplementedError

  def check(self, batch_size: int, process_count: int, training: bool) -> None:
    """Refuses a size that no batch can be made of.

    Args:
      batch_size: of a batch, over all processes; what it counts is up to the kind of data.
      process_count: processes that share a batch equally.
      training: whether batches are for training, or for evaluation.

    Raises:
      UserError: the batch is larger than the part, or cannot be shared equally.
    """
    raise NotImplementedError

  def train_batch(self, step: int, batch_size: int, seed: int, share: Share = WHOLE) -> Batch:
    """The batch of a step; the order is another one in each epoch."""
    raise NotImplementedError

  def num_eval_batches(self, batch_size: int) -> int:
    """Batches that hold every example once."""
    raise NotImplementedError

  def eval_batch(self, index: int, batch_size: int, share: Share = WHOLE) -> Batch:
    """One of the batches that hold every example once; the last ones may have rows that only fill up."""
    raise NotImplementedError


class Labelled(Part):
  """A part of a data set whose examples have one label each.

  Attributes:
    labels: class of each example.
    noun: what the examples are, for messages.
  """

  labels: Int32[np.ndarray, "E"]
  noun: ClassVar[str]

  def __len__(self) -> int:
    return len(self.labels)

  def subset(self, name: str, indices: Int[np.ndarray, "K"]) -> "Labelled":
    """The examples at these positions, as a part of its own."""
    raise NotImplementedError

  def carve(self, name: str, fraction: float, seed: Seed) -> tuple["Labelled", "Labelled"]:
    """What is left, and a part with this share of every class; see `carve`."""
    kept, held = carve(self.labels, fraction, seed)
    return self.subset(self.name, kept), self.subset(name, held)

  def check(self, batch_size: int, process_count: int, training: bool) -> None:
    if batch_size < 1 or batch_size % process_count:
      raise UserError(f"batch_size={batch_size} must be a positive multiple of the number of processes, "
                      f"{process_count}")
    if training and batch_size > len(self):
      raise UserError(f"batch_size={batch_size} is larger than the part {self.name!r} of {len(self)} {self.noun}: use at "
                      "most that many")


@dataclasses.dataclass(frozen=True, eq=False)
class Split(Labelled):
  """A part of a data set of images.

  Attributes:
    name: "train", "val" or "test".
    images: an array, or something that makes its rows on demand.
    labels: class of each image.
  """

  name: str
  images: images_lib.Images
  labels: Int32[np.ndarray, "E"]
  noun: ClassVar[str] = "images"

  @property
  def lazy(self) -> bool:
    return isinstance(self.images, images_lib.Lazy)  # an array is faster than handing over between threads

  def take(self, indices: Int[np.ndarray, "B"]) -> Batch:
    """The examples at these positions, as arrays "image" and "label"."""
    return {"image": self.images[indices], "label": self.labels[indices]}

  def subset(self, name: str, indices: Int[np.ndarray, "K"]) -> "Split":
    """The examples at these positions, as a part of its own."""
    return Split(name, images_lib.pick(self.images, indices), self.labels[indices])

  def rows(self, batch_size: int) -> tuple[int, ...]:
    return (batch_size,)

  def train_batch(self, step: int, batch_size: int, seed: int, share: Share = WHOLE) -> Batch:
    """The batch of a step; one that meets the end of an epoch goes on in the next."""
    epoch, first = divmod(step * batch_size, len(self))
    indices = self._order(seed, epoch)[first : first + batch_size]
    if len(indices) < batch_size:
      indices = np.concatenate([indices, self._order(seed, epoch + 1)[: batch_size - len(indices)]])
    return self.take(indices[portion(batch_size, share)])

  def num_eval_batches(self, batch_size: int) -> int:
    return -(-len(self) // batch_size)

  def eval_batch(self, index: int, batch_size: int, share: Share = WHOLE) -> Batch:
    """Images in order; "mask" is False in the rows that fill up the last batch."""
    positions = np.arange(index * batch_size, (index + 1) * batch_size)[portion(batch_size, share)]
    return {**self.take(np.minimum(positions, len(self) - 1)), "mask": positions < len(self)}

  @functools.cached_property
  def _order(self) -> Callable[[int, int], np.ndarray]:
    return functools.lru_cache(maxsize=2)(lambda seed, epoch: shuffled(len(self), (seed, epoch)))


@dataclasses.dataclass(frozen=True)
class Splits:
  """A loaded data set.

  Attributes:
    info: what is known of it: an `Info`, or what other kinds of data have in its place.
    parts: by name; read them with `get`, which keeps the test part away from search.
  """

  info: Any
  parts: Mapping[str, Part]

  @property
  def sizes(self) -> dict[str, int]:
    """Number of examples in each part."""
    return {name: len(part) for name, part in self.parts.items()}

  def get(self, name: str, stage: str) -> Part:
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


def portion(num: int, share: Share) -> slice:
  """Where one of the equal shares of so many rows lies."""
  rows = num // share[1]
  return slice(share[0] * rows, (share[0] + 1) * rows)


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
    split_seed: which examples those are, and which the limits below keep.
    max_train: number of training examples that are kept; 0 keeps all.
    max_val: likewise for the validation part.
  """

  val_fraction: float = 0.1
  split_seed: int = 0
  max_train: int = 0
  max_val: int = 0

  def __post_init__(self):
    check_fraction("val_fraction", self.val_fraction)
    check_not_negative(self, "split_seed", "max_train", "max_val")

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> Splits:
    """Reads the data set.

    Args:
      data_dir: the data directory; None where the user gave none.
      cache_dir: where the data set may keep what it made, such as a vocabulary, for the next time; None keeps nothing.

    Raises:
      UserError: a file is missing, damaged or not what it should be.
    """
    raise NotImplementedError

  def dealt(self, name: str, class_names: tuple[str, ...], train: Labelled, test: Labelled,
            val: Labelled | None = None) -> tuple[Labelled, Labelled, Labelled]:
    """Training, validation and test part of examples with one label each, cut in proportion of the classes.

    Args:
      name: row in the table.
      class_names: a name for each label.
      train: all training examples.
      test: test examples.
      val: validation examples; None carves them out of `train`, as is the rule.

    Raises:
      UserError: a part would be empty, or lack a class to learn.
    """
    if val is None:
      train, val = train.carve("val", self.val_fraction, (self.split_seed, 1))
    train = _limit(train, "max_train", self.max_train, (self.split_seed, 2))
    val = _limit(val, "max_val", self.max_val, (self.split_seed, 3))
    _check(name, class_names, (train, val, test))
    return train, val, test


@dataclasses.dataclass(frozen=True)
class ImageDataset(Dataset):
  """Base of the data sets of images with one label each. Parts keep the proportions of classes when they are cut.

  Attributes:
    image_size: side in pixels that images are scaled to; 0 leaves them as they are.
  """

  image_size: int = 0

  def __post_init__(self):
    super().__post_init__()
    check_not_negative(self, "image_size")

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
    parts = {part.name: self._ready(part) for part in self.dealt(name, class_names, train, test, val)}
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


def check_not_negative(dataset: Dataset, *fields: str) -> None:
  """Refuses negative numbers.

  Args:
    dataset: what has the fields.
    *fields: their names.

  Raises:
    UserError: one is below 0.
  """
  for field in fields:
    if getattr(dataset, field) < 0:
      raise UserError(f"{field}={getattr(dataset, field)} must not be negative")


def check_limit(field: str, limit: int, available: int, what: str) -> None:
  """Refuses to keep more than there is.

  Args:
    field: name of the limit, for the message.
    limit: number that is to be kept.
    available: number that there is.
    what: what is counted, such as "images in 'train'".

  Raises:
    UserError: the limit is the larger one.
  """
  if limit > available:
    raise UserError(f"{field}={limit} is more than the {available} {what}: use 0 for all")


def _limit(split: Labelled, field: str, limit: int, seed: Seed) -> Labelled:
  check_limit(field, limit, len(split), f"{split.noun} there are in {split.name!r}")
  return split.carve(split.name, limit / len(split), seed)[1] if limit else split


def _check(name: str, class_names: tuple[str, ...], parts: tuple[Labelled, ...]) -> None:
  for part in parts:
    if not len(part):
      raise UserError(f"{name}: the part {part.name!r} would be empty; give more {part.noun} or a larger fraction")
  absent = np.flatnonzero(np.bincount(parts[0].labels, minlength=len(class_names)) == 0)
  if len(absent):
    raise UserError(f"{name}: no training example is left of class {class_names[absent[0]]!r}; give more {parts[0].noun}, a "
                    "larger max_train or smaller fractions")
