"""MNIST and Fashion-MNIST: the official idx files, or npz files of the arrays "images" and "labels".

Sources: LeCun et al. 1998, Gradient-based learning applied to document recognition (the idx format is at the foot of
http://yann.lecun.com/exdb/mnist/); Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747.
"""

import dataclasses
import pathlib
from typing import ClassVar

import numpy as np

from nasformer.data import base, files
from nasformer.types import UserError

IDX_STEMS = {"train": "train", "test": "t10k"}
SIDE = 28


@dataclasses.dataclass(frozen=True)
class Mnist(base.ImageDataset):
  """MNIST, 28x28 handwritten digits of 10 classes: the official idx.gz files or npz files.

  Attributes:
    test_fraction: share of the training images that becomes the test part where no test file is; 0 insists on one.
  """

  test_fraction: float = 0.0

  NAME: ClassVar[str] = "mnist"
  CLASS_NAMES: ClassVar[tuple[str, ...]] = tuple("0123456789")
  NOTE: ClassVar[str] = "MNIST (LeCun et al. 1998; customarily CC BY-SA 3.0)"

  def __post_init__(self):
    super().__post_init__()
    if self.test_fraction:
      base.check_fraction("test_fraction", self.test_fraction)

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads the first form found in data_dir/<name>, then in data_dir."""
    for folder in files.folders(data_dir, self.NAME):
      train = _read(folder, self.NAME, "train")
      if train is not None:
        return self._finish(folder, train, _read(folder, self.NAME, "test"))
    raise UserError(f"no {self.NAME} in {data_dir / self.NAME} or {data_dir}: put train-images-idx3-ubyte.gz, "
                    f"train-labels-idx1-ubyte.gz and their t10k- pair there, or {self.NAME}_train.npz and "
                    f"{self.NAME}_test.npz with arrays 'images' and 'labels'")

  def _finish(self, folder: pathlib.Path, train: base.Split, test: base.Split | None) -> base.Splits:
    remarks = [_levels(train.images)]
    if test is None:
      if not self.test_fraction:
        raise UserError(f"{folder} has training images of {self.NAME} but no test images: add them, or set "
                        "test_fraction, such as 0.1, to carve them out of the training images")
      train, test = train.carve("test", self.test_fraction, (self.split_seed, 0))
      remarks.append(f"the test part is not the official one but {len(test):,} images carved out of the training file")
    note = "; ".join([self.NOTE, *filter(None, remarks)]) + "."
    return self.assemble(self.NAME, note, self.CLASS_NAMES, train, test)


@dataclasses.dataclass(frozen=True)
class FashionMnist(Mnist):
  """Fashion-MNIST, 28x28 grey pictures of clothes of 10 classes: the official idx.gz files or npz files."""

  test_fraction: float = 0.1

  NAME: ClassVar[str] = "fashion_mnist"
  CLASS_NAMES: ClassVar[tuple[str, ...]] = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                                            "sneaker", "bag", "ankle boot")
  NOTE: ClassVar[str] = "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017; MIT licence)"


def _levels(pixels: np.ndarray) -> str:
  low, high = int(pixels.min()), int(pixels.max())
  return "" if (low, high) == (0, 255) else f"tone-mapped copy, its grey levels span {low}..{high} instead of 0..255"


def _read(folder: pathlib.Path, name: str, part: str) -> base.Split | None:
  for suffix in (".gz", ""):
    path = folder / f"{IDX_STEMS[part]}-images-idx3-ubyte{suffix}"
    if path.exists():
      labels = folder / f"{IDX_STEMS[part]}-labels-idx1-ubyte{suffix}"
      return _checked(path, part, _idx(path, 3), _idx(labels, 1))
  archives = sorted(folder.glob(f"{name}*{part}*.npz"))
  if not archives:
    return None
  splits = [_checked(path, part, *_npz(path)) for path in archives]
  return base.Split(part, np.concatenate([split.images for split in splits]),
                    np.concatenate([split.labels for split in splits]))


def _idx(path: pathlib.Path, rank: int) -> np.ndarray:
  raw = files.content(path)
  magic, header = bytes([0, 0, 8, rank]), 4 + 4 * rank  # 8 stands for uint8
  if raw[:4] != magic or len(raw) < header:
    raise UserError(f"{path} is no idx file of {rank} axes (it begins with {raw[:4]!r}, not {magic!r}): fetch it again")
  shape = tuple(np.frombuffer(raw[4:header], ">u4").tolist())
  if len(raw) - header != np.prod(shape, dtype=np.int64):
    raise UserError(f"{path} promises {'x'.join(map(str, shape))} bytes and has {len(raw) - header}: fetch it again")
  return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _npz(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  with files.reading(path), np.load(path) as arrays:
    return arrays["images"], arrays["labels"]


def _checked(path: pathlib.Path, part: str, pixels: np.ndarray, labels: np.ndarray) -> base.Split:
  if pixels.dtype != np.uint8 or pixels.shape[1:] != (SIDE, SIDE) or not len(pixels):
    raise UserError(f"{path}: images are {pixels.dtype} of shape {pixels.shape}, which should be uint8 of shape "
                    f"(number, {SIDE}, {SIDE})")
  if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu" or not np.isin(labels, range(10)).all():
    raise UserError(f"{path}: {len(pixels)} images have {labels.dtype} labels of shape {labels.shape}; there should be "
                    "one for each, of 0..9")
  return base.Split(part, pixels[..., None], labels.astype(np.int32))
