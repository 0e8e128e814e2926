"""A person's own texts with labels: TSV, CSV or JSON lines, plain or packed with gzip."""

import csv
import dataclasses
import json
import pathlib
from typing import Iterator

from nasformer.data import base, files, texts
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class LabelledText(texts.Texts):
  """Your own texts with one label each: .tsv, .csv (both with a header) or .jsonl, plain or .gz, UTF-8.

  Paths are looked for in the data directory, in its folder labelled_text, and where the program runs. What has no file of its
  own is carved out of the training texts, in proportion of the classes.

  Attributes:
    train: texts to learn from.
    val: texts to search with.
    test: texts to report on.
    text_field: column, or key, of the text.
    label_field: of the label, which may be any word or number.
    test_fraction: share of the training texts that becomes the test part where it has no file.
  """

  train: str = ""
  val: str = ""
  test: str = ""
  text_field: str = "text"
  label_field: str = "label"
  test_fraction: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    base.check_fraction("test_fraction", self.test_fraction)

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads the files that the fields name."""
    if not self.train:
      raise UserError("labelled_text reads files of your own: name them by the field `train` (and `val`, `test`)")
    paths = {part: files.own(getattr(self, part), data_dir, "labelled_text") for part in ("train", "val", "test")
             if getattr(self, part)}
    rows = {part: list(self._rows(path)) for part, path in paths.items()}
    class_names = tuple(sorted({label for _, label, _ in rows["train"]}))
    if len(class_names) < 2:
      raise UserError(f"{paths['train']}: {len(class_names)} class in its {len(rows['train'])} texts: there must be at least 2")
    raw = {part: texts.labelled(str(paths[part]), found, class_names) for part, found in rows.items()}
    note = f"The user's file {paths['train'].name!r} (licence: as the owner says)"
    return self.assemble("labelled_text", note, class_names, raw, cache_dir, self.test_fraction)

  def _rows(self, path: pathlib.Path) -> Iterator[tuple[int, str, str]]:
    """(line, label, text) of each example."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in ("tsv", "csv", "jsonl"):
      raise UserError(f"{path}: its name must end with .tsv, .csv or .jsonl (or one of these and .gz)")
    found = _objects(path) if kind == "jsonl" else _table(path, "\t" if kind == "tsv" else ",")
    for number, row in found:
      for field in (self.text_field, self.label_field):
        if field not in row or row[field] is None:
          raise UserError(f"{path}, line {number}: there is no {field!r} (there are: {', '.join(map(str, row))})")
      yield number, str(row[self.label_field]), str(row[self.text_field])


def _objects(path: pathlib.Path) -> Iterator[tuple[int, dict]]:
  for number, line in enumerate(files.lines(path), 1):
    try:
      row = json.loads(line)
    except ValueError as error:
      raise UserError(f"{path}, line {number}: no JSON ({error})") from error
    if not isinstance(row, dict):
      raise UserError(f"{path}, line {number}: an object with a text and a label is wanted, such as"
                      ' {"text": "fine", "label": "good"}')
    yield number, row


def _table(path: pathlib.Path, delimiter: str) -> Iterator[tuple[int, dict]]:
  quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
  csv.field_size_limit(2**31 - 1)
  reader = csv.DictReader([f"{line}\n" for line in files.lines(path)], delimiter=delimiter, quoting=quoting)
  try:
    for row in reader:
      if None in row:
        raise UserError(f"{path}, line {reader.line_num}: more columns than the header has ({len(reader.fieldnames)})")
      yield reader.line_num, row
  except csv.Error as error:
    raise UserError(f"{path}, line {reader.line_num}: no table ({error})") from error
