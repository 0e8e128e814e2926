"""Finding and unpacking the files of a data directory; whatever is wrong with them becomes one clear sentence."""

import codecs
import contextlib
import gzip
import io
import pathlib
import pickle
import tarfile
import zipfile
import zlib
from typing import Iterator

from nasformer.types import UserError

# What the standard library and NumPy raise on a file that ends too early, was altered, or is something else.
_DAMAGE = (OSError, EOFError, KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError, zlib.error,
           tarfile.TarError, zipfile.BadZipFile, pickle.UnpicklingError)

_GZIP = b"\x1f\x8b"


def folders(data_dir: pathlib.Path | None, name: str) -> list[pathlib.Path]:
  """Where the files of a data set are looked for: its own folder in the data directory, then the directory itself.

  Args:
    data_dir: the data directory; None where the user gave none.
    name: of the data set.

  Raises:
    UserError: there is no data directory.
  """
  if data_dir is None:
    raise UserError(f"{name} is read from files: name the directory that holds them (or a folder {name} with them) by "
                    "--data_dir or the variable NASFORMER_DATA")
  if not data_dir.is_dir():
    raise UserError(f"--data_dir (or NASFORMER_DATA) is {str(data_dir)!r}, which is no directory: name the one that "
                    f"holds the files of {name}, or a folder {name} with them")
  return [folder for folder in (data_dir / name, data_dir) if folder.is_dir()]


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
  """Turns what libraries raise on a damaged file into a `UserError` that names it.

  Args:
    path: the file that is read in this context.
  """
  try:
    yield
  except UserError:
    raise
  except _DAMAGE as error:
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    raise UserError(f"{path} cannot be read ({reason}): it is missing, cut short or damaged, fetch it again") from error


def content(path: pathlib.Path) -> bytes:
  """The bytes of a file, unpacked if it is packed with gzip, which its first bytes say, whatever its name says."""
  with reading(path):
    raw = path.read_bytes()
    return gzip.decompress(raw) if raw.startswith(_GZIP) else raw


def packed(path: pathlib.Path) -> pathlib.Path:
  """The file itself or, where only that exists, the one with .gz behind its name."""
  gz = path.with_name(path.name + ".gz")
  return gz if gz.exists() and not path.exists() else path


def own(name: str, data_dir: pathlib.Path | None, folder: str) -> pathlib.Path:
  """A file of a person, looked for in the data directory, in a folder of it, and where the program runs.

  Args:
    name: its path.
    data_dir: the data directory, if there is one.
    folder: the row in the table of data sets, which is the name of that folder too.

  Raises:
    UserError: it is in none of these.
  """
  folders = [data_dir, data_dir / folder] if data_dir else []
  paths = [base / name for base in folders] + [pathlib.Path(name)]
  for path in paths:
    if path.is_file():
      return path
  raise UserError(f"{folder}: there is no file {' nor '.join(map(str, paths))}: give the path of a text file")


def lines(path: pathlib.Path) -> list[str]:
  """The lines of a text in UTF-8, plain or packed with gzip.

  Args:
    path: the file. Only a line feed ends a line, and a carriage return before it belongs to it: Python's `splitlines`
      would also break where U+2028 and the like are, which stand inside sentences of crawled text.

  Raises:
    UserError: it is missing, damaged, empty or not UTF-8.
  """
  return text_lines(content(path), str(path))


def text_lines(raw: bytes, name: str) -> list[str]:
  """The lines of a text in UTF-8; see `lines`.

  Args:
    raw: the text.
    name: what errors call it.
  """
  raw = raw.removeprefix(codecs.BOM_UTF8)
  try:
    text = raw.decode()
  except UnicodeDecodeError as error:
    line = raw.count(b"\n", 0, error.start) + 1
    raise UserError(f"{name}, line {line}: the text is not UTF-8 (byte 0x{raw[error.start]:02x}); convert the file, as "
                    "by iconv -f latin1 -t utf8") from error
  if not text.strip():
    raise UserError(f"{name} is empty: put one sentence in each line")
  return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def one_line(text: str) -> str:
  """The text without ends of line, so that line for line stays together: a network that spells bytes may write some."""
  return " ".join(text.splitlines())


def members(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  """Name and bytes of every file in a folder or a .tar.gz archive, in the order of the archive.

  Args:
    path: the folder or the archive. Nothing is unpacked to disk.
  """
  if path.is_dir():
    for file in sorted(path.iterdir()):
      if file.is_file():
        yield file.name, content(file)
    return
  raw = io.BytesIO(content(path))  # unpacked at once: tarfile would take a .gz that is cut short for the end
  with reading(path), tarfile.open(fileobj=raw, mode="r:") as archive:
    for member in archive:
      if member.isfile():
        yield member.name, archive.extractfile(member).read()
