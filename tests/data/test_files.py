"""Archives are read whole or refused by name."""

import gzip
import tarfile

import pytest

from nasformer.data import files
from nasformer.types import UserError


def test_own_folder_comes_first(tmp_path):
  assert files.folders(tmp_path, "mnist") == [tmp_path]
  (tmp_path / "mnist").mkdir()
  assert files.folders(tmp_path, "mnist") == [tmp_path / "mnist", tmp_path]


def test_a_file_is_no_data_directory(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="--data_dir.*file.*is no directory"):
    files.folders(tmp_path / "file", "mnist")


def test_content_unpacks_gz_only(tmp_path):
  (tmp_path / "a.gz").write_bytes(gzip.compress(b"text"))
  (tmp_path / "a").write_bytes(b"text")
  assert files.content(tmp_path / "a.gz") == files.content(tmp_path / "a") == b"text"


def test_broken_gz_is_named(tmp_path):
  path = tmp_path / "a.gz"
  path.write_bytes(gzip.compress(b"text" * 1000)[:-6])
  with pytest.raises(UserError, match="a.gz cannot be read.*fetch it again"):
    files.content(path)


@pytest.mark.parametrize("raw", [b"text", b""])
def test_what_is_not_packed_is_read_as_it_is(tmp_path, raw):
  """Though its name says .gz, as that of a file that a browser has unpacked; of an empty one the readers will tell."""
  (tmp_path / "a.gz").write_bytes(raw)
  assert files.content(tmp_path / "a.gz") == raw


def test_members_of_archives_and_folders(write, tmp_path):
  content = {"part/one": b"1", "part/two": b"22"}
  write.tar(tmp_path / "a.tar.gz", content)
  assert dict(files.members(tmp_path / "a.tar.gz")) == content
  (tmp_path / "folder").mkdir()
  (tmp_path / "folder" / "one").write_bytes(b"1")
  assert list(files.members(tmp_path / "folder")) == [("one", b"1")]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.95])
def test_truncated_archive_is_named(write, tmp_path, share):
  path = write.tar(tmp_path / "a.tar.gz", {f"{i}": bytes(range(256)) * i for i in range(50)})
  path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
  with pytest.raises(UserError, match="a.tar.gz cannot be read"):
    list(files.members(path))


def test_missing_archive_is_named(tmp_path):
  with pytest.raises(UserError, match="absent.tar.gz cannot be read"):
    list(files.members(tmp_path / "absent.tar.gz"))


def test_archive_that_is_none_is_named(tmp_path):
  (tmp_path / "text.tar.gz").write_bytes(b"no archive")
  with pytest.raises(UserError, match="text.tar.gz cannot be read"):
    list(files.members(tmp_path / "text.tar.gz"))


def test_reading_lets_own_messages_through(tmp_path):
  with pytest.raises(UserError, match="^own words$"), files.reading(tmp_path):
    raise UserError("own words")


@pytest.mark.parametrize("pack, name", [(bytes, "a.en"), (gzip.compress, "a.en.gz")])
def test_lines(tmp_path, pack, name):
  """Only a line feed ends a line; the mark that some editors put at the beginning is no text."""
  path = tmp_path / name
  path.write_bytes(pack("\ufeffone\u2028still one\x0b\x85\r\n\n two \nlast".encode()))
  assert files.lines(path) == ["one\u2028still one\x0b\x85", "", " two ", "last"]
  path.write_bytes(pack(b"a\n\n"))
  assert files.lines(path) == ["a", ""]


@pytest.mark.parametrize("content, message", [
    (b"", "a.en is empty: put one sentence in each line"),
    (b"\xef\xbb\xbf\n \r\n", "a.en is empty"),
    ("fein\nauch\nschön\n".encode("latin1"), r"a.en, line 3: the text is not UTF-8 \(byte 0xf6\); convert"),
    ("drei\n".encode("utf-16"), r"a.en, line 1: the text is not UTF-8 \(byte 0xff\)"),
])
def test_bad_text(tmp_path, content, message):
  path = tmp_path / "a.en"
  path.write_bytes(content)
  with pytest.raises(UserError, match=message):
    files.lines(path)


def test_bad_packed_text(tmp_path):
  path = tmp_path / "a.en.gz"
  with pytest.raises(UserError, match="a.en.gz cannot be read .*missing"):
    files.lines(path)
  path.write_bytes(gzip.compress(b"one\n")[:-9])
  with pytest.raises(UserError, match="a.en.gz cannot be read .*cut short"):
    files.lines(path)


def test_packed_is_taken_where_nothing_else_is(tmp_path):
  plain, packed = tmp_path / "train.en", tmp_path / "train.en.gz"
  assert files.packed(plain) == plain
  packed.touch()
  assert files.packed(plain) == packed
  plain.touch()
  assert files.packed(plain) == plain


def test_a_packed_file_needs_no_name_that_says_so(tmp_path):
  (tmp_path / "plainly.en").write_bytes(gzip.compress("one\ntwo\n".encode()))
  assert files.lines(tmp_path / "plainly.en") == ["one", "two"]


def test_one_line_stays_one_line():
  assert files.one_line("a\nb\u2028c\x85d") == "a b c d" and files.one_line("") == ""
