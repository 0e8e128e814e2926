"""The contract of every data set of the table, and the rules of carving."""

import numpy as np
import pytest

from nasformer.data import TABLE, base
from nasformer.registry import lookup
from nasformer.types import UserError, first_line

SHUFFLED = [7, 4, 5, 1, 6, 2, 0, 3]  # of 8, by the seed (0, 1): once drawn, now fixed
STAGES = {"train": "search", "val": "search", "test": "evaluate"}


def everything(splits, part):
  split = splits.get(part, STAGES[part])
  return split.take(np.arange(len(split)))


def identities(batch):
  return [image.tobytes() for image in batch["image"]]


def test_info_agrees_with_the_images(tiny):
  splits = tiny.load()
  info = splits.info
  assert info.name == tiny.name and info.note.endswith(".") and first_line(lookup(TABLE, tiny.name))
  assert len(info.class_names) == info.num_classes == 10
  for part in STAGES:
    batch = everything(splits, part)
    assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32
    assert batch["image"].shape == (splits.sizes[part], *info.image_shape)
    assert set(batch["label"]) <= set(range(10))
  pixels = everything(splits, "train")["image"].astype(float)
  np.testing.assert_allclose(info.mean, pixels.mean((0, 1, 2)), rtol=1e-9)
  np.testing.assert_allclose(info.std, pixels.std((0, 1, 2)), rtol=1e-9)


def test_labels_belong_to_the_images(tiny):
  if tiny.name == "digits":
    pytest.skip("real images, checked in test_digits")
  for part in STAGES:
    batch = everything(tiny.load(), part)
    red = batch["image"][..., 0].mean((1, 2))
    np.testing.assert_array_equal((red + 4) // 20, batch["label"])  # 4: JPEG may darken an image a little


def test_loading_twice_gives_the_same(tiny):
  one, two = tiny.load(), tiny.load()
  assert one.info == two.info
  for part in STAGES:
    assert identities(everything(one, part)) == identities(everything(two, part))


def test_no_image_is_in_two_parts(tiny):
  splits = tiny.load()
  parts = {part: set(identities(everything(splits, part))) for part in STAGES}
  assert sum(map(len, parts.values())) == sum(splits.sizes.values()) == len(set.union(*parts.values()))


def test_seed_moves_images_between_train_and_val_only(tiny):
  fields = {"test_fraction": 0.2} if tiny.name in ("digits", "fashion_mnist", "image_folder") else {}
  one, two = tiny.load(split_seed=0, **fields), tiny.load(split_seed=1, **fields)
  assert one.sizes == two.sizes
  assert set(identities(everything(one, "val"))) != set(identities(everything(two, "val")))
  if not fields:  # the test part is a file of its own
    assert identities(everything(one, "test")) == identities(everything(two, "test"))
    both = [set(identities(everything(each, "train")) + identities(everything(each, "val"))) for each in (one, two)]
    assert both[0] == both[1]


def test_limits_keep_classes_in_proportion_and_parts_apart(tiny):
  whole, part = tiny.load(val_fraction=0.25), tiny.load(val_fraction=0.25, max_train=40, max_val=10)
  assert part.sizes == {"train": 40, "val": 10, "test": whole.sizes["test"]}
  for name in ("train", "val"):
    assert set(identities(everything(part, name))) < set(identities(everything(whole, name)))
  assert np.ptp(np.bincount(everything(part, "train")["label"])) <= 1


def test_images_can_be_scaled(tiny):
  native, scaled = tiny.load(), tiny.load(image_size=12)
  assert scaled.info.image_shape == (12, 12, native.info.image_shape[2])
  assert everything(scaled, "val")["image"].shape[1:] == scaled.info.image_shape
  np.testing.assert_array_equal(everything(scaled, "val")["label"], everything(native, "val")["label"])
  np.testing.assert_allclose(scaled.info.mean, native.info.mean, atol=2.5)


@pytest.mark.parametrize("stage", ["train", "search", "retrain", "report"])
def test_test_part_is_refused(tiny, stage):
  splits = tiny.load()
  with pytest.raises(UserError, match=f"'{stage}' may not read the part 'test'"):
    splits.get("test", stage)
  assert len(splits.get("test", "evaluate")) == splits.sizes["test"]


def test_unknown_part_is_refused(tiny):
  with pytest.raises(UserError, match="no part 'dev'.*train, val, test"):
    tiny.load().get("dev", "search")


def test_missing_data_directory_is_told(tiny, tmp_path):
  if tiny.name == "digits":
    return  # embedded
  dataset = lookup(TABLE, tiny.name)()
  with pytest.raises(UserError, match="--data_dir.*NASFORMER_DATA"):
    dataset.load(None)
  with pytest.raises(UserError, match="absent.*no directory"):
    dataset.load(tmp_path / "absent")
  with pytest.raises(UserError, match=tmp_path.name):
    dataset.load(tmp_path)


@pytest.mark.parametrize("fields, message", [
    ({"val_fraction": 0.0}, "val_fraction=0.0 must lie between 0 and 1"),
    ({"val_fraction": 1.0}, "val_fraction=1.0"),
    ({"max_train": -1}, "max_train=-1 must not be negative"),
    ({"split_seed": -1}, "split_seed=-1"),
    ({"max_train": 10**6}, "max_train=1000000 is more than the .* use 0 for all"),
    ({"max_train": 5}, "no training example is left of class .*larger max_train"),
    ({"val_fraction": 1e-9}, "part 'val' would be empty"),
])
def test_bad_fields_are_told(tiny, fields, message):
  with pytest.raises(UserError, match=message):
    tiny.load(**fields)


def test_carve_is_exact_and_stratified():
  labels = np.random.default_rng(0).integers(0, 7, 1000)
  for fraction in (0.1, 0.25, 1 / 3, 0.9, 1.0):
    kept, held = base.carve(labels, fraction, seed=3)
    assert len(held) == round(1000 * fraction)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(1000))
    assert (np.abs(np.bincount(labels[held], minlength=7) - np.bincount(labels) * fraction) < 1).all()


def test_carve_gives_the_remainder_to_the_largest_fractions():
  labels = np.repeat([0, 1, 2], [14, 13, 13])  # a quarter of them is 3.5, 3.25, 3.25, together 10
  np.testing.assert_array_equal(np.bincount(labels[base.carve(labels, 0.25, 0)[1]]), [4, 3, 3])


def test_shuffled_is_pinned():
  """The same everywhere and for ever: splits of published runs depend on it."""
  assert base.shuffled(8, (0, 1)).tolist() == SHUFFLED
  assert base.shuffled(8, (0, 2)).tolist() != SHUFFLED
  assert sorted(base.shuffled(100, 5)) == list(range(100))
