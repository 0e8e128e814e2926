"""Tiny copies of every data set, written in the form of the real ones: the contract tests need no data.

Every image is one flat colour that no other image has, so that a test can tell images apart. Its red (or grey) level,
20 x label + a number below 12, says its class, even after JPEG compression.
"""

import dataclasses
import io
import os
import pathlib
import tarfile
import types

import numpy as np
import pytest
from PIL import Image

from nasformer.data import TABLE
from nasformer.registry import lookup

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def flat(num: int, side: int, channels: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels, labels 0..9 in turn; `first` keeps the colours of test images apart from training images."""
  labels = np.arange(num) % 10
  number = first + np.arange(num) // 10
  levels = np.stack([labels * 20 + number, number * 20, labels * 9], 1).astype(np.uint8)
  return np.broadcast_to(levels[:, None, None, :channels], (num, side, side, channels)).copy(), labels


def encode(pixels: np.ndarray, form: str) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(buffer, form)
  return buffer.getvalue()


def write_tar(path: pathlib.Path, members: dict[str, bytes]) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w:gz") as archive:
    for name, content in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  return path


def jpeg_members(part: str, pixels: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
  return {f"{part}/{CIFAR_CLASSES[label]}/{i:04d}.jpg": encode(image, "JPEG")
          for i, (image, label) in enumerate(zip(pixels, labels))}


def write_classes(root: pathlib.Path, pixels: np.ndarray, labels: np.ndarray) -> None:
  for i, (image, label) in enumerate(zip(pixels, labels)):
    file = root / f"class{label}" / f"{i}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode(image, "PNG"))


def write_cifar10(root: pathlib.Path) -> None:
  for part, num, first in (("train", 90, 0), ("test", 20, 9)):
    write_tar(root / "cifar10" / f"cifar10_jpeg_{part}.tar.gz", jpeg_members(part, *flat(num, 32, 3, first)))


def write_npz(root: pathlib.Path, name: str, parts=(("train", 90, 0), ("test", 20, 9))) -> None:
  (root / name).mkdir(parents=True)
  for part, num, first in parts:
    pixels, labels = flat(num, 28, 1, first)
    np.savez_compressed(root / name / f"{name}_{part}.npz", images=pixels[..., 0], labels=labels.astype(np.uint8))


WRITERS = {
    "digits": lambda root: root.mkdir(),
    "cifar10": write_cifar10,
    "mnist": lambda root: write_npz(root, "mnist"),
    "fashion_mnist": lambda root: write_npz(root, "fashion_mnist", (("train", 120, 0),)),
    "image_folder": lambda root: write_classes(root, *flat(120, 40, 3)),
}


@dataclasses.dataclass(frozen=True)
class Tiny:
  """A data set and its tiny copy."""

  name: str
  directory: pathlib.Path

  def load(self, **fields):
    return lookup(TABLE, self.name)(**fields).load(self.directory)


@pytest.fixture(scope="session")
def write() -> types.SimpleNamespace:
  """What the tiny copies are made with, for tests that break them."""
  return types.SimpleNamespace(flat=flat, encode=encode, tar=write_tar, jpegs=jpeg_members, classes=write_classes,
                               cifar10=write_cifar10, npz=write_npz)


@pytest.fixture(scope="session", params=sorted(TABLE))
def tiny(request, tmp_path_factory) -> Tiny:
  """Each data set of the table in turn; a new row needs a writer above."""
  root = tmp_path_factory.mktemp("data") / "root"
  WRITERS[request.param](root)
  return Tiny(request.param, root)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
  """The real data directory."""
  if "NASFORMER_DATA" not in os.environ:
    pytest.skip("NASFORMER_DATA names no data directory")
  return pathlib.Path(os.environ["NASFORMER_DATA"])
