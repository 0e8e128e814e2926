"""Multi30k, task 1: captions of photographs in four languages.

Sources: Elliott, Frank, Sima'an and Specia 2016, W16-3210 (English, German); Elliott et al. 2017, W17-4718 (French);
Barrault et al. 2018, W18-6402 (Czech). Files: https://github.com/multi30k/dataset, folder data/task1/raw.
"""

import dataclasses
import itertools
import pathlib

from nasformer.data import base, files, pairs
from nasformer.data.parallel import Parallel, check_pair
from nasformer.types import UserError

LANGUAGES = ("en", "de", "fr", "cs")
NOTE = "Multi30k (Elliott et al. 2016; no licence file, for non-commercial research), tested on {}"


@dataclasses.dataclass(frozen=True)
class Multi30k(Parallel):
  """Multi30k, 29,000 photo captions among English, German, French and Czech, in any direction.

  Attributes:
    test_set: the test part, such as test_2017_flickr, which has no Czech.
  """

  test_set: str = "test_2016_flickr"

  def __post_init__(self):
    super().__post_init__()
    check_pair("multi30k", self.source_language, self.target_language, list(itertools.permutations(LANGUAGES, 2)))

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads train, val and test_set with .en, .de, .fr or .cs, packed or not, in data_dir/multi30k or in data_dir."""
    for folder in files.folders(data_dir, "multi30k"):
      if any(folder.glob("train.??*")):
        raw = {part: self._read(folder, stem)
               for part, stem in (("train", "train"), ("val", "val"), ("test", self.test_set))}
        return self.assemble("multi30k", NOTE.format(self.test_set), raw, cache_dir)
    raise UserError(f"no Multi30k in {data_dir / 'multi30k'} or {data_dir}: put train, val and {self.test_set} of its "
                    f"data/task1/raw there, each with .{self.source_language}.gz and .{self.target_language}.gz")

  def _read(self, folder: pathlib.Path, stem: str) -> pairs.Lines:
    sides = [files.packed(folder / f"{stem}.{language}") for language in (self.source_language, self.target_language)]
    for side, language in zip(sides, (self.source_language, self.target_language)):
      if not side.exists():
        there = [other for other in LANGUAGES if files.packed(folder / f"{stem}.{other}").exists()]
        raise UserError(f"{folder} has no {stem} in the language {language!r} (only in: {', '.join(there) or 'none'}): "
                        "choose another language or test_set, or add the file")
    return pairs.read(*sides, blanks=stem == "train")
