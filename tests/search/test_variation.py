"""Mutation and neighbourhoods against the genomes of a small space, all of which are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.search import variation
from nasformer.types import UserError

NUM = 3000


@functools.partial(jax.jit, static_argnums=(1, 4))
def mutate(key, space, genes, rates, eta=0.0):
  return variation.mutate(key, space, genes, rates, eta)


def spread(space, **values):
  """One genome many times."""
  return jnp.tile(jnp.asarray(space.genome(values)), (NUM, 1))


@pytest.mark.parametrize("eta", [0.0, 6.0, 1000.0])
@pytest.mark.parametrize("restrict", ["", "layer.*.width=1,3; depth=2"])
def test_mutants_are_other_networks_of_the_space(toy, restrict, eta):
  space = toy.Toy(restrict, 3)
  genes = space.sample(jax.random.key(0), NUM)
  mutants = mutate(jax.random.key(1), space, genes, 0.01, eta)
  assert space.contains(mutants).all() and (mutants != genes).any(-1).all()
  np.testing.assert_array_equal(mutants, space.canonical(mutants))


def test_each_gene_has_its_own_rate(toy):
  """With room for many changes at once; a gene of rate 1 always changes, one of almost 0 almost never."""
  space = toy.Toy("layer.*.kind=full,local", 2)
  genes = spread(space, scale=1, depth=2, **{"layer.0.width": 2, "layer.1.width": 2})
  rates = np.full(space.num_genes, 1e-6, np.float32)
  rates[[space.index["scale"], space.index["layer.0.width"]]] = 1, 0.3
  changed = np.asarray(mutate(jax.random.key(0), space, genes, rates) != genes).mean(0)
  assert changed[space.index["scale"]] == 1
  assert abs(changed[space.index["layer.0.width"]] - 0.3) < 5 * np.sqrt(0.3 * 0.7 / NUM)  # 5 standard errors
  assert changed.sum() < 1.5


def test_near_options_are_likelier(toy):
  """Of three options, by hand: weight 1 for the next, (1/2)^eta for the one after it; up as often as down."""
  space = toy.Toy(max_depth=1)
  width = space.index["layer.0.width"]
  rates = np.where(np.arange(space.num_genes) == width, 1.0, 1e-9).astype(np.float32)
  for start, eta, wanted in ((1, 0.0, [0, 1 / 2, 1 / 2]), (1, 1.0, [0, 2 / 3, 1 / 3]), (2, 3.0, [1 / 2, 0, 1 / 2]),
                             (3, 3.0, [1 / 9, 8 / 9, 0]), (1, 1000.0, [0, 1, 0])):
    genes = spread(space, scale=1, depth=1, **{"layer.0.kind": "full", "layer.0.width": start})
    found = mutate(jax.random.key(start), space, genes, rates, eta)[:, width]
    share = np.bincount(found, minlength=3) / NUM
    assert np.abs(share - wanted).max() < 5 * np.sqrt(0.25 / NUM)  # 5 standard errors


def test_restricted_options_are_stepped_over(toy):
  space = toy.Toy("layer.0.width=1,3", 1)
  genes = spread(space, scale=1, depth=1, **{"layer.0.width": 1})
  found = np.asarray(mutate(jax.random.key(0), space, genes, 1.0, 1000.0))[:, space.index["layer.0.width"]]
  assert (found == 2).all()


def test_a_space_of_one_network_stays(toy):
  space = toy.Toy("scale=1; layer.*.kind=local; layer.*.width=2; layer.*.window=8", 1)
  genes = space.sample(jax.random.key(0), 4)
  np.testing.assert_array_equal(mutate(jax.random.key(1), space, genes, 1.0, 6.0), genes)


@pytest.mark.parametrize("restrict", ["", "layer.*.width=2,3; layer.1.kind=local"])
def test_neighbours(toy, restrict):
  """By hand: each other allowed option of each active gene, genes that come to life at their first option."""
  space = toy.Toy(restrict, 2)
  everything = space.everything()
  changes = [(i, option) for i, row in enumerate(space.allowed) for option in np.flatnonzero(row)]
  alive = np.asarray(space.active(everything))
  changed = np.repeat(np.where(alive, everything, space.allowed.argmax(1))[:, None], len(changes), 1)
  for number, (i, option) in enumerate(changes):
    changed[:, number, i] = option
  changed = np.asarray(space.canonical(changed))
  near, other = map(np.asarray, jax.jit(jax.vmap(functools.partial(variation.neighbours, space)))(everything))
  assert near.shape[1] == space.allowed.sum() and space.contains(near).all()
  for n, genes in enumerate(everything):
    wanted = {tuple(row) for row, (i, option) in zip(changed[n].tolist(), changes) if alive[n, i] and option != genes[i]}
    found = [tuple(row) for row in near[n][other[n]].tolist()]
    assert len(set(found)) == len(found) and set(found) == wanted


def test_the_rate_of_one_gene(toy):
  assert variation.mutation_rate(None, toy.Toy()) == 1 / 8 and variation.mutation_rate(0.3, toy.Toy()) == 0.3


@pytest.mark.parametrize("rate, eta, told", [(0.0, 0.5, "mutation_rate=0.0"), (1.5, 0.5, "mutation_rate=1.5"),
                                             (float("nan"), 0.5, "mutation_rate=nan"), (None, -0.1, "eta=-0.1")])
def test_senseless_rates_are_refused(rate, eta, told):
  with pytest.raises(UserError, match=told):
    variation.check_rates(rate, eta)
