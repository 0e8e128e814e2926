"""Costs that are sums of prices over the parts of a network: whole numbers, exact on the host and under jit.

FLOPs pass 2³¹ and 64-bit integers are off on devices, so under jit a cost is two int32 digits in base 2²⁰. The cheapest
network is found exactly by eliminating one gene after another (nonserial dynamic programming, Bertelè and Brioschi
1972), which takes milliseconds because a part depends on few genes.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from nasformer.space.base import Space

Term = tuple[tuple[int, ...], np.ndarray]  # positions of genes, and a table with one axis for each
_DIGIT = 20  # bits; the low digits of 2¹¹ terms still add up inside an int32
_LOW = 2**_DIGIT - 1
_NEVER = 2**54  # above any cost, and few enough of them stay within 64 bits


@dataclasses.dataclass(frozen=True, eq=False)
class CostTable:
  """A cost that adds up from terms, each a table of prices over a few genes.

  Attributes:
    space: whose genomes are priced.
    terms: positions of genes and the prices, whole numbers from 0, of every combination of their options. A term
      counts while its last gene is active; one without genes always counts.
    unit: what one step of the prices is worth: costs are given in its unit, whole numbers where it is 1.
  """

  space: Space
  terms: tuple[Term, ...]
  unit: float = 1

  def __post_init__(self):
    for genes, prices in self.terms:
      sizes = tuple(len(self.space.genes[i].values) for i in genes)
      if prices.shape != sizes or not np.issubdtype(prices.dtype, np.integer) or (prices < 0).any():
        raise ValueError(f"prices over genes {genes} must be whole numbers from 0 of shape {sizes}")
    if len(self.terms) > 2**11 or sum(int(prices.max()) for _, prices in self.terms) >= 2**50:
      raise ValueError("a cost must have at most 2048 terms and stay below 2**50")

  @functools.cached_property
  def factors(self) -> tuple[Term, ...]:
    """The terms with activity worked in: tables over their genes and whatever switches those, right for any genome."""
    return tuple(_unfold(self.space, genes, prices) for genes, prices in self.terms)

  def exact(self, genes: Int[np.ndarray, "*P G"]) -> Num[np.ndarray, "*P"]:
    """The costs of genomes, on the host."""
    prices, cells = self._cells(genes)
    return np.asarray(self._valued(prices[cells].sum(-1)))

  def _valued(self, cost):
    return cost if self.unit == 1 else cost * self.unit

  def rough(self, genes: Int[Array | np.ndarray, "*P G"]) -> Float[Array, "*P"]:
    """The same to about seven digits, valid under jit."""
    prices, cells = self._cells(genes)
    return jnp.asarray(prices * self.unit, jnp.float32)[cells].sum(-1)

  def excess(self, genes: Int[Array | np.ndarray, "*P G"], limit: float | int) -> Float[Array, "*P"]:
    """How far a cost is above its limit, relative to the limit; 0 exactly where it is not. Valid under jit."""
    prices, cells = self._cells(genes)
    digits = jnp.asarray(np.stack([prices >> _DIGIT, prices & _LOW], -1), jnp.int32)[cells].sum(-2)
    bound = self.within(limit)
    high = digits[..., 0] + (digits[..., 1] >> _DIGIT) - (bound >> _DIGIT)
    low = (digits[..., 1] & _LOW) - (bound & _LOW)
    above = (high > 0) | ((high == 0) & (low > 0))
    amount = high.astype(jnp.float32) * 2**_DIGIT + low.astype(jnp.float32)
    return jnp.where(above, amount * self.unit / float(limit), 0.0)

  def within(self, limit: float | int) -> int:
    """The largest sum of prices that keeps a limit."""
    bound = math.floor(min(limit / self.unit, 2**50)) + 1
    while self._valued(bound) > limit:
      bound -= 1
    return bound

  def minimum(self) -> tuple[int | float, Int[np.ndarray, "G"]]:
    """The least cost in the space, restrictions included, and a genome that has it."""
    least, genes = minimise(self.factors, self.space)
    return self._valued(least), np.asarray(self.space.canonical(genes))

  def _cells(self, genes: Int[Array | np.ndarray, "*P G"]):
    """All prices in one row, and which of them each genome adds up, [*P, terms]."""
    prices, start, position, stride = self._layout
    genes = self.space.settle(genes)
    return prices, start + (genes[..., position] * stride).sum(-1)

  @functools.cached_property
  def _layout(self) -> tuple[np.ndarray, ...]:
    """Prices of all factors in one row; for each factor its start, and position and stride of its genes (0-padded)."""
    tables = [table for _, table in self.factors]
    width = max((len(scope) for scope, _ in self.factors), default=0)
    position, stride = np.zeros((2, len(tables), width), np.int32)
    for row, (scope, table) in enumerate(self.factors):
      position[row, : len(scope)] = scope
      stride[row, : len(scope)] = [math.prod(table.shape[axis + 1 :]) for axis in range(table.ndim)]
    start = np.cumsum([0] + [table.size for table in tables])[:-1].astype(np.int32)
    prices = np.concatenate([np.zeros(0, np.int64)] + [table.ravel() for table in tables])
    return prices, start, position, stride


def minimise(factors: Sequence[Term], space: Space) -> tuple[int | float, Int[np.ndarray, "G"]]:
  """Exact minimum of a sum of tables over the allowed genomes of a space, and a genome that attains it (not canonical).

  Args:
    factors: positions of genes in rising order, and a table over all their options; see `CostTable.factors`.
    space: says which options are allowed, and which can stand together.
  """
  helpers = {i: np.arange(size) for scope, table in space.links for i, size in zip(scope, table.shape) if i >= space.num_genes}
  options = [*map(np.flatnonzero, space.allowed), *(helpers[i] for i in sorted(helpers))]
  factors = [*factors, *((scope, np.where(table, 0, _NEVER)) for scope, table in space.links)]
  tables = [(scope, table[np.ix_(*(options[i] for i in scope))]) for scope, table in factors]
  waiting = {i for scope, _ in tables for i in scope}
  trail = []
  while waiting:  # next is the gene whose neighbours have the fewest combinations
    near = {i: set().union(*(scope for scope, _ in tables if i in scope)) - {i} for i in waiting}
    gene = min(waiting, key=lambda i: (math.prod(len(options[j]) for j in near[i]), i))
    scope = tuple(sorted(near[gene]))
    joint = sum(_spread(table, axes, (*scope, gene)) for axes, table in tables if gene in axes)
    tables = [(axes, table) for axes, table in tables if gene not in axes] + [(scope, joint.min(-1))]
    trail.append((gene, scope, joint.argmin(-1)))
    waiting.remove(gene)
  choice = np.zeros(len(options), np.int32)
  for gene, scope, best in reversed(trail):
    choice[gene] = best[tuple(choice[list(scope)])]
  genes = [row[k] for row, k in zip(options[: space.num_genes], choice)]
  return sum(table.item() for _, table in tables), np.array(genes, np.int32)


def _spread(table: Num[np.ndarray, "..."], axes: tuple[int, ...], scope: tuple[int, ...]) -> Num[np.ndarray, "..."]:
  """A table over the genes `axes`, ready to broadcast over the genes `scope`."""
  sizes = dict(zip(axes, table.shape))
  table = table.transpose(sorted(range(len(axes)), key=lambda axis: scope.index(axes[axis])))
  return table.reshape([sizes[i] if i in sizes else 1 for i in scope])


def _unfold(space: Space, genes: tuple[int, ...], prices: Int[np.ndarray, "..."]) -> Term:
  """A term as a table over its genes and their controllers: inactive genes read as 0, an absent part as no cost."""
  scope = tuple(sorted(set(genes).union(*(_controllers(space, i) for i in genes))))
  sizes = [len(space.genes[i].values) for i in scope]
  chosen = dict(zip(scope, np.ix_(*map(range, sizes))))
  active = {i: _active(space, i, chosen) for i in genes}
  table = prices[tuple(np.where(active[i], chosen[i], 0) for i in genes)]
  exists = active[genes[-1]] if genes else True
  return scope, np.broadcast_to(np.where(exists, table, 0).astype(np.int64), sizes)


def _controllers(space: Space, position: int) -> set[int]:
  direct = {space.index[name] for name, _ in space.genes[position].needs}
  return direct.union(*(_controllers(space, i) for i in direct))


def _active(space: Space, position: int, chosen: dict[int, Int[np.ndarray, "..."]]) -> Bool[np.ndarray, "..."]:
  """Whether a gene is active, for broadcastable arrays of the options chosen for its controllers."""
  active = np.array(True)
  for name, values in space.genes[position].needs:
    controller = space.index[name]
    works = np.array([value in values for value in space.genes[controller].values])
    active = active & works[chosen[controller]] & _active(space, controller, chosen)
  return active
