"""The embedded digits, against scikit-learn's own arrays."""

import numpy as np
import pytest
import sklearn.datasets

from nasformer.data.digits import Digits
from nasformer.types import UserError


def test_parts_hold_the_whole_set():
  splits = Digits().load(None)
  assert splits.sizes == {"train": 1150, "val": 288, "test": 359}  # 20% of 1,797, and 20% of the other 1,438
  assert splits.info.image_shape == (8, 8, 1)
  raw = sklearn.datasets.load_digits()
  label = {(image * 15).astype(np.uint8).tobytes(): target for image, target in zip(raw.images, raw.target)}
  for part in ("train", "val", "test"):
    batch = splits.get(part, "evaluate").take(np.arange(splits.sizes[part]))
    assert [label[image.tobytes()] for image in batch["image"]] == batch["label"].tolist()
    shares = np.bincount(batch["label"]) / splits.sizes[part]
    np.testing.assert_allclose(shares, np.bincount(raw.target) / 1797, atol=0.005)
  assert splits.get("train", "train").images.max() == 240


def test_test_fraction_is_checked():
  with pytest.raises(UserError, match="test_fraction=0.0 must lie between"):
    Digits(test_fraction=0.0)
