"""A user's own files, wherever they lie, and with what people get wrong."""

import pytest

from nasformer.data.text_files import TextFiles
from nasformer.types import UserError


@pytest.fixture
def folder(write, tmp_path):
  for stem, numbers in (("train", range(200)), ("dev", range(500, 515)), ("test", range(600, 612))):
    write.sentences(tmp_path, stem, {"en": "en", "de": "de"}, numbers, suffix="")
  return tmp_path


OWN = {"source": "train.en", "target": "train.de", "vocab_size": 305}
DEV = {"val_source": "dev.en", "val_target": "dev.de"}
TEST = {"test_source": "test.en", "test_target": "test.de"}


@pytest.mark.parametrize("given, sizes, carved", [
    ({}, {"train": 171, "val": 9, "test": 20}, "val and test"),
    (DEV, {"train": 180, "val": 15, "test": 20}, "test"),
    (TEST, {"train": 190, "val": 10, "test": 12}, "val"),
    (DEV | TEST, {"train": 200, "val": 15, "test": 12}, ""),
])
def test_what_is_not_given_is_carved(folder, given, sizes, carved):
  """Of 200 pairs, 10 % are 20 and 5 % of 180 are 9."""
  splits = TextFiles(**OWN, **given, test_fraction=0.1).load(folder)
  assert splits.sizes == sizes
  assert splits.info.note == (f"The user's files 'train.en' and 'train.de' (licence: as the owner says)"
                              f"{f'; {carved} carved out of train by source sentence' if carved else ''}.")


def test_paths_and_languages(folder, write, tmp_path, monkeypatch):
  write.sentences(tmp_path / "text_files", "mine", {"en": "en", "de": "de"}, range(150), suffix=".gz")
  splits = TextFiles(source="mine.de.gz", target="mine.en.gz", vocab_size=305).load(folder)
  assert (splits.info.source_language, splits.info.target_language) == ("de", "en")
  assert TextFiles(**OWN, source_language="la").load(folder).info.source_language == "la"
  whole = {name: str(folder / name) for name in ("train.en", "train.de")}
  assert TextFiles(source=whole["train.en"], target=whole["train.de"], vocab_size=305).load(None).sizes["train"] > 100
  monkeypatch.chdir(folder)
  assert TextFiles(**OWN).load(None).sizes == TextFiles(**OWN).load(tmp_path / "text_files").sizes
  (folder / "train.en").rename(folder / "a.txt")
  (folder / "train.de").rename(folder / "b")
  info = TextFiles(source="a.txt", target="b", vocab_size=305).load(folder).info
  assert (info.source_language, info.target_language) == ("source", "target")


@pytest.mark.parametrize("fields, message", [
    ({"source": "train.en"}, "source='train.en', target='': give both files or neither"),
    (OWN | {"val_source": "dev.en"}, "val_source='dev.en', val_target='': give both"),
    ({"test_target": "test.de"}, "test_source='', test_target='test.de': give both"),
    ({"test_fraction": 0.0}, "test_fraction=0.0 must lie between"),
])
def test_bad_fields(fields, message):
  with pytest.raises(UserError, match=message):
    TextFiles(**fields)


def test_missing_files(folder):
  with pytest.raises(UserError, match="name them by the fields `source` and `target`"):
    TextFiles().load(folder)
  with pytest.raises(UserError, match="there is no file .*absent.en nor .*text_files/absent.en nor absent.en"):
    TextFiles(source="absent.en", target="train.de").load(folder)


@pytest.mark.parametrize("name, text, message", [
    ("train.de", "", "train.de is empty"),
    ("train.de", "nur eine Zeile\n", "train.en has 200 lines and .*train.de has 1, .*: line 2 is the first"),
    ("dev.de", "Zeile\n" * 7 + " \n" + "Zeile\n" * 7, "dev.de, line 8 is empty"),
    ("test.en", "line\n\n" + "line\n" * 10, "test.en, line 2 is empty"),
])
def test_bad_files(folder, name, text, message):
  (folder / name).write_text(text)
  with pytest.raises(UserError, match=message):
    TextFiles(**OWN, **DEV, **TEST).load(folder)


def test_bad_encoding(folder):
  lines = (folder / "train.de").read_bytes().split(b"\n")
  (folder / "train.de").write_bytes(b"\n".join(lines[:99] + ["schön".encode("latin1")] + lines[100:]))
  with pytest.raises(UserError, match=r"train.de, line 100: the text is not UTF-8 \(byte 0xf6\); convert the file"):
    TextFiles(**OWN).load(folder)


def test_empty_training_lines_are_counted(folder):
  lines = (folder / "train.de").read_text().split("\n")
  (folder / "train.de").write_text("\n".join(["", " ", *lines[2:]]))
  splits = TextFiles(**OWN, **DEV, **TEST).load(folder)
  assert splits.sizes["train"] == 198 and "left out of train: 2 with an empty side" in splits.info.note
