"""Numbers as people read them: spread over seeds, percent, decimal prefixes, intervals, ratios in words."""

import dataclasses
import math
from typing import Callable, Iterable

import numpy as np

from nasformer.ops import stats

Number = int | float


@dataclasses.dataclass(frozen=True)
class Spread:
  """Mean over seeds and sample standard deviation (None for a single seed)."""

  mean: float
  std: float | None
  num: int

  def show(self, unit: Callable[..., str]) -> str:
    """As text in a unit, such as `percent`."""
    return unit(self.mean, self.std)


def spread(values: Iterable[Number | None]) -> Spread | None:
  """Spread of the values that are there; None when none is."""
  known = [value for value in values if value is not None]
  if not known:
    return None
  mean, std = stats.mean_and_spread(np.array(known, np.float64))
  return Spread(mean, std if len(known) > 1 else None, len(known))


def percent(value: Number, std: float | None = None, decimals: int = 1) -> str:
  """(0.975, 0.003) -> "97.5 ± 0.3%"."""
  return f"{_pair(100 * value, std and 100 * std, decimals)}%"


def percent2(value: Number, std: float | None = None) -> str:
  """(0.97512, 0.0031) -> "97.51 ± 0.31%"."""
  return percent(value, std, 2)


def tenths(value: Number, std: float | None = None) -> str:
  """(27.31, 0.24) -> "27.3 ± 0.2"."""
  return _pair(value, std, 1)


def thousandths(value: Number, std: float | None = None) -> str:
  """(2.10449, 0.0123) -> "2.104 ± 0.012"."""
  return _pair(value, std, 3)


def interval(low: Number, high: Number, unit: Callable[[Number], str]) -> str:
  """The ends of an interval in a unit: (-0.31, 1.42) -> "[−0.3, 1.4]", which no line break parts."""
  return f"[{unit(low)},\N{NO-BREAK SPACE}{unit(high)}]".replace("-", "−")


def milliseconds(value: Number, std: float | None = None) -> str:
  """(0.6693, 0.0091) -> "0.669 ± 0.009 ms"."""
  return f"{_pair(value, std, _decimals(value))} ms"


def three_digits(value: Number) -> str:
  """0.68 -> "0.680"."""
  return f"{value:.{_decimals(value)}f}"


def si(value: Number, std: float | None = None) -> str:
  """Three digits and a decimal prefix: (36805, 809) -> "36.8k ± 0.8k"."""
  power = 0
  while abs(float(f"{value:.3g}")) >= 1000 ** (power + 1) and power < 4:
    power += 1
  scale, prefix = 1000 ** power, ("", "k", "M", "G", "T")[power]
  decimals = _decimals(value / scale) if std else None
  return _pair(value / scale, std and std / scale, decimals, prefix)


def compared(ours: Number, theirs: Number, noun: str) -> str:
  """A cost against another in words: "2.1× fewer FLOPs", "12% more FLOPs", "as many FLOPs" (within 2%)."""
  if not ours or not theirs or abs(ours / theirs - 1) < 0.02:
    return f"as many {noun}"
  word, ratio = ("fewer", theirs / ours) if ours < theirs else ("more", ours / theirs)
  if ratio < 1.5:
    return f"{100 * abs(ours / theirs - 1):.0f}% {word} {noun}"
  return f"{ratio:.1f}× {word} {noun}"


def lower_first(text: str) -> str:
  """"Test accuracy" -> "test accuracy", but "FLOPs" and "BLEU" stay."""
  return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _pair(value: Number, std: float | None, decimals: int | None, prefix: str = "") -> str:
  mean = f"{float(f'{value:.3g}'):g}" if decimals is None else f"{value:.{decimals}f}"
  return f"{mean}{prefix} ± {std:.{decimals}f}{prefix}" if std else f"{mean}{prefix}"


def _decimals(value: Number) -> int:
  """How many decimals show three significant digits."""
  return max(2 - math.floor(math.log10(abs(value))), 0) if value else 0
