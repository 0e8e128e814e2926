"""Sentence polarity v1.0 (Pang and Lee 2005, Seeing Stars): sentence_polarity.zip with rt-polarity.neg and .pos, Latin-1."""

import dataclasses
import io
import pathlib
import zipfile

from nasformer.data import base, files, texts

NOTE = ("Movie-review sentence polarity v1.0 (Pang and Lee 2005, CC BY 4.0); it has no official parts, and SST-2 is made of"
        " the same sentences")


@dataclasses.dataclass(frozen=True)
class SentencePolarity(texts.Texts):
  """Sentence polarity: 10,662 sentences of film reviews, positive or negative, with a test part carved here.

  Attributes:
    test_fraction: share of all sentences that becomes the test part; the validation part is a share of the rest.
  """

  test_fraction: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    base.check_fraction("test_fraction", self.test_fraction)

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads the archive."""
    path, rows = texts.find(data_dir, "sentence_polarity", "sentence_polarity.zip"), []
    with files.reading(path), zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
      for label in ("neg", "pos"):
        content = archive.read(f"sentence_polarity/rt-polarity.{label}").decode("latin-1").encode()
        rows += [(i, label, line) for i, line in enumerate(files.text_lines(content, f"{path}, rt-polarity.{label}"), 1)]
    raw = {"train": texts.labelled(str(path), rows, ("neg", "pos"))}
    return self.assemble("sentence_polarity", NOTE, ("negative", "positive"), raw, cache_dir, self.test_fraction)
