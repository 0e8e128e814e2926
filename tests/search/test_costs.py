"""Costs: the definition by loops, digits under jit against int64, the exact minimum against brute force."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from nasformer.search.costs import CostTable, minimise
from nasformer.space.base import Gene, Space
from nasformer.space.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Line(Space):
  """Independent genes of two options."""

  num: int = 3

  @functools.cached_property
  def genes(self):
    return tuple(Gene(f"gene.{i}", (0, 1)) for i in range(self.num))


def by_hand(table, genes):
  """The definition: the price of every term whose last gene is active, looked up in the canonical genome."""
  space = table.space
  genes = np.asarray(space.canonical(genes))
  active = np.asarray(space.active(genes))
  totals = []
  for row, alive in zip(genes, active):
    counted = [(where, prices) for where, prices in table.terms if not where or alive[where[-1]]]
    totals.append(sum(int(prices[tuple(row[list(where)])]) for where, prices in counted))
  return np.array(totals)


@pytest.mark.parametrize("cost", ["flops", "params"])
def test_exact_equals_the_definition(toy, cost):
  table = toy.make().costs[cost]
  genes = table.space.everything()
  np.testing.assert_array_equal(table.exact(genes), by_hand(table, genes))
  assert table.exact(genes).dtype == np.int64 and table.exact(genes[0]) == by_hand(table, genes[:1])[0]


def test_genomes_need_not_be_canonical(toy):
  table = toy.make().costs["flops"]
  genes = np.random.default_rng(0).integers(0, [len(gene.values) for gene in table.space.genes], (200, 8), np.int32)
  np.testing.assert_array_equal(table.exact(genes), by_hand(table, genes))


def test_excess_is_exact_at_the_limit(toy):
  """One unit in ten thousand millions decides, which float32 alone could not see."""
  table = toy.make(6).costs["flops"]
  genes = np.asarray(table.space.sample(jax.random.key(0), 50))
  excess = jax.jit(table.excess, static_argnums=1)
  exact = table.exact(genes)
  assert exact.max() > 2**35
  for cost in exact[:2]:
    np.testing.assert_array_equal(np.asarray(excess(genes, float(cost))) == 0, exact <= cost)
    np.testing.assert_array_equal(np.asarray(excess(genes, cost - 1.0)) == 0, exact <= cost - 1)
    np.testing.assert_array_equal(np.asarray(excess(genes, cost - 0.5)) == 0, exact <= cost - 1)
    wanted = np.maximum(exact - cost, 0) / cost
    np.testing.assert_allclose(np.asarray(excess(genes, float(cost))), wanted, rtol=1e-6)


def test_digits_carry():
  """2²⁰ - 1 twice is one carry; an infinite limit is no limit."""
  table = CostTable(Line(), tuple(((i,), np.array([2**20 - 1, 2**20])) for i in range(3)))
  genes = np.array(list(itertools.product((0, 1), repeat=3)), np.int32)
  for limit in (3 * (2**20 - 1), 3 * 2**20 - 1, 3 * 2**20):
    np.testing.assert_array_equal(np.asarray(table.excess(genes, limit)) == 0, table.exact(genes) <= limit)
  assert not np.asarray(table.excess(genes, float("inf"))).any()


@pytest.mark.parametrize("restrict", ["", "layer.*.kind=local; layer.0.width=2,3", "depth=2; layer.1.window=8"])
@pytest.mark.parametrize("cost", ["flops", "params"])
def test_minimum_equals_brute_force(toy, cost, restrict):
  table = toy.make(restrict=restrict).costs[cost]
  least, genes = table.minimum()
  assert least == table.exact(table.space.everything()).min() == table.exact(genes)
  assert table.space.contains(genes)


@pytest.mark.parametrize("seed", range(5))
def test_minimise_random_tables(seed):
  """Tables over random triples of nine genes, against all 2⁹ genomes."""
  rng = np.random.default_rng(seed)
  space = Line(num=9)
  scopes = [tuple(sorted(rng.choice(9, 3, replace=False).tolist())) for _ in range(8)]
  factors = [(scope, rng.integers(-50, 50, (2, 2, 2))) for scope in scopes]
  totals = [sum(t[tuple(row[i] for i in s)] for s, t in factors) for row in itertools.product((0, 1), repeat=9)]
  least, genes = minimise(factors, space)
  assert least == min(totals) == sum(t[tuple(genes[list(s)])] for s, t in factors)


@pytest.mark.parametrize("restrict", ["", "layer.1.num_heads=2,3; depth=2,3", "depth=3; layer.*.num_heads=1,3"])
def test_genes_that_must_add_up(restrict):
  """Prices of layers by their heads, in any genome: those of the heads that it settles to; the minimum by brute force."""
  space = Encoder(restrict, (8,), (1, 2, 3), (), 5, ffn_dim=(4,), kinds=("softmax",))
  contains = jax.jit(space.contains)
  genes = np.zeros((375, 11), np.int32)
  genes[:, [1, 3, 6, 9]] = list(itertools.product(range(3), *[range(5)] * 3))
  inside = np.asarray(contains(genes))
  for prices in np.random.default_rng(0).integers(0, 100, (3, 3, 5)):
    table = CostTable(space, tuple(((3 + 3 * layer,), row) for layer, row in enumerate(prices)))
    costs = table.exact(genes)
    heads = [[layer.num_heads for layer in space.decode(row).layers] for row in genes[::20]]
    assert costs[::20].tolist() == [sum(row[k - 1] for row, k in zip(prices, layers)) for layers in heads]
    least, found = table.minimum()
    assert least == costs[inside].min() == table.exact(found) and contains(found)


def test_constant_terms(toy):
  table = CostTable(toy.Toy(), (((), np.array(7)),))
  assert table.minimum()[0] == 7 and (table.exact(table.space.everything()) == 7).all()

  nothing = CostTable(toy.Toy(), ())
  assert nothing.minimum()[0] == 0 and not nothing.exact(table.space.everything()).any()
  assert not np.asarray(nothing.excess(table.space.everything(), 1.0)).any()


@pytest.mark.parametrize("prices", [np.ones(3, int), np.array([1.0, 2.0]), np.array([1, -1]), np.array([1, 2**50])])
def test_bad_prices_are_refused(toy, prices):
  with pytest.raises(ValueError, match="whole numbers|stay below"):
    CostTable(toy.Toy(), (((0,), prices),))
