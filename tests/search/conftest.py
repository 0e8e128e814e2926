"""A toy space with everything that makes search hard: absent layers, genes that need other genes, shared prices."""

import dataclasses
import functools
import itertools
import types

import jax
import numpy as np
import pytest

from nasformer.search.costs import CostTable
from nasformer.search.domain import Domain
from nasformer.space.base import Gene, Space
from nasformer.types import Score


@dataclasses.dataclass(frozen=True)
class Toy(Space):
  """Up to `max_depth` layers with a kind and a width; a local layer also has a window."""

  max_depth: int = 2

  @functools.cached_property
  def genes(self):
    table = [Gene("scale", (1, 2)), Gene("depth", tuple(range(1, self.max_depth + 1)))]
    for i in range(self.max_depth):
      site = f"layer.{i}"
      needs = (("depth", tuple(range(i + 1, self.max_depth + 1))),)
      table += [
          Gene(f"{site}.kind", ("full", "local"), "categorical", site, needs),
          Gene(f"{site}.window", (4, 8), "ordinal", site, ((f"{site}.kind", ("local",)),)),
          Gene(f"{site}.width", (1, 2, 3), "ordinal", site, needs),
      ]
    return tuple(table)

  # whole methods are compiled: called on their own, every operation of theirs would be a program

  @functools.partial(jax.jit, static_argnums=(0, 2))
  def draw(self, key, num):
    return super().draw(key, num)

  @functools.partial(jax.jit, static_argnums=0)
  def active(self, genes):
    return super().active(genes)

  @functools.partial(jax.jit, static_argnums=0)
  def canonical(self, genes):
    return super().canonical(genes)

  @functools.partial(jax.jit, static_argnums=0)
  def contains(self, genes):
    return super().contains(genes)

  def terms(self, core, width, ends):
    """`core` is priced by (kind, window), `width` by (scale, width), `ends` by scale."""
    terms = [((0,), ends)]
    for i in range(self.max_depth):
      kind = 2 + 3 * i
      terms += [((kind + 1, kind), core), ((0, kind + 2), width)]
    return tuple(terms)

  def everything(self):
    """Every canonical genome, by brute force."""
    options = [np.flatnonzero(row) for row in self.allowed]
    genes = np.array(list(itertools.product(*options)), np.int32)
    return np.unique(np.asarray(self.canonical(genes)), axis=0)


@functools.cache  # one domain for all tests that ask alike: compiled programs are kept by domain
def make(max_depth=2, restrict="", **limits):
  """A domain over a toy space: `flops` beyond int32, and `params` for which the other kind is the cheaper one."""
  space = Toy(restrict, max_depth)
  flops = space.terms(
      np.array([[9, 2], [9, 5]]) * 10**9 + np.array([[1, 0], [1, 7]]),
      np.array([[2, 4, 6], [3, 6, 9]]) * 10**9, np.array([10**9, 2 * 10**9 + 3]))
  params = space.terms(np.array([[1, 6], [1, 9]]), np.array([[2, 4, 6], [4, 8, 12]]), np.array([3, 5]))
  return Domain(space, {"flops": CostTable(space, flops), "params": CostTable(space, params)}, limits)


def quality(space, genes):
  """A separable score: wide, full layers and many of them are good."""
  active = np.ones(genes.shape, bool)
  for i in range(space.max_depth):
    active[:, 2 + 3 * i : 5 + 3 * i] = genes[:, [1]] >= i
    active[:, 3 + 3 * i] &= genes[:, 2 + 3 * i] == 1
  worth = np.zeros(space.num_genes)
  worth[0], worth[2::3], worth[3::3], worth[4::3] = 0.4, -0.7, 0.3, 0.5
  tilt = np.linspace(1.0, 1.1, space.num_genes)  # no two genes are worth the same
  return (active * (1.0 + worth * tilt * genes)).sum(-1)


def scorer(space, value=quality):
  """A score function from a function of (space, genes)."""
  return lambda genes: Score(value(space, genes), {"loss": -quality(space, genes)}, "table")


LIMITS = {"flops": 2.5e10, "params": 30}, {"flops": 3e10, "params": 50}


@pytest.fixture
def toy():
  """The toy as a namespace: `small` and `large` domain, `make` any other, `quality` of genomes, `scorer` of a space."""
  return types.SimpleNamespace(small=make(2, **LIMITS[0]), large=make(6, **LIMITS[1]), make=make, quality=quality,
                               scorer=scorer, Toy=Toy)
