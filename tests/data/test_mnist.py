"""MNIST and Fashion-MNIST in both forms, and with nothing but a training file."""

import gzip
import struct

import numpy as np
import pytest

from nasformer.data.mnist import FashionMnist, Mnist
from nasformer.types import UserError


def idx(array):
  return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder, write, pack, suffix, skip=()):
  folder.mkdir(exist_ok=True)
  for stem, num, first in (("train", 90, 0), ("t10k", 20, 9)):
    pixels, labels = write.flat(num, 28, 1, first)
    for name, array in ((f"{stem}-images-idx3-ubyte", pixels[..., 0]), (f"{stem}-labels-idx1-ubyte", labels)):
      if name not in skip:
        (folder / f"{name}{suffix}").write_bytes(pack(idx(array)))


@pytest.mark.parametrize("dataset", [Mnist, FashionMnist])
@pytest.mark.parametrize("pack, suffix", [(gzip.compress, ".gz"), (bytes, "")])
@pytest.mark.parametrize("own_folder", [True, False])
def test_official_files(write, tmp_path, dataset, pack, suffix, own_folder):
  write_idx(tmp_path / dataset.NAME if own_folder else tmp_path, write, pack, suffix)
  splits = dataset().load(tmp_path)
  assert splits.sizes == {"train": 81, "val": 9, "test": 20}
  test = splits.get("test", "evaluate").take(np.arange(20))
  pixels, labels = write.flat(20, 28, 1, 9)
  np.testing.assert_array_equal(test["image"], pixels)
  np.testing.assert_array_equal(test["label"], labels)
  assert "carved" not in splits.info.note


def test_both_forms_give_the_same(write, tmp_path):
  for form in ("a", "b"):
    (tmp_path / form).mkdir()
  write_idx(tmp_path / "a" / "mnist", write, gzip.compress, ".gz")
  write.npz(tmp_path / "b", "mnist")
  one, two = Mnist().load(tmp_path / "a"), Mnist().load(tmp_path / "b")
  assert one.info == two.info
  np.testing.assert_array_equal(one.get("val", "search").images, two.get("val", "search").images)


def test_test_part_is_carved_where_there_is_none(write, tmp_path):
  for name in ("mnist", "fashion_mnist"):
    write.npz(tmp_path, name, (("train", 120, 0),))
  with pytest.raises(UserError, match="no test images: add them, or set test_fraction"):
    Mnist().load(tmp_path)
  splits = FashionMnist().load(tmp_path)
  assert splits.sizes == {"train": 97, "val": 11, "test": 12}
  assert "12 images carved out of the training file" in splits.info.note
  assert Mnist(test_fraction=0.5).load(tmp_path).sizes["test"] == 60
  with pytest.raises(UserError, match="test_fraction=1.0"):
    Mnist(test_fraction=1.0)


def test_compressed_levels_are_noted(write, tmp_path):
  write.npz(tmp_path, "mnist")
  assert "tone-mapped copy, its grey levels span 0..188" in Mnist().load(tmp_path).info.note  # 9 x 20 + 8


def save(path, **arrays):
  np.savez(path, **arrays)


BLANK = np.zeros((4, 28, 28), np.uint8)


@pytest.mark.parametrize("damage, message", [
    (lambda p: p.write_bytes(p.read_bytes()[:200]), "mnist_train.npz cannot be read"),
    (lambda p: p.write_bytes(b"hello"), "mnist_train.npz cannot be read"),
    (lambda p: save(p, images=BLANK), "mnist_train.npz cannot be read.*labels"),
    (lambda p: save(p, images=BLANK[:, :27], labels=np.zeros(4, int)), r"train.npz: images are uint8 of .*\(4, 27"),
    (lambda p: save(p, images=BLANK / 255, labels=np.zeros(4, int)), "mnist_train.npz: images are float64"),
    (lambda p: save(p, images=BLANK[:0], labels=np.zeros(0, int)), r"shape \(0, 28, 28\)"),
    (lambda p: save(p, images=BLANK, labels=np.zeros(3, int)), "4 images have int64 labels of shape"),
    (lambda p: save(p, images=BLANK, labels=np.full(4, 10)), "one for each, of 0..9"),
    (lambda p: save(p, images=np.array([{}] * 4), labels=np.full(4, 1)), "mnist_train.npz cannot be read"),
])
def test_bad_npz(write, tmp_path, damage, message):
  write.npz(tmp_path, "mnist")
  damage(tmp_path / "mnist" / "mnist_train.npz")
  with pytest.raises(UserError, match=message):
    Mnist().load(tmp_path)


@pytest.mark.parametrize("name, change, message", [
    ("train-images-idx3-ubyte.gz", lambda raw: raw[:50], "train-images-idx3-ubyte.gz cannot be read"),
    ("train-images-idx3-ubyte.gz", lambda raw: gzip.compress(gzip.decompress(raw)[:-1]), "promises 90x28x28 bytes"),
    ("train-images-idx3-ubyte.gz", lambda raw: gzip.compress(b""), "no idx file of 3 axes"),
    ("train-labels-idx1-ubyte.gz", lambda raw: gzip.compress(idx(BLANK)), "train-labels.* is no idx file of 1 axes"),
    ("t10k-images-idx3-ubyte.gz", lambda raw: gzip.compress(idx(BLANK[:, :20])), r"t10k-images.*\(4, 20, 28\)"),
    ("t10k-labels-idx1-ubyte.gz", lambda raw: gzip.compress(idx(np.zeros(3))), "20 images have uint8 labels"),
])
def test_bad_idx(write, tmp_path, name, change, message):
  write_idx(tmp_path / "mnist", write, gzip.compress, ".gz")
  path = tmp_path / "mnist" / name
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(UserError, match=message):
    Mnist().load(tmp_path)


def test_missing_labels(write, tmp_path):
  write_idx(tmp_path / "mnist", write, gzip.compress, ".gz", skip=("train-labels-idx1-ubyte",))
  with pytest.raises(UserError, match="train-labels-idx1-ubyte.gz cannot be read.*missing"):
    Mnist().load(tmp_path)


def test_real_copies(data_dir):
  splits = Mnist().load(data_dir)
  assert splits.sizes == {"train": 54_000, "val": 6_000, "test": 10_000}
  np.testing.assert_allclose(splits.info.mean, 33.318, atol=0.1)
  fashion = FashionMnist().load(data_dir)
  assert sum(fashion.sizes.values()) in (60_000, 70_000)
  assert (np.bincount(fashion.get("val", "search").labels) == fashion.sizes["val"] // 10).all()
