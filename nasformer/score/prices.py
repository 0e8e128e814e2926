"""Latency as a sum of prices of the parts of a network, learned from measured networks.

A network runs its parts one after another, so its latency is a sum over them; what a part takes depends on its own sizes
alone. HAT's predictor (Wang et al. 2020, 3.3) sees means over layers, to which networks with permuted layers are one;
prices per part see every layer. They start from a line for each sort of part (so much for being there, so much for a
multiply-add) and leave it as far as the measurements insist. Because prices add up, a predicted latency is a cost like
parameters and FLOPs: limits on it are kept by repair under jit, and the least one is known exactly.
"""

import dataclasses
import functools
import itertools
from typing import Sequence

import numpy as np
import scipy.optimize
from jaxtyping import Float, Int

from nasformer.ops import stats
from nasformer.score.counts import Net, Term
from nasformer.space.base import Space
from nasformer.types import UserError

UNIT_MS = 1e-6  # prices are whole nanoseconds
_FREEDOM = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # how strongly a price is held to the line of its sort; chosen by cross-validation
_FOLDS = 5
_FEWEST = 20  # networks


@dataclasses.dataclass(frozen=True)
class Fit:
  """Prices, and how good they are.

  Attributes:
    terms: of a `CostTable`, in nanoseconds.
    errors: of networks left out of the fit, by cross-validation: "mape", "median_ape" (fractions), "rmse_ms", "tau".
  """

  terms: tuple[Term, ...]
  errors: dict[str, float]


def fit(space: Space, net: Net, genes: Int[np.ndarray, "E G"], milliseconds: Float[np.ndarray, "E"]) -> Fit:
  """Learns prices from measured networks.

  Args:
    space: of the networks.
    net: says how many multiply-adds a part has.
    genes: canonical genomes.
    milliseconds: their latency.

  Raises:
    UserError: there are too few rows, one is no positive number, or all are equal.
  """
  milliseconds = np.asarray(milliseconds, float)
  if len(genes) < _FEWEST:
    raise UserError(f"a latency table of {len(genes)} networks is too small to fit: measure at least {_FEWEST}"
                    " (latency.networks)")
  if not (np.isfinite(milliseconds) & (milliseconds > 0)).all():
    bad = int(np.flatnonzero(~(np.isfinite(milliseconds) & (milliseconds > 0)))[0])
    raise UserError(f"row {bad + 1} of the latency table says {milliseconds[bad]} ms: a latency is a number above 0")
  if np.ptp(milliseconds) == 0:
    raise UserError(f"all {len(genes)} networks of the latency table take {milliseconds[0]:g} ms: there is nothing to learn")
  columns = _Columns(space, net)
  design = columns.counts(genes)
  predict = lambda train, freedom: columns.prices(design[train], milliseconds[train], freedom)
  held_out = {freedom: np.zeros(len(genes)) for freedom in _FREEDOM}
  order = np.random.default_rng(0).permutation(len(genes))
  for fold in np.array_split(order, _FOLDS):
    train = np.setdiff1d(order, fold)
    for freedom in _FREEDOM:
      prices = predict(train, freedom)
      held_out[freedom][fold] = prices[0] + design[fold] @ prices[1:]
  best = min(_FREEDOM, key=lambda freedom: np.mean((held_out[freedom] / milliseconds - 1) ** 2))
  return Fit(columns.terms(predict(order, best)), errors(held_out[best], milliseconds))


def errors(predicted: Float[np.ndarray, "E"], measured: Float[np.ndarray, "E"]) -> dict[str, float]:
  """"mape" and "median_ape" (fractions), "rmse_ms" and Kendall's "tau"."""
  relative = np.abs(predicted / measured - 1)
  return {"mape": stats.mape(predicted, measured), "median_ape": float(np.median(relative)),
          "rmse_ms": stats.rmse(predicted, measured), "tau": stats.kendall_tau(predicted, measured)}


@dataclasses.dataclass(frozen=True, eq=False)
class _Columns:
  """What a price is for: a part of one role and of given sizes, wherever it stands in the network."""

  space: Space
  net: Net

  @functools.cached_property
  def tables(self) -> dict[tuple, tuple[int, np.ndarray, list]]:
    """By role and options: the first column, multiply-adds, and the sort of each cell."""
    found, start = {}, 0
    for part, where, options in self._parts:
      if (part.role, options) not in found:
        named = [i for i, position in enumerate(where) if self.space.genes[position].kind == "categorical"]
        cells = list(itertools.product(*options))
        work = [self.net.count(part.role, **self.space.part_sizes(part.role, cell)).products for cell in cells]
        sorts = [(part.role, *(cell[i] for i in named)) for cell in cells]
        found[part.role, options] = start, np.array(work, float), sorts
        start += len(cells)
    return found

  @property
  def _parts(self):
    for part in self.space.parts:
      where = tuple(self.space.index[name] for name in part.genes)
      yield part, where, tuple(self.space.genes[i].values for i in where)

  @functools.cached_property
  def lines(self) -> Float[np.ndarray, "columns lines"]:
    """From the line of every sort (a fixed part, and one per multiply-add) to the price of every column."""
    work = np.concatenate([table[1] for table in self.tables.values()])
    sorts = list(itertools.chain(*(table[2] for table in self.tables.values())))
    member = np.array([[sort == other for other in dict.fromkeys(sorts)] for sort in sorts], float)
    return np.concatenate([member, member * work[:, None] / max(work.max(), 1)], axis=1)

  def counts(self, genes: Int[np.ndarray, "E G"]) -> Float[np.ndarray, "E columns"]:
    """How often each network has what a column is for."""
    active = np.asarray(self.space.active(genes))
    counts = np.zeros((len(genes), len(self.lines)))
    for part, where, options in self._parts:
      start = self.tables[part.role, options][0]
      cell = np.ravel_multi_index(tuple(genes[:, i] for i in where), [len(values) for values in options])
      np.add.at(counts, (np.arange(len(genes)), start + cell), active[:, where[-1]] if where else 1.0)
    return counts

  def prices(self, counts: Float[np.ndarray, "E columns"], milliseconds: Float[np.ndarray, "E"],
             freedom: float) -> Float[np.ndarray, "columns_and_1"]:
    """The fixed price of a network and those of the columns: non-negative least squares of relative errors."""
    ones = np.ones((len(counts), 1))
    scale = lambda rows: rows / milliseconds[:, None]
    line, _ = scipy.optimize.nnls(scale(np.concatenate([ones, counts @ self.lines], axis=1)), np.ones(len(counts)))
    expected = np.concatenate([line[:1], self.lines @ line[1:]])
    typical = max(expected[1:].mean(), 1e-9)
    held = np.sqrt(freedom) * np.eye(len(expected)) / typical
    design = np.concatenate([scale(np.concatenate([ones, counts], axis=1)), held])
    found, _ = scipy.optimize.nnls(design, np.concatenate([np.ones(len(counts)), held @ expected]))
    return found

  def terms(self, prices: Float[np.ndarray, "columns_and_1"]) -> tuple[Term, ...]:
    whole = np.round(prices / UNIT_MS).astype(np.int64)
    terms: list[Term] = [((), np.array(whole[0]))]
    for part, where, options in self._parts:
      start, work, _ = self.tables[part.role, options]
      sizes = [len(values) for values in options]
      terms.append((where, whole[1 + start : 1 + start + len(work)].reshape(sizes)))
    return tuple(terms)
