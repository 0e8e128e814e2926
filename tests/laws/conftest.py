import contextlib

import jax
import pytest


@pytest.fixture
def count_compilations():
  """Context manager whose list grows by one for every program that XLA compiles."""

  @contextlib.contextmanager
  def counting():
    seen = []
    listen = lambda event, duration, **_: seen.append(duration) if event.endswith("backend_compile_duration") else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
      yield seen
    finally:
      jax.monitoring.unregister_event_duration_listener(listen)

  return counting
