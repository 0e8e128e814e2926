"""Statistics of searches and reports, on the host: Pareto fronts, hypervolume, rank agreement, spread."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Num


def pareto_mask(points: Num[np.ndarray, "E M"], maximise: tuple[bool, ...]) -> Bool[np.ndarray, "E"]:
  """Which points no other point dominates; equal points are kept together and a NaN is never on the front.

  Args:
    points: one row per architecture, one column per objective.
    maximise: for each column, whether larger is better.
  """
  signed = _signed(points, maximise)
  no_worse = (signed[:, None] >= signed).all(-1)
  better = (signed[:, None] > signed).any(-1)
  return ~(no_worse & better).any(0) & ~np.isnan(signed).any(-1)


def hypervolume_2d(
    points: Num[np.ndarray, "E 2"], reference: Num[np.ndarray, "2"], maximise: tuple[bool, ...]
) -> float:
  """Area that the points dominate above a reference point; a point that is not better than it in both adds nothing.

  Source: Zitzler and Thiele 1999, IEEE Transactions on Evolutionary Computation 3(4).

  Args:
    points: one row per architecture, one column per objective.
    reference: the corner from which area is measured, in the same units.
    maximise: for each column, whether larger is better.
  """
  gains = _signed(points, maximise) - _signed(reference[None], maximise)
  gains = gains[(gains > 0).all(-1)]
  gains = gains[np.argsort(-gains[:, 0], kind="stable")]
  height = np.maximum.accumulate(gains[:, 1])
  rise = np.diff(height, prepend=0.0)
  return float((gains[:, 0] * rise).sum())


def kendall_tau(predicted: Num[np.ndarray, "E"], measured: Num[np.ndarray, "E"]) -> float:
  """Rank agreement of a proxy with the truth: τ = (concordant - discordant) / pairs, in [-1, 1].

  Ties in `measured` leave a pair out of the count; ties in `predicted` count as neither (tau-a on the rest).
  NaN if every pair is tied in `measured`. Source: Kendall 1938, Biometrika 30.

  Args:
    predicted: proxy value per architecture, larger is better.
    measured: what it should agree with, larger is better.

  Raises:
    ValueError: fewer than two architectures.
  """
  if len(predicted) < 2:
    raise ValueError(f"rank agreement of {len(predicted)} architecture(s): at least 2 are needed")
  one, two = np.triu_indices(len(predicted), k=1)
  wanted = np.sign(measured[one] - measured[two])
  given = np.sign(predicted[one] - predicted[two])
  pairs = np.count_nonzero(wanted)
  return float((wanted * given).sum() / pairs) if pairs else float("nan")


def rmse(predicted: Num[np.ndarray, "E"], measured: Num[np.ndarray, "E"]) -> float:
  """Root of the mean squared error √(Σ (p - m)² / n), in the unit of both."""
  return float(np.sqrt(np.mean((predicted - measured) ** 2)))


def mape(predicted: Num[np.ndarray, "E"], measured: Num[np.ndarray, "E"]) -> float:
  """Mean absolute error relative to what was measured, Σ |p - m| / |m| / n, as a fraction."""
  return float(np.mean(np.abs(predicted - measured) / np.abs(measured)))


def bootstrap_interval(
    rng: np.random.Generator, statistic: Callable[..., float], *columns: Num[np.ndarray, "E"], level: float = 0.95,
    resamples: int = 1000,
) -> tuple[float, float]:
  """Percentile interval of a statistic of paired columns, the rows being drawn anew with replacement.

  Source: Efron 1979, Annals of Statistics 7. Resamples on which the statistic is NaN are left out.

  Args:
    rng: draws the rows.
    statistic: of the columns, such as `kendall_tau`.
    columns: one entry per architecture each.
    level: probability of the interval.
    resamples: how often rows are drawn.
  """
  rows = rng.integers(0, len(columns[0]), (resamples, len(columns[0])))
  values = [statistic(*(column[each] for column in columns)) for each in rows]
  low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


def mean_and_spread(values: Num[np.ndarray, "E"]) -> tuple[float, float]:
  """Mean and sample standard deviation √(Σ (v - mean)² / (n - 1)); the spread of one value is NaN, not zero."""
  return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def binomial_error(rate: float, num: int) -> float:
  """Standard error √(p (1 - p) / n) of a rate that was measured on `num` examples."""
  return float(np.sqrt(rate * (1 - rate) / num))


def _signed(points: Num[np.ndarray, "E M"], maximise: tuple[bool, ...]) -> Float[np.ndarray, "E M"]:
  return np.where(maximise, 1.0, -1.0) * points
