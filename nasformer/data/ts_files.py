"""Files of series: the .ts format of the UCR/UEA archive (aeon-toolkit), and plain CSV.

.ts: lines that begin with # or @ until @data, then a case a line: its dimensions separated by ":", their values by ",", and the
label last. CSV: a univariate case a line, the label first, then its values.
"""

import pathlib

import numpy as np

from nasformer.data import files
from nasformer.data.series import Case, numbers
from nasformer.types import UserError


def read(path: pathlib.Path) -> list[Case]:
  """All cases of a .ts or .csv file, plain or .gz.

  Raises:
    UserError: it is missing, damaged or of another form; the line is named.
  """
  kind = path.name.removesuffix(".gz").rpartition(".")[2]
  if kind not in ("ts", "csv"):
    raise UserError(f"{path}: its name must end with .ts or .csv (or one of these and .gz)")
  cases = list(_ts(path) if kind == "ts" else _csv(path))
  if not cases:
    raise UserError(f"{path} has no series{' behind @data' if kind == 'ts' else ''}")
  return cases


def _ts(path: pathlib.Path):
  labels, in_data = None, False
  for number, line in enumerate(files.lines(path), 1):
    line, where = line.strip(), f"{path}, line {number}"
    if not line or line.startswith("#"):
      continue
    if not in_data:
      name, *values = line.split()
      if not name.startswith("@"):
        raise UserError(f"{where}: a header line begins with @, and series come behind @data")
      in_data = name.lower() == "@data"
      if name.lower() == "@timestamps" and values[:1] == ["true"]:
        raise UserError(f"{where}: series with time stamps cannot be read: give values at equal steps")
      if name.lower() == "@classlabel":
        if values[:1] != ["true"]:
          raise UserError(f"{where}: the series have no class labels, and classification needs them")
        labels = values[1:]
      continue
    *channels, label = line.split(":")
    if labels is None:
      raise UserError(f"{where}: the header lacks @classLabel true and the labels")
    if not channels or label.strip() not in labels:
      raise UserError(f"{where}: the label is missing, or {label.strip()[:40]!r} is none of {', '.join(labels)}")
    found = [numbers(f"{where}, dimension {i}", channel) for i, channel in enumerate(channels, 1)]
    if len(set(map(len, found))) > 1:
      raise UserError(f"{where}: its dimensions have {', '.join(map(str, map(len, found)))} values: they must be as long as"
                      " each other")
    yield Case(where, label.strip(), np.stack(found, 1))


def _csv(path: pathlib.Path):
  for number, line in enumerate(files.lines(path), 1):
    label, comma, values = line.partition(",")
    where = f"{path}, line {number}"
    if not line.strip():
      continue
    if not comma or not label.strip():
      raise UserError(f"{where}: a label, a comma and values are wanted, such as up,0.1,0.2,0.4")
    yield Case(where, label.strip(), numbers(where, values)[:, None])
