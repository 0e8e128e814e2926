"""The handwritten digits that come with scikit-learn: nothing to download, good for tests and first tries.

Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository (doi 10.24432/C50P49).
"""

import dataclasses
import pathlib

import numpy as np

from nasformer.data import base

NOTE = ("The 1,797 handwritten digits of scikit-learn, which are the test part of UCI's optical digits (Alpaydin and "
        "Kaynak 1998, CC BY 4.0): 8x8 pixels of 17 grey levels, with a test part carved here.")


@dataclasses.dataclass(frozen=True)
class Digits(base.ImageDataset):
  """1,797 handwritten digits of 8x8 grey pixels, embedded in scikit-learn: no files needed.

  Attributes:
    test_fraction: share of all images that becomes the test part; the validation part is a share of the rest.
  """

  val_fraction: float = 0.2
  test_fraction: float = 0.2

  def __post_init__(self):
    super().__post_init__()
    base.check_fraction("test_fraction", self.test_fraction)

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads what scikit-learn carries; `data_dir` is not looked at."""
    import sklearn.datasets  # imported on use: it takes a second, and other data sets need none of it

    raw = sklearn.datasets.load_digits()
    pixels = (raw.images * 15).astype(np.uint8)[..., None]  # levels 0..16
    everything = base.Split("train", pixels, raw.target.astype(np.int32))
    train, test = everything.carve("test", self.test_fraction, (self.split_seed, 0))
    return self.assemble("digits", NOTE, tuple("0123456789"), train, test)
