"""A user's own images: one folder per class."""

import dataclasses
import functools
import pathlib

import numpy as np

from nasformer.data import base, images
from nasformer.types import UserError

PARTS = ("train", "val", "test")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclasses.dataclass(frozen=True)
class ImageFolder(base.ImageDataset):
  """Your own images, a folder per class (CLASS/*.png), or such folders inside train/, val/ and test/.

  Images become RGB; the shorter side is scaled to `image_size` and the centre is cut out. What val/ or test/ does not
  give is carved out of the training images.

  Attributes:
    path: the folder; empty takes the data directory.
    test_fraction: share of the images that becomes the test part where there is no test/.
  """

  path: str = ""
  image_size: int = 32
  test_fraction: float = 0.2

  def __post_init__(self):
    super().__post_init__()
    base.check_fraction("test_fraction", self.test_fraction)
    if not self.image_size:
      raise UserError("image_size=0 cannot be used with image_folder, whose images may differ in size: give a side in "
                      "pixels, such as 32")

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Lists the images, and decodes them unless there are too many to keep in memory."""
    root = self._root(data_dir)
    sources = _sources(root)
    class_names = tuple(folder.name for folder in _folders(sources["train"]))
    if len(class_names) < 2:
      raise UserError(f"{sources['train']} has {len(class_names)} class folders: image_folder needs one per class, at "
                      "least 2")
    parts = {part: self._read(part, source, class_names) for part, source in sources.items()}
    if "test" not in parts:
      parts["train"], parts["test"] = parts["train"].carve("test", self.test_fraction, (self.split_seed, 0))
    given = " and ".join(f"{part}/" for part in sources if (root / part) == sources[part]) or "class folders"
    note = (f"Images of the user's folder {root.name!r} ({given}; licence: as the owner says), scaled and cut to "
            f"{self.image_size}x{self.image_size} RGB.")
    return self.assemble("image_folder", note, class_names, **parts)

  def _root(self, data_dir: pathlib.Path | None) -> pathlib.Path:
    if not self.path and data_dir is None:
      raise UserError("image_folder reads a folder of class folders: name it by the field `path`, by --data_dir or by "
                      "the variable NASFORMER_DATA")
    root = pathlib.Path(self.path) if self.path else data_dir
    if not root.is_dir():
      raise UserError(f"image_folder: {str(root)!r} is no directory: give one that holds a folder per class")
    return root

  def _read(self, part: str, source: pathlib.Path, class_names: tuple[str, ...]) -> base.Split:
    items, labels = [], []
    for folder in _folders(source):
      if folder.name not in class_names:
        raise UserError(f"{folder} is a class that the training images lack (they have: {', '.join(class_names)})")
      found = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and _shown(file))
      if not found:
        raise UserError(f"{folder} has no image ({', '.join(sorted(SUFFIXES))}): add some or remove the folder")
      items += found
      labels += [class_names.index(folder.name)] * len(found)
    decode = functools.partial(images.decode_square, self.image_size)
    shape = (len(items), self.image_size, self.image_size, 3)
    return base.Split(part, images.Lazy(items, decode, shape), np.asarray(labels, np.int32))


def _sources(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Folder of each part; a folder "train" with folders in it says that the parts are given apart."""
  if not (root / "train").is_dir() or not _folders(root / "train"):
    return {"train": root}
  for folder in _folders(root):
    if folder.name not in PARTS:
      raise UserError(f"{folder} is none of {', '.join(PARTS)}: beside train/, only these are read; rename or move it")
  return {part: root / part for part in PARTS if (root / part).is_dir()}


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
  return sorted(entry for entry in path.iterdir() if entry.is_dir() and _shown(entry))


def _shown(path: pathlib.Path) -> bool:
  return not path.name.startswith(".")
