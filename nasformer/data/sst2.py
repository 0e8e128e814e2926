"""SST-2, whole sentences (Socher et al. 2013, D13-1170): train.tsv, dev.tsv and test.tsv, "sentence TAB label", no header."""

import dataclasses
import pathlib

from nasformer.data import base, files, texts
from nasformer.types import UserError

NOTE = ("Stanford Sentiment Treebank, binary, whole sentences without phrases (Socher et al. 2013; customary research use,"
        " sentences CC BY 4.0)")


@dataclasses.dataclass(frozen=True)
class Sst2(texts.Texts):
  """SST-2: sentences of film reviews, positive or negative; the official dev part is the validation part."""

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads the three files."""
    raw = {part: _read(texts.find(data_dir, "sst2", f"{file}.tsv"))
           for part, file in (("train", "train"), ("val", "dev"), ("test", "test"))}
    return self.assemble("sst2", NOTE, ("negative", "positive"), raw, cache_dir)


def _read(path: pathlib.Path) -> texts.Labelled:
  rows = []
  for number, line in enumerate(files.lines(path), 1):
    text, tab, label = line.rpartition("\t")
    if not tab:
      raise UserError(f"{path}, line {number}: a sentence, a tab and a label are wanted: fetch the file again")
    rows.append((number, label, text))
  return texts.labelled(str(path), rows, ("0", "1"))
