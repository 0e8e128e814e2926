"""Counting what XLA compiles: compiling is what a search over architectures must not do for every candidate."""

import contextlib
import dataclasses
import time
from typing import Iterator

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass
class Count:
  """Programs compiled, and seconds that went by, inside a `counted` block."""

  num: int = 0
  seconds: float = 0.0


@contextlib.contextmanager
def counted() -> Iterator[Count]:
  """Counts the programs that are compiled inside the block."""
  count, start = Count(), time.perf_counter()

  def listen(event: str, duration: float, **_) -> None:
    count.num += event == _EVENT

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield count
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
    count.seconds = time.perf_counter() - start
