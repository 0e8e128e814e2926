"""A person's own series with labels: .ts or .csv files, plain or packed with gzip."""

import dataclasses
import pathlib

from nasformer.data import base, files, ts_files
from nasformer.data.series import PARTS, Series
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class SeriesFiles(Series):
  """Your own series with one label each: .ts files, or .csv files of "label,value,value,..." lines; plain or .gz.

  Paths are looked for in the data directory, in its folder series_files, and where the program runs. What has no file of its
  own is carved out of the training series, in proportion of the classes.

  Attributes:
    train: series to learn from.
    val: series to search with.
    test: series to report on.
    test_fraction: share of the training series that becomes the test part where it has no file.
  """

  train: str = ""
  val: str = ""
  test: str = ""
  test_fraction: float = 0.2

  def __post_init__(self):
    super().__post_init__()
    base.check_fraction("test_fraction", self.test_fraction)

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads the files that the fields name."""
    if not self.train:
      raise UserError("series_files reads files of your own: name them by the field `train` (and `val`, `test`)")
    paths = {part: files.own(getattr(self, part), data_dir, "series_files") for part in PARTS if getattr(self, part)}
    note = f"The user's file {paths['train'].name!r} (licence: as the owner says)"
    return self.assemble("series_files", note, {part: ts_files.read(path) for part, path in paths.items()},
                         self.test_fraction)
