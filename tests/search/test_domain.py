"""The feasible region: exact, sampled without bias, repaired with certainty, refused when it is empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.search.costs import CostTable
from nasformer.search.domain import Domain
from nasformer.space.encoder import Encoder
from nasformer.types import UserError

sample = jax.jit(lambda domain, key, num: domain.sample(key, num), static_argnums=(0, 2))
repair = jax.jit(lambda domain, key, genes: domain.repair(key, genes), static_argnums=0)
LIMITS = [{}, {"flops": 1.4e10}, {"params": 12}, {"flops": 2.2e10, "params": 18}]


@pytest.mark.parametrize("limits", LIMITS)
def test_feasible_equals_the_exact_costs(toy, limits):
  domain = toy.make(**limits)
  genes = domain.space.everything()
  exact = np.ones(len(genes), bool)
  for name, limit in limits.items():
    exact &= domain.costs[name].exact(genes) <= limit
  np.testing.assert_array_equal(domain.feasible(genes), exact)
  np.testing.assert_array_equal(domain.meets(genes), exact)
  assert exact.any()


@pytest.mark.parametrize("limits", [{}, {"flops": 2.2e10, "params": 18}])
def test_sample_and_repair_stay_within(toy, limits):
  domain = toy.make(3, **limits)
  sampled = sample(domain, jax.random.key(1), 300)
  raw = domain.space.sample(jax.random.key(2), 300)
  repaired = repair(domain, jax.random.key(3), raw)
  for draw in (sampled, repaired):
    assert domain.meets(np.asarray(draw.genes)).all() and domain.space.contains(draw.genes).all()
    np.testing.assert_array_equal(draw.genes, domain.space.canonical(draw.genes))
  fine = domain.meets(np.asarray(raw))
  np.testing.assert_array_equal(np.asarray(repaired.genes)[fine], np.asarray(raw)[fine])
  broken = [int((domain.costs[name].exact(np.asarray(raw)) > limit).sum()) for name, limit in limits.items()]
  np.testing.assert_array_equal(repaired.rejected, broken)


def test_sample_has_the_conditional_distribution(toy):
  """Against a large sample of the space from which whatever breaks the limit is thrown away."""
  domain = toy.make(flops=1.4e10)
  drawn = np.asarray(sample(domain, jax.random.key(0), 20_000).genes)
  raw = np.asarray(domain.space.sample(jax.random.key(1), 40_000))
  wanted = raw[domain.meets(raw)]
  for rows in domain.space.everything():
    one, two = ((genes == rows).all(-1).mean() for genes in (drawn, wanted))
    # 5 standard errors of the difference of the two frequencies
    assert abs(one - two) <= 5 * np.sqrt(max(two, 1e-4) * (1 / len(drawn) + 1 / len(wanted)))


def test_the_tightest_limit_leaves_one_network(toy):
  free = toy.make(4)
  least, genes = free.costs["flops"].minimum()
  domain = toy.make(4, flops=least)
  for draw in (sample(domain, jax.random.key(0), 8), repair(domain, jax.random.key(0), jnp.full((8, 14), 1))):
    np.testing.assert_array_equal(draw.genes, np.tile(genes, (8, 1)))


def test_repair_with_restrictions(toy):
  """Genes that come to life take allowed options only."""
  domain = toy.make(4, "layer.*.kind=local; layer.*.window=8; layer.*.width=2,3", params=50)
  draw = repair(domain, jax.random.key(0), domain.space.sample(jax.random.key(1), 200))
  assert domain.space.contains(draw.genes).all() and domain.meets(np.asarray(draw.genes)).all()


def test_repair_of_genes_that_must_add_up():
  """The heads of a budget: one layer costs by the square of its heads, the next by three times as much."""
  space = Encoder("depth=2", (8,), (1, 2), (), 6, ffn_dim=(4,), kinds=("softmax",))
  squares = np.arange(1, 7) ** 2
  domain = Domain(space, {"flops": CostTable(space, (((3,), squares), ((6,), 3 * squares)))}, {"flops": 28})  # (5, 1) or (4, 2)
  draw = repair(domain, jax.random.key(0), jnp.zeros((64, 8), jnp.int32).at[:, 1].set(1).at[:, 6].set(4))
  assert {tuple(row) for row in np.asarray(draw.genes)[:, [1, 3, 6]].tolist()} == {(1, 4, 0), (1, 3, 1)}


def test_limits_that_pull_apart(toy):
  """Local layers save FLOPs and cost parameters; with both limits tight the joint optimum of neither is feasible."""
  free = toy.make(restrict="depth=2")
  genes = free.space.everything()
  flops, params = free.costs["flops"].exact(genes), free.costs["params"].exact(genes)
  mixed = genes[(genes[:, 2] != genes[:, 5]) & (genes[:, [0, 3, 4, 6, 7]] == 0).all(-1)][0]
  limits = {name: int(free.costs[name].exact(mixed)) for name in free.costs}
  assert limits["flops"] < flops[params.argmin()] and limits["params"] < params[flops.argmin()]
  domain = toy.make(restrict="depth=2", **limits)
  domain.check()
  assert domain.meets(np.asarray(sample(domain, jax.random.key(0), 50).genes)).all()


def test_an_infeasible_limit_names_the_nearest(toy):
  least, _ = toy.make().costs["flops"].minimum()
  toy.make(flops=least).check()
  with pytest.raises(UserError, match=rf"search.limits.flops={least - 1} .* needs flops={least}$"):
    toy.make(flops=least - 1).check()


def test_limits_that_exclude_each_other_name_the_nearest(toy):
  with pytest.raises(UserError, match="flops=6000000000 and search.limits.params=9 together.*nearest one has flops="):
    toy.make(flops=6e9, params=9).check()


@pytest.mark.parametrize("limits, told", [
    ({"flops": 0}, "limits.flops=0: .* above 0"), ({"flops": -5.0}, "limits.flops=-5: .* above 0"),
    ({"flops": float("nan")}, "above 0"), ({"flop": 1e9}, "limits.flop=1000000000: .*there are: flops, params"),
])
def test_senseless_limits_are_refused(toy, limits, told):
  with pytest.raises(UserError, match=told):
    toy.make(**limits).check()
