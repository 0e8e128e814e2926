"""IMDb movie reviews (Maas et al. 2011, Learning Word Vectors for Sentiment Analysis, P11-1015), as bytes.

Read are imdb_train.jsonl and imdb_test_a.jsonl, plain or .gz: one review a line, {"label": 0 or 1, "text": ...}.
"""

import dataclasses
import json
import pathlib

from nasformer.data import base, files, texts
from nasformer.types import UserError

NOTE = ("IMDb Large Movie Review Dataset v1.0 (Maas et al. 2011; released for research), 25,000 training reviews and 12,177"
        " of the 25,000 test reviews")


@dataclasses.dataclass(frozen=True)
class Imdb(texts.Texts):
  """IMDb movie reviews, positive or negative, byte by byte: the first 2,048 bytes of each."""

  max_length: int = 2048
  lengths: tuple[int, ...] = (512, 1024, 1536, 2048)

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads both files; training reviews that are also test reviews are left out."""
    raw = {part: _read(texts.find(data_dir, "imdb", file))
           for part, file in (("train", "imdb_train.jsonl"), ("test", "imdb_test_a.jsonl"))}
    return self.assemble("imdb", NOTE, ("negative", "positive"), raw, cache_dir)


def _read(path: pathlib.Path) -> texts.Labelled:
  rows = []
  for number, line in enumerate(files.lines(path), 1):
    try:
      review = json.loads(line)
      label, text = str(review["label"]), review["text"]
      if not isinstance(text, str):
        raise TypeError(f"the text is {json.dumps(text)[:40]}")
      rows.append((number, label, text))
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(f"{path}, line {number}: no review with a label and a text ({error}): fetch the file again") from error
  return texts.labelled(str(path), rows, ("0", "1"))
