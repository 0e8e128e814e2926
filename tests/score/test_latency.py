import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.score import latency
from nasformer.score.latency import Latency
from nasformer.types import UserError


def test_measure_says_what_it_found():
  traced = []

  def apply(x, y):
    traced.append(x.shape)
    return x @ y

  result = Latency(warmup=2, runs=20).measure(apply, jnp.ones((4, 8)), np.ones((8, 3), np.float32))
  assert result.keys() == {"median_ms", "p10_ms", "p90_ms", "runs"} and result["runs"] == 20
  assert 0 < result["p10_ms"] <= result["median_ms"] <= result["p90_ms"]
  assert traced == [(4, 8)]  # compiled once, and it is the compiled program that is timed


def test_percentiles_on_a_known_clock(monkeypatch):
  """20 runs of 1 to 20 ms, in disorder: 3 to 18 ms are kept, of which a tenth lies below 4.5 ms."""
  took = np.random.default_rng(0).permutation(np.arange(1, 21)) / 1e3
  clock = iter(np.stack([np.zeros(20), took], 1).ravel().tolist())
  monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
  result = Latency(warmup=3, runs=20, spread=2.0).measure(lambda x: x + 1, jnp.ones(2))
  assert result == pytest.approx({"median_ms": 10.5, "p10_ms": 4.5, "p90_ms": 16.5, "runs": 20})


def test_few_runs_are_all_kept(monkeypatch):
  clock = iter([0.0, 0.002, 0.0, 0.001, 0.0, 0.003])
  monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
  result = Latency(warmup=1, runs=3, spread=2.0).measure(lambda x: x + 1, jnp.ones(2))
  assert result == pytest.approx({"median_ms": 2.0, "p10_ms": 1.2, "p90_ms": 2.8, "runs": 3})


@pytest.mark.parametrize("field", ["batch_size", "warmup", "runs"])
def test_mistakes_are_told(field):
  with pytest.raises(UserError, match="must be at least 1"):
    Latency(**{field: 0})


def test_a_measurement_that_scatters_is_repeated(monkeypatch):
  """Three rounds of two runs: 1 and 9 ms, 1 and 5 ms, 2 and 8 ms; the last is the steadiest by (p90 - p10) / median."""
  clock = iter(x for took in (1, 9, 1, 5, 2, 8) for x in (0.0, took / 1e3))
  monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
  found = Latency(warmup=1, runs=2, spread=0.1).measure(lambda x: x + 1, jnp.ones(2))
  assert found["median_ms"] == pytest.approx(5.0) and next(clock, None) is None


def test_a_spread_of_nothing_is_refused():
  with pytest.raises(UserError, match="latency.spread"):
    Latency(spread=0.0)
