"""Tatoeba: short sentences of everyday life, translated by volunteers.

Source: Tiedemann 2020, The Tatoeba Translation Challenge, 2020.wmt-1.139; sentences of https://tatoeba.org. Files:
https://github.com/Helsinki-NLP/OPUS-MT-testsets, folder datasets/helsinki_nlp/tatoeba/testsets.
"""

import dataclasses
import pathlib

from nasformer.data import base, files, pairs
from nasformer.data.parallel import Parallel, check_pair
from nasformer.data.wmt_news import CODES, PAIRS, pair_folder
from nasformer.types import UserError

NOTE = ("Tatoeba (Tiedemann 2020; CC BY-NC-SA 4.0), {}: published for testing and trained on here, so that scores "
        "belong on no leader board")


@dataclasses.dataclass(frozen=True)
class Tatoeba(Parallel):
  """Tatoeba, 13,000 to 18,000 pairs of short sentences of English and German, French or Czech.

  Attributes:
    test_fraction: share of all pairs that becomes the test part; the validation part is a share of the rest.
  """

  vocab_size: int = 4000
  test_fraction: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    base.check_fraction("test_fraction", self.test_fraction)
    check_pair("tatoeba", self.source_language, self.target_language, PAIRS)

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads the newest en-XX/tatoeba-test-*.eng.gz and its translation in data_dir/tatoeba or in data_dir."""
    pair = pair_folder(self.source_language, self.target_language)
    for folder in files.folders(data_dir, "tatoeba"):
      found = sorted((folder / pair).glob("tatoeba-test-*.eng*"))
      if found:
        stem = found[-1].name.partition(".eng")[0]
        sides = (folder / pair / f"{stem}.{CODES[code]}" for code in (self.source_language, self.target_language))
        raw = {"train": pairs.read(*map(files.packed, sides), blanks=True)}
        return self.assemble("tatoeba", NOTE.format(stem), raw, cache_dir, self.test_fraction)
    raise UserError(f"no Tatoeba of {pair} in {data_dir / 'tatoeba'} or {data_dir}: put a folder {pair} with "
                    f"tatoeba-test-v2021-08-07.eng.gz and tatoeba-test-v2021-08-07.{CODES[pair[3:]]}.gz there")
