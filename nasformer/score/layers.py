"""Time of attention layers by themselves, from the table that experiments/bench/attention.py writes on the device at hand.

A layer of the table is 512 wide; one of the space counts in proportion to the width of all its heads. Between measured lengths
a line in logarithms is followed. That is coarse, but needs no network of the space to be compiled, and says what kinds cost
beside each other at this length; `--stages=latency` measures whole networks.
"""

import dataclasses
import math
from typing import Any, ClassVar, Mapping, Sequence

import numpy as np

from nasformer.attention.base import Kind
from nasformer.attention.naming import label
from nasformer.score.prices import UNIT_MS
from nasformer.types import UserError

_FORMS = {"attention": "bidirectional", "encoder_attention": "bidirectional", "decoder_attention": "causal",
          "decoder_cross": "cross"}


@dataclasses.dataclass(frozen=True)
class AttentionTime:
  """Milliseconds of all attention layers of a network, one after another."""

  unit: ClassVar[str] = "ms"

  def read(self, price: int) -> int:
    return price


@dataclasses.dataclass(frozen=True)
class Layers:
  """Prices parts of a network by such a table, as a network family counts them (`counts.terms`).

  Attributes:
    path: of the table, for messages.
    times: milliseconds by length, by label of a kind and form.
    labels: of the kinds of this search, by their names in it.
    width: of a layer there.
    length: of the sequences of this search.
  """

  path: str
  times: Mapping[tuple[str, str], Mapping[int, float]]
  labels: Mapping[str, str]
  width: int
  length: int

  def count(self, role: str, **sizes: Any) -> int:
    """Nanoseconds of a part; none for parts that are no attention.

    Raises:
      UserError: the table lacks the kind in this form, or a shorter or longer sequence than these.
    """
    if role not in _FORMS:
      return 0
    kind, form = self.labels[sizes["kind"]], _FORMS[role]
    found = self.times.get((kind, form))
    if found is None:
      raise UserError(f"{self.path} has no times of {kind!r} ({form}, forward): measure it with"
                      f" experiments/bench/attention.py --kinds='{kind}' --modes={form} --what=forward")
    if not min(found) <= self.length <= max(found):
      raise UserError(f"{self.path} has times of {kind!r} ({form}) from {min(found)} to {max(found)} tokens, and sequences here"
                      f" have {self.length}: measure that with experiments/bench/attention.py --lengths")
    lengths = sorted(found)
    line = np.interp(math.log(self.length), np.log(lengths), np.log([found[length] for length in lengths]))
    return round(math.exp(line) * sizes["num_heads"] * sizes["head_dim"] / self.width / UNIT_MS)


def layers(rows: Sequence[Mapping[str, Any]], path: str, length: int, device: str, kinds: Mapping[str, Kind]) -> Layers:
  """The table.

  Args:
    rows: of attention.jsonl.
    path: of that.
    length: of the sequences of this search.
    device: on which it must have been measured.
    kinds: attention kinds of this search, by name; the table has them under their labels.

  Raises:
    UserError: it is empty, no such table, or of another device.
  """
  if not rows or "device" not in rows[0] or not all("ms" in row for row in rows[1:]):
    raise UserError(f"{path} is missing or no table of attention layers: experiments/bench/attention.py writes one")
  if rows[0]["device"] != device:
    raise UserError(f"{path} was measured on {rows[0]['device']!r}, and this is {device!r}: measure it here")
  times: dict[tuple[str, str], dict[int, float]] = {}
  for row in rows[1:]:
    if row["what"] == "forward":
      times.setdefault((row["kind"], row["mode"]), {})[row["length"]] = row["ms"]  # the last measurement counts
  return Layers(path, times, {name: label(kind) for name, kind in kinds.items()}, rows[0]["width"], length)
