"""Small files that are replaced whole: a reader sees the old one or the new one, never half of one."""

import contextlib
import errno
import fcntl
import json
import math
import os
import pathlib
import tempfile
from typing import Any, Iterator

from nasformer.types import UserError

_FULL = "no space is left on the disk; free some and run the same command again: it continues where it stopped"
_DENIED = "permission denied; choose a directory that you may write to, or change its permissions"
_BLOCKED = "a file stands where a directory is wanted; move it away or choose another directory"
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOTDIR: _BLOCKED,
    errno.EEXIST: _BLOCKED,
    errno.EISDIR: "a directory stands where a file is wanted; move it away",
    errno.ENOENT: "there is no such file; run the stage that writes it first",
}


@contextlib.contextmanager
def explained(path: pathlib.Path | str) -> Iterator[None]:
  """Turns what the operating system says about `path` into one sentence.

  Raises:
    UserError: the block raised an OSError.
  """
  try:
    yield
  except OSError as error:
    other = f"{error.strerror}; put that right and run the same command again: it continues where it stopped"
    raise UserError(f"{path}: {_REASONS[error.errno] if error.errno in _REASONS else other}") from error


def encode(tree: Any, indent: int | None = None) -> bytes:
  """JSON that is the same bytes for the same values: keys in their own order, floats by `repr`, one newline at the end.

  Args:
    tree: dicts, lists, strings, numbers; arrays and their scalars become lists and numbers.
    indent: spaces per level; None gives a single line.

  Raises:
    ValueError: NaN or an infinity, which JSON does not know.
  """
  text = json.dumps(tree, indent=indent, allow_nan=False, ensure_ascii=False, default=lambda array: array.tolist())
  return (text + "\n").encode()


def finite(value: Any) -> Any:
  """The value, or None for NaN and the infinities: what `encode` takes."""
  value = value.tolist() if hasattr(value, "tolist") else value
  return None if isinstance(value, float) and not math.isfinite(value) else value


def write_bytes(path: pathlib.Path | str, data: bytes) -> None:
  """Replaces a file, and makes its folder if it is missing.

  Raises:
    UserError: the file cannot be written; what stood there before still does.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name}.tmp")
  with explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
    except OSError:
      with contextlib.suppress(OSError):
        temporary.unlink()  # on a full disk its space is wanted back
      raise


def write_json(path: pathlib.Path | str, tree: Any) -> None:
  """Replaces a JSON file; see `encode` for what `tree` may hold."""
  write_bytes(path, encode(tree, indent=1))


def read_json(path: pathlib.Path | str) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: it is missing, unreadable or not JSON.
  """
  with explained(path):
    data = pathlib.Path(path).read_bytes()
  try:
    return json.loads(data)
  except ValueError as error:
    raise UserError(f"{path}: not valid JSON ({error}); move it away and run the stage that writes it again") from error


def writable_dir(path: pathlib.Path | str) -> pathlib.Path:
  """Makes a directory if it is missing and proves that a file can be written into it.

  Raises:
    UserError: it cannot be made or written to.
  """
  path = pathlib.Path(path)
  with explained(path):
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path, buffering=0) as file:
      file.write(b"x")  # an empty file fits on a full disk
  return path


@contextlib.contextmanager
def locked(directory: pathlib.Path | str) -> Iterator[None]:
  """Keeps other processes out of a directory until the block ends or the process dies, however it dies.

  Raises:
    UserError: another process holds it.
  """
  path = pathlib.Path(directory) / ".lock"
  with explained(path):
    file = open(path, "ab+", buffering=0)
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise UserError(f"{directory}: another process (pid {file.read().decode()}) is using this directory;"
                      " wait until it ends or choose another one") from None
    except OSError:
      pass  # some network file systems have no locks, and a run there is better than none
    with explained(path):
      file.truncate(0)
      file.write(str(os.getpid()).encode())
    yield
