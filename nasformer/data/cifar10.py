"""CIFAR-10, in any of the forms it is handed around in.

Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images; formats of the official batches as on
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import dataclasses
import functools
import io
import pathlib
import pickle
from typing import Callable

import numpy as np

from nasformer.data import base, files, images
from nasformer.types import UserError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (32, 32, 3)
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
NUM_TEST = 10_000
EXACT = "pixels as published"
LOSSY = "lossy JPEG copy, so that accuracies are close to but not those of CIFAR-10"

Parts = dict[str, base.Split]


@dataclasses.dataclass(frozen=True)
class Cifar10(base.ImageDataset):
  """CIFAR-10, 32x32 colour photographs of 10 classes: official batches, ArrayRecord copy, or JPEG archives."""

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads the first form found in data_dir/cifar10, then in data_dir; lossless ones are looked for first."""
    for folder in files.folders(data_dir, "cifar10"):
      for form in (_official, _array_record, _jpeg):
        found = form(folder)
        if found:
          parts, fidelity = found
          return self.assemble("cifar10", _note(fidelity, len(parts["test"])), CLASS_NAMES, **parts)
    raise UserError(f"no CIFAR-10 in {data_dir / 'cifar10'} or {data_dir}: put cifar-10-python.tar.gz, "
                    "cifar-10-binary.tar.gz (or their unpacked folders), the 3.0.2 folder of an ArrayRecord copy by "
                    "tensorflow-datasets, or *train*.tar.gz and *test*.tar.gz of train/CLASS/*.jpg there")


def _note(fidelity: str, num_test: int) -> str:
  part = "" if num_test == NUM_TEST else f", {num_test:,} of the {NUM_TEST:,} test images"
  name = "CIFAR-10 (JPEG)" if fidelity == LOSSY else "CIFAR-10"
  return f"{name} (Krizhevsky 2009; no licence published, research use with citation is customary): {fidelity}{part}."


# -- official batches -------------------------------------------------------------------------------------------------


def _official(folder: pathlib.Path) -> tuple[Parts, str] | None:
  for name, suffix, parse in (("cifar-10-batches-py", "", _from_pickle), ("cifar-10-python.tar.gz", "", _from_pickle),
                              ("cifar-10-batches-bin", ".bin", _from_binary),
                              ("cifar-10-binary.tar.gz", ".bin", _from_binary)):
    path = folder / name
    if path.exists():
      batches = {name.split('/')[-1]: raw for name, raw in files.members(path)}
      return {part: _joined(path, part, suffix, parse, batches) for part in BATCHES}, EXACT
  return None


def _joined(path: pathlib.Path, part: str, suffix: str, parse: Callable, batches: dict[str, bytes]) -> base.Split:
  pixels, labels = [], []
  for stem in BATCHES[part]:
    if stem + suffix not in batches:
      raise UserError(f"{path} has no {stem}{suffix}: fetch it again")
    with files.reading(path / (stem + suffix)):
      rows, classes = parse(batches[stem + suffix])
      if len(classes) and not 0 <= min(classes) <= max(classes) < len(CLASS_NAMES):
        raise ValueError(f"labels {min(classes)}..{max(classes)}, which should be 0..9")
      pixels.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # stored as planes
      labels.append(np.asarray(classes, np.int32))
  return base.Split(part, np.concatenate(pixels), np.concatenate(labels))


class _Unpickler(pickle.Unpickler):
  """Makes arrays and nothing else: a pickle may otherwise run any code."""

  ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
             ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}

  def find_class(self, module: str, name: str):
    if (module, name) not in self.ALLOWED:
      raise pickle.UnpicklingError(f"it holds {module}.{name}, which has no place in a CIFAR-10 batch")
    return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _from_pickle(raw: bytes) -> tuple[np.ndarray, list[int]]:
  batch = _Unpickler(io.BytesIO(raw), encoding="latin1").load()
  batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
  rows, labels = batch["data"], batch["labels"]
  if rows.dtype != np.uint8 or rows.shape != (len(labels), np.prod(SHAPE)):
    raise ValueError(f"{len(labels)} labels and data of shape {rows.shape}, which should be uint8 rows of 3072")
  return rows, labels


def _from_binary(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
  table = np.frombuffer(raw, np.uint8).reshape(-1, 1 + np.prod(SHAPE))
  return table[:, 1:], table[:, 0]


# -- ArrayRecord ------------------------------------------------------------------------------------------------------


def _array_record(folder: pathlib.Path) -> tuple[Parts, str] | None:
  versions = [info.parent for info in sorted(folder.glob("*/dataset_info.json"))]
  versions = [version for version in versions if any(version.glob("cifar10-train*"))]
  if not versions:
    return None
  if not any(versions[-1].glob("cifar10-train.array_record*")):
    raise UserError(f"{versions[-1]} is no ArrayRecord copy: prepare it with file_format='array_record', which is read "
                    "without TensorFlow")
  return {part: _records(versions[-1], part) for part in BATCHES}, EXACT


def _records(path: pathlib.Path, part: str) -> base.Split:
  try:
    import tensorflow_datasets as tfds  # imported on use: only this form needs it

    with files.reading(path):
      source = tfds.builder_from_directory(path).as_data_source(part, decoders={"image": tfds.decode.SkipDecoding()})
      examples = source.__getitems__(range(len(source)))
  except ImportError as error:
    raise UserError(f"{path} is an ArrayRecord copy, which needs the packages tensorflow-datasets and array_record "
                    f"({error}): install them") from error
  items = [(f"{path}: {part} example {i}", example["image"]) for i, example in enumerate(examples)]
  return _encoded(part, items, [example["label"] for example in examples])


# -- JPEG archives ----------------------------------------------------------------------------------------------------


def _jpeg(folder: pathlib.Path) -> tuple[Parts, str] | None:
  archives = {part: sorted(folder.glob(f"*{part}*.tar.gz")) for part in BATCHES}
  if not any(archives.values()):
    return None
  for part, paths in archives.items():
    if not paths:
      raise UserError(f"{folder} has no *{part}*.tar.gz beside its other CIFAR-10 archive: add it")
  return {part: _unpacked(part, paths) for part, paths in archives.items()}, LOSSY


def _unpacked(part: str, paths: list[pathlib.Path]) -> base.Split:
  items, labels = [], []
  for path in paths:
    found = sorted((name, raw) for name, raw in files.members(path)
                   if name.lower().endswith((".jpg", ".jpeg")) and name.split("/")[-3:-2] == [part])
    if not found:
      raise UserError(f"{path} has no image {part}/CLASS/*.jpg: it should hold CIFAR-10 as JPEG files in class folders")
    for name, raw in found:
      class_name = name.split("/")[-2]
      if class_name not in CLASS_NAMES:
        raise UserError(f"{path}: {name} is in no folder of a CIFAR-10 class (those are: {', '.join(CLASS_NAMES)})")
      items.append((f"{path}: {name}", raw))
      labels.append(CLASS_NAMES.index(class_name))
  return _encoded(part, items, labels)


def _encoded(part: str, items: list[tuple[str, bytes]], labels: list[int]) -> base.Split:
  decode = functools.partial(images.decode_exact, SHAPE)
  return base.Split(part, images.Lazy(items, decode, (len(items), *SHAPE)), np.asarray(labels, np.int32))
