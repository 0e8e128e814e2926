"""CoLA, the Corpus of Linguistic Acceptability (Warstadt, Singh and Bowman 2018): cola_public.zip, raw text.

Labels of the official test part are not public: the out-of-domain dev part is the test part here, the in-domain dev part the
validation part.
"""

import dataclasses
import io
import pathlib
import zipfile

from nasformer.data import base, files, texts
from nasformer.types import UserError

NOTE = ("Corpus of Linguistic Acceptability, public release (Warstadt, Singh and Bowman 2018; no licence, research use);"
        " validated on the in-domain dev part, tested on the out-of-domain dev part")


@dataclasses.dataclass(frozen=True)
class Cola(texts.Texts):
  """CoLA: English sentences, acceptable or not; judged by Matthews correlation too (task.matthews)."""

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads the archive."""
    path = texts.find(data_dir, "cola", "cola_public.zip")
    with files.reading(path), zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
      raw = {part: _read(f"{path}, {name}", archive.read(f"cola_public/raw/{name}.tsv")) for part, name in
             (("train", "in_domain_train"), ("val", "in_domain_dev"), ("test", "out_of_domain_dev"))}
    return self.assemble("cola", NOTE, ("unacceptable", "acceptable"), raw, cache_dir)


def _read(name: str, content: bytes) -> texts.Labelled:
  rows = []
  for number, line in enumerate(files.text_lines(content, name), 1):
    cells = line.split("\t")
    if len(cells) != 4:
      raise UserError(f"{name}, line {number}: {len(cells)} columns instead of 4: fetch the file again")
    rows.append((number, cells[1], cells[3]))
  return texts.labelled(name, rows, ("0", "1"))
