"""Exact parameters and FLOPs, counted from sizes.

FLOPs are twice the multiply-adds of all matrix products and convolutions of the forward pass for one example, as they are
computed; element-wise work is left out. What is counted of the ends of a network is said by its `counting`. All are sums over the parts of a network, each of which depends on few genes, so a price table per part is exact for
all networks of the space and can be looked up under jit.
"""

import dataclasses
import itertools
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from nasformer.attention.base import Count
from nasformer.space.base import Space

Term = tuple[tuple[int, ...], np.ndarray]


@runtime_checkable
class Net(Protocol):
  """What counting needs of a network family: the price of a part, and of a whole network."""

  def count(self, role: str, **sizes: Any) -> Count: ...

  def count_spec(self, spec: Any) -> Count: ...


@dataclasses.dataclass(frozen=True)
class NumParams:
  """Number of parameters, exact."""

  unit: ClassVar[str] = "parameters"

  def read(self, count: Count) -> int:
    return count.params


@dataclasses.dataclass(frozen=True)
class NumFlops:
  """FLOPs of one forward pass for one example, exact: 2 x multiply-adds of all matrix products."""

  unit: ClassVar[str] = "FLOPs"

  def read(self, count: Count) -> int:
    return 2 * count.products


@runtime_checkable
class Priced(Protocol):
  """The part of `Net` that a cost of parts needs; what a price is, its cost must know."""

  def count(self, role: str, **sizes: Any) -> Any: ...


@runtime_checkable
class PartCost(Protocol):
  """A cost that is a sum over parts: their price as a whole number."""

  def read(self, count: Any) -> int: ...


def terms(space: Space, net: Priced, cost: PartCost) -> list[Term]:
  """The cost as a sum over parts: (positions of the genes, price by their options) for each part of the space."""
  tables: dict[tuple, np.ndarray] = {}
  result = []
  for part in space.parts:
    where = tuple(space.index[name] for name in part.genes)
    options = tuple(space.genes[i].values for i in where)
    if (part.role, options) not in tables:
      prices = [cost.read(net.count(part.role, **space.part_sizes(part.role, values)))
                for values in itertools.product(*options)]
      tables[part.role, options] = np.array(prices, np.int64).reshape([len(values) for values in options])
    result.append((where, tables[part.role, options]))
  return result
