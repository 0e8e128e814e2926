"""News translated for the yearly WMT shared tasks: newstest2014 to test on, 2013 to search with, others to learn from.

Source: Bojar et al. 2014, Findings of the 2014 Workshop on Statistical Machine Translation, W14-3302, and those of the
other years. Files: https://github.com/Helsinki-NLP/OPUS-MT-testsets, folders testsets/eng-deu, eng-fra and eng-ces.
"""

import dataclasses
import pathlib

from nasformer.data import base, files, pairs
from nasformer.data.parallel import Parallel, check_pair
from nasformer.types import UserError

CODES = {"en": "eng", "de": "deu", "fr": "fra", "cs": "ces"}  # of languages in folders, and in files
PAIRS = [pair for other in ("de", "fr", "cs") for pair in (("en", other), (other, "en"))]
EARLY = ("news-test2008", "newssyscomb2009", *(f"newstest{year}" for year in range(2009, 2013)))
LATE = tuple(f"newstest{year}" for year in range(2015, 2019))  # not for French
GIVEN = {"val": "newstest2013", "test": "newstest2014"}
NOTE = ("WMT news test sets (Bojar et al. 2014 and others; for research): trained on {}, a stand-in for the millions "
        "of pairs of WMT'14, so that BLEU is far below what is published")


@dataclasses.dataclass(frozen=True)
class WmtNews(Parallel):
  """WMT news, 14,000 to 25,000 pairs of English and German, French or Czech: test newstest2014, validation 2013."""

  def __post_init__(self):
    super().__post_init__()
    check_pair("wmt_news", self.source_language, self.target_language, PAIRS)

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads en-XX/NAME.eng.gz and its translation in data_dir/wmt_news or in data_dir."""
    pair = pair_folder(self.source_language, self.target_language)
    for folder in files.folders(data_dir, "wmt_news"):
      if any((folder / pair).glob("news*")):
        names = EARLY if "fr" in pair else EARLY + LATE
        parts = {part: self._read(folder / pair, name, False) for part, name in GIVEN.items()}
        train = pairs.joined([self._read(folder / pair, name, True) for name in names])
        return self.assemble("wmt_news", NOTE.format(", ".join(names)), {"train": train, **parts}, cache_dir)
    raise UserError(f"no WMT news of {pair} in {data_dir / 'wmt_news'} or {data_dir}: put a folder {pair} with "
                    f"newstest2014.eng.gz, newstest2014.{CODES[pair[3:]]}.gz and the other years there")

  def _read(self, folder: pathlib.Path, name: str, blanks: bool) -> pairs.Lines:
    return pairs.read(*(files.packed(folder / f"{name}.{CODES[language]}")
                        for language in (self.source_language, self.target_language)), blanks=blanks)


def pair_folder(source: str, target: str) -> str:
  """The folder of a pair with English, which is the same for both directions."""
  return f"en-{target if source == 'en' else source}"
