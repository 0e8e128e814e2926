"""Logs of numbers over time, `metrics.jsonl` and `timings.jsonl`: one line of JSON for each record.

Nothing is computed from these files, so they are appended to in place, and a line that a crash cut short is skipped.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any, Mapping

from nasformer.store import files


@dataclasses.dataclass(frozen=True)
class JsonlWriter:
  """A log that grows line by line.

  Attributes:
    path: the file; a missing one is an empty log.
  """

  path: pathlib.Path | str

  def write(self, record: Mapping[str, Any]) -> None:
    """Adds a record; a number that is not finite is written as null."""
    line = files.encode({name: files.finite(value) for name, value in record.items()})
    with files.explained(self.path):
      pathlib.Path(self.path).parent.mkdir(parents=True, exist_ok=True)
      with open(self.path, "ab+") as file:
        if file.tell():
          file.seek(-1, os.SEEK_END)
          line = line if file.read() == b"\n" else b"\n" + line  # a line cut short must not swallow this one
        file.write(line)

  def read(self) -> list[dict]:
    """The records, without damaged lines."""
    with files.explained(self.path):
      path = pathlib.Path(self.path)
      data = path.read_bytes() if path.exists() else b""
    return [record for record in map(_parse, data.splitlines()) if isinstance(record, dict)]

  def truncate_after(self, step: int) -> None:
    """Drops records of later steps: a run that goes on from a checkpoint at `step` will write them again."""
    kept = [record for record in self.read() if record["step"] <= step]
    if os.path.exists(self.path):
      files.write_bytes(self.path, b"".join(map(files.encode, kept)))


def _parse(line: bytes) -> Any:
  try:
    return json.loads(line)
  except ValueError:
    return None
