"""A user's own sentence pairs: two text files of which the same line belongs together."""

import dataclasses
import pathlib
import re

from nasformer.data import base, files, pairs
from nasformer.data.parallel import Parallel
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class TextFiles(Parallel):
  """Your own sentence pairs: two text files, one sentence per line, UTF-8, plain or packed with gzip.

  Paths are looked for in the data directory, in its folder text_files, and where the program runs. What has no files of
  its own is carved out of the training pairs, by source sentence. Empty lines are left out of training and refused in
  files for validation and test.

  Attributes:
    source: training sentences.
    target: their translations.
    val_source: sentences to search with.
    val_target: their translations.
    test_source: sentences to report on.
    test_target: their translations.
    test_fraction: share of the training pairs that becomes the test part where it has no files.
    source_language: code of the language that is translated; empty takes the ending of the file, such as en of a.en.gz.
    target_language: likewise.
  """

  source: str = ""
  target: str = ""
  val_source: str = ""
  val_target: str = ""
  test_source: str = ""
  test_target: str = ""
  test_fraction: float = 0.05
  source_language: str = ""
  target_language: str = ""

  def __post_init__(self):
    super().__post_init__()
    base.check_fraction("test_fraction", self.test_fraction)
    for part in ("", "val_", "test_"):
      one, other = getattr(self, f"{part}source"), getattr(self, f"{part}target")
      if bool(one) != bool(other):
        raise UserError(f"{part}source={one!r}, {part}target={other!r}: give both files or neither")

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads the files that the fields name."""
    if not self.source:
      raise UserError("text_files reads files of your own: name them by the fields `source` and `target`")
    named = {"train": (self.source, self.target), "val": (self.val_source, self.val_target),
             "test": (self.test_source, self.test_target)}
    raw = {part: pairs.read(*(files.own(path, data_dir, "text_files") for path in paths), blanks=part == "train")
           for part, paths in named.items() if paths[0]}
    names = " and ".join(repr(pathlib.Path(path).name) for path in named["train"])
    told = dataclasses.replace(self, source_language=self.source_language or _language(self.source, "source"),
                               target_language=self.target_language or _language(self.target, "target"))
    note = f"The user's files {names} (licence: as the owner says)"
    return told.assemble("text_files", note, raw, cache_dir, self.test_fraction)


def _language(name: str, default: str) -> str:
  ending = re.search(r"\.([a-z]{2,3})(\.gz)?$", name)
  return ending[1] if ending and ending[1] != "txt" else default
