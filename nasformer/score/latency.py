"""Latency, measured on the small compiled network (never on the masked one, which always costs the most)."""

import dataclasses
import time
from typing import Any, Callable, ClassVar

import jax
import numpy as np

from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Latency:
  """Milliseconds per forward pass of the sliced, compiled network on the device at hand.

  As HAT does (3.2), the fastest and the slowest tenth of the runs are left out.

  Attributes:
    batch_size: examples per pass.
    warmup: passes that are not counted.
    runs: passes that are.
  """

  unit: ClassVar[str] = "ms"
  batch_size: int = 1
  warmup: int = 5
  runs: int = 50

  def __post_init__(self):
    if min(self.batch_size, self.warmup, self.runs) < 1:
      raise UserError(f"latency: batch_size, warmup and runs must be at least 1 (they are {self.batch_size},"
                      f" {self.warmup}, {self.runs})")

  def measure(self, apply: Callable, *args: Any) -> dict[str, float]:
    """Compiles `apply(*args)` and times it: {"median_ms", "p10_ms", "p90_ms", "runs"}."""
    run = jax.jit(apply).lower(*args).compile()
    args = jax.device_put(args)
    for _ in range(self.warmup):
      jax.block_until_ready(run(*args))
    times = []
    for _ in range(self.runs):
      start = time.perf_counter()
      jax.block_until_ready(run(*args))
      times.append(1e3 * (time.perf_counter() - start))
    tenth = len(times) // 10
    kept = np.sort(times)[tenth : len(times) - tenth]
    low, median, high = np.percentile(kept, [10, 50, 90])
    return {"median_ms": float(median), "p10_ms": float(low), "p90_ms": float(high), "runs": self.runs}
