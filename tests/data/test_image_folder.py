"""A folder of one's own images, in each layout, and with what people get wrong."""

import os

import numpy as np
import pytest
from PIL import Image

from nasformer.data import images
from nasformer.data.batching import train_batches
from nasformer.data.image_folder import ImageFolder
from nasformer.types import UserError


def test_class_folders(write, tmp_path):
  write.classes(tmp_path, *write.flat(50, 20, 3))
  splits = ImageFolder(test_fraction=0.2, val_fraction=0.25, image_size=20).load(tmp_path)
  assert splits.sizes == {"train": 30, "val": 10, "test": 10}
  assert splits.info.class_names == tuple(f"class{i}" for i in range(10))
  assert ImageFolder(path=str(tmp_path)).load(None).info.image_shape == (32, 32, 3)


@pytest.mark.parametrize("given, sizes", [
    (("train",), {"train": 36, "val": 4, "test": 10}),
    (("train", "test"), {"train": 45, "val": 5, "test": 50}),
    (("train", "val"), {"train": 40, "val": 50, "test": 10}),
    (("train", "val", "test"), {"train": 50, "val": 50, "test": 50}),
])
def test_parts_as_folders(write, tmp_path, given, sizes):
  for i, part in enumerate(given):
    write.classes(tmp_path / part, *write.flat(50, 20, 3, first=5 * i % 12))
  splits = ImageFolder(image_size=20).load(tmp_path)
  assert splits.sizes == sizes
  for part in sizes:
    batch = splits.get(part, "evaluate").take(np.arange(sizes[part]))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0] // 20, batch["label"])


def test_a_class_may_be_called_train(write, tmp_path):
  for name in ("plane", "train"):
    (tmp_path / name).mkdir()
    for i in range(10):
      Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
  assert ImageFolder().load(tmp_path).info.class_names == ("plane", "train")


def test_other_files_are_passed_over(write, tmp_path):
  write.classes(tmp_path, *write.flat(50, 20, 3))
  (tmp_path / ".cache").mkdir()
  (tmp_path / "class0" / "notes.txt").write_text("")
  (tmp_path / "class0" / "._0.png").write_text("")
  assert sum(ImageFolder().load(tmp_path).sizes.values()) == 50


def test_large_folders_are_decoded_on_demand(write, tmp_path, monkeypatch):
  write.classes(tmp_path, *write.flat(50, 20, 3))
  held = ImageFolder(image_size=16).load(tmp_path).get("train", "train")
  monkeypatch.setattr(images, "IN_MEMORY_BYTES", 0)
  lazy = ImageFolder(image_size=16).load(tmp_path).get("train", "train")
  assert isinstance(lazy.images, images.Lazy) and isinstance(held.images, np.ndarray)
  for _, one, two in zip(range(8), train_batches(lazy, 8, seed=1), train_batches(held, 8, seed=1)):
    np.testing.assert_array_equal(one["image"], two["image"])
    np.testing.assert_array_equal(one["label"], two["label"])
  for file in lazy.images.items:
    os.truncate(file, 40)
  with pytest.raises(UserError, match="png cannot be read as an image"):  # also from another thread
    next(train_batches(lazy, 4, seed=1))


@pytest.mark.parametrize("change, message", [
    (lambda root: (root / "class4" / "4.png").write_bytes(b"hello"), "4.png cannot be read as an image.*replace"),
    (lambda root: (root / "class99").mkdir(), "class99 has no image"),
    (lambda root: [Image.new("I;16", (8, 8)).save(root / "class1" / "deep.png")], "deep.png has more than 8 bits"),
])
def test_bad_folders(write, tmp_path, change, message):
  write.classes(tmp_path, *write.flat(50, 20, 3))
  change(tmp_path)
  with pytest.raises(UserError, match=message):
    ImageFolder().load(tmp_path)


def test_one_class_is_no_task(write, tmp_path):
  write.classes(tmp_path, *write.flat(1, 20, 3))
  with pytest.raises(UserError, match="has 1 class folders.*at least 2"):
    ImageFolder().load(tmp_path)


def test_parts_must_agree(write, tmp_path):
  write.classes(tmp_path / "train", *write.flat(50, 20, 3))
  write.classes(tmp_path / "test", *write.flat(20, 20, 3))
  (tmp_path / "test" / "class0").rename(tmp_path / "test" / "other")
  with pytest.raises(UserError, match="other is a class that the training images lack"):
    ImageFolder().load(tmp_path)
  (tmp_path / "test").rename(tmp_path / "testing")
  with pytest.raises(UserError, match="testing is none of train, val, test"):
    ImageFolder().load(tmp_path)


def test_fields_are_checked():
  with pytest.raises(UserError, match="image_size=0 cannot be used"):
    ImageFolder(image_size=0)
  with pytest.raises(UserError, match="test_fraction=0.0"):
    ImageFolder(test_fraction=0.0)
  with pytest.raises(UserError, match="'/no/such/place' is no directory"):
    ImageFolder(path="/no/such/place").load(None)
