"""What a data set made and keeps for the next time: there is either the whole of it or nothing."""

import fcntl
import hashlib
import pathlib
import shutil
from typing import Callable

import numpy as np

from nasformer.types import UserError


def place(cache_dir: pathlib.Path, what: str, *identity: str) -> pathlib.Path:
  """Where something lies that was made from what `identity` tells; anything else lies elsewhere."""
  return cache_dir / "tokens" / f"{what}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}"


def made(path: pathlib.Path, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
  """The path, which is made now if it is not there; processes that ask at once wait for the first.

  Args:
    path: a file or folder.
    make: makes it under the path it is called with.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path.with_name(f".{path.name}.lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not path.exists():
      unfinished = path.with_name(f".{path.name}.unfinished")
      shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
      make(unfinished)
      unfinished.rename(path)
  return path


def array(path: pathlib.Path, make: Callable[[], np.ndarray]) -> np.ndarray:
  """The array of this file, which is made now if it is not there.

  Args:
    path: the file.
    make: makes the array.

  Raises:
    UserError: the file is damaged.
  """

  def write(unfinished: pathlib.Path) -> None:
    with open(unfinished, "wb") as file:
      np.save(file, make())

  made(path, write)
  try:
    return np.load(path)
  except (OSError, ValueError, EOFError) as error:
    raise UserError(f"{path} cannot be read ({error}): delete it, and it is made again") from error
