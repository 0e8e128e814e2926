"""Latency, measured on the small compiled network (never on the masked one, which always costs the most)."""

import dataclasses
import time
from typing import Any, Callable, ClassVar, Mapping

import jax
import numpy as np

from nasformer.types import UserError

_TRIES = 3


@dataclasses.dataclass(frozen=True)
class Latency:
  """Milliseconds per forward pass of the sliced, compiled network on the device at hand.

  As HAT does (3.2), the fastest and the slowest tenth of the runs are left out.

  Attributes:
    batch_size: examples per pass.
    warmup: passes that are not counted.
    runs: passes that are.
    networks: how many random networks the stage latency measures, for a limit that is kept by prediction. It may change in a
      work directory until a search has learned from them: more are added to the table, of too many the first are used.
    spread: a measurement whose tenth and ninetieth percentile are further apart than this, as a fraction of the median, is
      repeated, and left out of predictions if it stays so.
    table: a latency table that was measured elsewhere, to be used in place of that of the work directory.
  """

  unit: ClassVar[str] = "ms"
  batch_size: int = 1
  warmup: int = 5
  runs: int = 50
  networks: int = 100
  spread: float = 0.25
  table: str | None = None

  def __post_init__(self):
    if min(self.batch_size, self.warmup, self.runs, self.networks) < 1:
      raise UserError(f"latency: batch_size, warmup, runs and networks must be at least 1 (they are {self.batch_size},"
                      f" {self.warmup}, {self.runs}, {self.networks})")
    if not self.spread > 0:
      raise UserError(f"latency.spread={self.spread}: it must be above 0")

  def measure(self, apply: Callable, *args: Any) -> dict[str, float]:
    """Compiles `apply(*args)` and times it: {"median_ms", "p10_ms", "p90_ms", "runs"}.

    A measurement that scatters by more than `spread` is repeated, and the steadiest of three counts.
    """
    return self.time(compiled(apply, *args))

  def time(self, program: Callable[[], Any]) -> dict[str, float]:
    """The same of what `compiled` gives."""
    for _ in range(self.warmup):
      program()
    found = []
    while len(found) < _TRIES and (not found or min(map(_spread, found)) > self.spread):
      found.append(self._round(program))
    return min(found, key=_spread)

  def time_beside(self, program: Callable[[], Any], reference: Callable[[], Any]) -> dict[str, float]:
    """The same, and "reference_ms" of a program that runs just before and just after, in the same state of the machine."""
    before, found, after = self.time(reference), self.time(program), self.time(reference)
    return found | {"reference_ms": (before["median_ms"] + after["median_ms"]) / 2}

  def _round(self, program: Callable[[], Any]) -> dict[str, float]:
    times = []
    for _ in range(self.runs):
      start = time.perf_counter()
      program()
      times.append(1e3 * (time.perf_counter() - start))
    tenth = len(times) // 10
    kept = np.sort(times)[tenth : len(times) - tenth]
    low, median, high = np.percentile(kept, [10, 50, 90])
    return {"median_ms": float(median), "p10_ms": float(low), "p90_ms": float(high), "runs": self.runs}


def compiled(apply: Callable, *args: Any) -> Callable[[], Any]:
  """The compiled `apply(*args)`, to be run to its end with a call."""
  run, args = jax.jit(apply).lower(*args).compile(), jax.device_put(args)
  return lambda: jax.block_until_ready(run(*args))


def _spread(found: Mapping[str, float]) -> float:
  return (found["p90_ms"] - found["p10_ms"]) / found["median_ms"]
