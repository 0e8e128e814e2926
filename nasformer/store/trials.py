"""The trial log: one line of JSON for each candidate that was evaluated, in the order of evaluation.

A whole generation is added at a time by replacing the file, so a process killed at any moment leaves whole generations.
A search that is run again reads the log instead of evaluating again; that is why a damaged log stops it.
"""

import dataclasses
import json
import math
import pathlib
from typing import Iterable, Mapping

from nasformer.store import files
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class TrialLog:
  """The trials of a run.

  Attributes:
    path: the file, `trials.jsonl`; a missing one is an empty log.
  """

  path: pathlib.Path | str

  def read(self) -> list[dict]:
    """All trials; a score that was not finite is NaN.

    Raises:
      UserError: a line is damaged, such as a last line that was cut short.
    """
    lines = self._lines()
    trials = _intact(lines)
    if len(trials) < len(lines):
      raise UserError(
          f"{self.path}: line {len(trials) + 1} of {len(lines)} is damaged and the {len(trials)} trials before it are"
          f" intact; run the same command with --repair to go on from those (the file is kept as {self._aside.name})")
    return trials

  def append(self, trials: Iterable[Mapping]) -> None:
    """Adds the trials of one generation, all of them or, if the process dies, none; NaN is written as null."""
    lines = [files.encode({name: files.finite(value) for name, value in trial.items()}) for trial in trials]
    files.write_bytes(self.path, self._data() + b"".join(lines))

  def truncate_to(self, num: int) -> None:
    """Drops every trial after the first `num`."""
    lines = self._lines()
    if num < len(lines):
      files.write_bytes(self.path, b"".join(lines[:num]))

  def repair(self) -> int:
    """Keeps the intact lines before the first damaged one; the original stays beside it as `trials.jsonl.broken`.

    Returns:
      The number of lines dropped; at 0 nothing was changed.
    """
    lines = self._lines()
    num = len(_intact(lines))
    if num < len(lines):
      files.write_bytes(self._aside, b"".join(lines))
      self.truncate_to(num)
    return len(lines) - num

  @property
  def _aside(self) -> pathlib.Path:
    path = pathlib.Path(self.path)
    return path.with_name(path.name + ".broken")

  def _data(self) -> bytes:
    with files.explained(self.path):
      path = pathlib.Path(self.path)
      return path.read_bytes() if path.exists() else b""

  def _lines(self) -> list[bytes]:
    return self._data().splitlines(keepends=True)


def _intact(lines: list[bytes]) -> list[dict]:
  trials = []
  for line in lines:
    try:
      trial = json.loads(line)
    except ValueError:
      break
    if not isinstance(trial, dict) or not line.endswith(b"\n"):
      break
    trials.append({name: math.nan if value is None else value for name, value in trial.items()})
  return trials
