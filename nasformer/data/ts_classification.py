"""Sets of the UCR/UEA archive of time-series classification (Dau et al. 2019; Bagnall et al. 2018), by name, from .ts files."""

import dataclasses
import pathlib

from nasformer.data import base, files, ts_files
from nasformer.data.series import Series
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class TsClassification(Series):
  """A set of the UCR/UEA archive by name, such as JapaneseVowels: NAME/NAME_TRAIN.ts and NAME_TEST.ts, plain or .gz.

  Attributes:
    set: its name.
  """

  set: str = "JapaneseVowels"

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads both files; the validation part is carved out of the training cases."""
    folders = files.folders(data_dir, "ts_classification")
    found = next((folder / self.set for folder in folders if self.set and (folder / self.set).is_dir()), None)
    if found is None:
      there = sorted({path.name for folder in folders[:1] for path in folder.iterdir() if path.is_dir()})
      raise UserError(f"set={self.set!r}: there is no folder of that name in {' nor in '.join(map(str, folders))} (there are:"
                      f" {', '.join(there) or 'none'})")
    cases = {part: ts_files.read(files.packed(found / f"{self.set}_{part.upper()}.ts")) for part in ("train", "test")}
    note = f"{self.set} of the UCR/UEA archive (Dau et al. 2019, Bagnall et al. 2018; citation asked for)"
    return self.assemble(self.set, note, cases)
