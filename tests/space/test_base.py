"""Operations that all spaces share, on a toy whose genes need one another over two steps."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.space.base import Gene, Space
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Toy(Space):
  """Two layers; a layer has a kind and a width; a local layer has a window; the second is there if depth is 2."""

  @functools.cached_property
  def genes(self):
    table = [Gene("scale", (1, 2, 3)), Gene("depth", (1, 2))]
    for i in range(2):
      site = f"layer.{i}"
      table += [
          Gene(f"{site}.kind", ("full", "local"), "categorical", site, (("depth", (1, 2)[i:]),)),
          Gene(f"{site}.window", (4, 8, 16), "ordinal", site, ((f"{site}.kind", ("local",)),)),
          Gene(f"{site}.width", (32, 64), "ordinal", site, (("depth", (1, 2)[i:]),)),
      ]
    return tuple(table)


RESTRICTIONS = ["", "layer.*.window=8,16", "layer.1.kind=local; layer.*.window=16; scale=2", "depth=2; *.width=64"]
SITES = "layer.0.", "layer.1."
spaces = pytest.mark.parametrize("space", [Toy(rules) for rules in RESTRICTIONS], ids=RESTRICTIONS)


def networks(space):
  """Every canonical genome, from the definition: a gene is active if what it needs is active and has the value."""
  found = set()
  for genes in itertools.product(*(np.flatnonzero(row) for row in space.allowed)):
    found.add(tuple(int(k) if alive else 0 for k, alive in zip(genes, by_definition(space, genes))))
  return found


def by_definition(space, genes):
  chosen = {}
  for gene, k in zip(space.genes, genes):
    alive = all(name in chosen and chosen[name] in values for name, values in gene.needs)
    if alive:
      chosen[gene.name] = gene.values[k]
    yield alive


def rows(genes):
  return set(map(tuple, np.asarray(genes).tolist()))


@spaces
def test_sample_reaches_exactly_the_networks(space):
  assert rows(space.sample(jax.random.key(0), 12_000)) == networks(space)


@spaces
def test_mutate_and_cross_stay_inside(space):
  one, two = space.sample(jax.random.key(1), 2000).reshape(2, 1000, -1)
  changed = [space.mutate(jax.random.key(2), one, 0.5), space.cross(jax.random.key(3), one, two)]
  for genes in changed:
    assert rows(genes) <= networks(space) and space.contains(genes).all()
    assert genes.dtype == jnp.int32
    np.testing.assert_array_equal(space.canonical(genes), genes)


@spaces
def test_active_and_contains_by_definition(space):
  everything = np.array(list(itertools.product(*(range(len(gene.values)) for gene in space.genes))), np.int32)
  alive = np.array([list(by_definition(space, genes)) for genes in everything])
  np.testing.assert_array_equal(space.active(everything), alive)
  np.testing.assert_array_equal(space.canonical(everything), np.where(alive, everything, 0))
  members = networks(space)
  np.testing.assert_array_equal(space.contains(everything), [tuple(genes) in members for genes in everything.tolist()])


@pytest.mark.parametrize("genes", [(3, 0, 0, 0, 0, 0, 0, 0), (-1, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 2, 0, 0, 0)])
def test_contains_refuses_what_is_no_option(genes):
  assert not Toy().contains(np.array(genes, np.int32))


def test_operations_are_the_same_under_jit_and_for_one_genome():
  space, key = Toy(), jax.random.key(5)
  genes = space.sample(key, 50)
  np.testing.assert_array_equal(jax.jit(space.mutate)(key, genes, 0.3), space.mutate(key, genes, 0.3))
  np.testing.assert_array_equal(jax.jit(space.cross)(key, genes, genes[::-1]), space.cross(key, genes, genes[::-1]))
  np.testing.assert_array_equal(jax.vmap(space.canonical)(genes), space.canonical(genes))


def test_sample_is_uniform_over_the_options():
  """Of 9000 draws: scale is a third each; a kind of the second layer is half of those of depth 2."""
  genes = np.asarray(Toy("layer.0.window=4,16").sample(jax.random.key(0), 9000))
  for option in range(3):
    assert abs((genes[:, 0] == option).mean() - 1 / 3) < 5 * np.sqrt(2 / 9 / 9000)  # 5 standard errors
  deep = genes[genes[:, 1] == 1]
  assert abs(deep[:, 5].mean() - 0.5) < 5 * np.sqrt(0.25 / len(deep))
  local = genes[genes[:, 2] == 1]
  assert abs((local[:, 3] == 2).mean() - 0.5) < 5 * np.sqrt(0.25 / len(local)) and not (local[:, 3] == 1).any()


def test_mutation_changes_what_it_says():
  space = Toy()
  genes = space.sample(jax.random.key(0), 3000)
  np.testing.assert_array_equal(space.mutate(jax.random.key(1), genes, 0.0), genes)
  only_width = jnp.zeros(8).at[4].set(1.0)
  changed = np.asarray(space.mutate(jax.random.key(2), genes, only_width) != genes)
  assert abs(changed[:, 4].mean() - 0.5) < 5 * np.sqrt(0.25 / 3000) and not changed[:, [0, 1, 2, 3, 5, 6, 7]].any()


def test_a_gene_that_comes_to_life_is_drawn():
  """Depth goes from 1 to 2: the genes of the second layer are uniform instead of all their first option."""
  space = Toy("scale=1; layer.0.kind=full; layer.0.width=32; layer.1.width=64; layer.1.window=8,16")
  shallow = jnp.zeros((4000, 8), jnp.int32)
  deep = np.asarray(space.mutate(jax.random.key(0), shallow, jnp.zeros(8).at[1].set(1.0)))
  deep = deep[deep[:, 1] == 1]
  assert (deep[:, 7] == 1).all() and abs(deep[:, 5].mean() - 0.5) < 5 * np.sqrt(0.25 / len(deep))
  assert set(deep[deep[:, 5] == 1, 6]) == {1, 2}


def test_crossover_takes_from_either_parent():
  """Both active: either with probability 1/2. Active in one parent only: from that one."""
  space = Toy()
  one = space.genome({"scale": 1, "depth": 1, "layer.0.kind": "full", "layer.0.width": 32})
  two = space.genome({"scale": 3, "depth": 2, "layer.0.kind": "local", "layer.0.window": 16, "layer.0.width": 64,
                      "layer.1.kind": "local", "layer.1.window": 8, "layer.1.width": 64})
  pair = [jnp.tile(jnp.asarray(genes), (4000, 1)) for genes in (one, two)]
  for parents in (pair, pair[::-1]):
    children = np.asarray(space.cross(jax.random.key(0), *parents))
    assert np.abs((children == two)[:, [0, 1, 2, 4]].mean(0) - 0.5).max() < 5 * np.sqrt(0.25 / 4000)
    assert (children[children[:, 2] == 1, 3] == 2).all() and (children[children[:, 1] == 1, 5:] == [1, 1, 1]).all()


@dataclasses.dataclass(frozen=True)
class Both(Space):
  """A gene that needs two others at once."""

  @functools.cached_property
  def genes(self):
    return Gene("a", (0, 1)), Gene("b", (0, 1)), Gene("c", (5, 6, 7), needs=(("a", (1,)), ("b", (1,))))


def test_crossover_draws_what_neither_parent_has():
  space = Both("c=6,7")
  one, two = jnp.tile(jnp.array([[1, 0, 0]]), (500, 1)), jnp.tile(jnp.array([[0, 1, 0]]), (500, 1))
  children = np.asarray(space.cross(jax.random.key(0), one, two))
  assert set(children[children[:, :2].all(-1), 2]) == {1, 2} and space.contains(children).all()


@spaces
def test_log10_size_by_brute_force(space):
  assert space.log10_size() == pytest.approx(np.log10(len(networks(space))), abs=1e-9)


@spaces
def test_uniform_genomes_by_brute_force(space):
  """Alike: what is active has the same value in both layers."""
  alike = set()
  for genes in networks(space):
    values = space.values(np.array(genes, np.int32))
    first, second = ({name[8:]: value for name, value in values.items() if name.startswith(site)} for site in SITES)
    if values["depth"] == 1 or first == second:
      alike.add(genes)
  found = [tuple(genes.tolist()) for genes in space.uniform_genomes()]
  assert len(found) == len(set(found)) and set(found) <= alike
  if "layer.1" not in space.restrict:  # a rule for one layer also rules out the shallow ones that break it
    assert set(found) == alike


def test_values_and_genome_are_inverse():
  space = Toy()
  for genes in networks(space):
    np.testing.assert_array_equal(space.genome(space.values(np.array(genes, np.int32))), genes)
  with pytest.raises(UserError, match=r"scale = 4 is outside the space \(options: \(1, 2, 3\)\)"):
    space.genome({"scale": 4})


@pytest.mark.parametrize("rules, told", [
    ("layer.*.heads=2", r"no gene matches 'layer.\*.heads' \(genes: depth, layer.\*.kind"),
    ("scale=5", "scale cannot be '5' .it can be: 1, 2, 3."),
    ("scale=1; scale=2", "no value is left for scale"),
    ("scale", "'scale' is not of the form pattern=value,value"),
    ("scale=", "not of the form"),
])
def test_senseless_restrictions_are_refused(rules, told):
  with pytest.raises(UserError, match=told):
    Toy(rules).allowed


def test_a_gene_must_come_after_what_it_needs():
  @dataclasses.dataclass(frozen=True)
  class Backwards(Space):
    @property
    def genes(self):
      return Gene("a", (0, 1), needs=(("b", (1,)),)), Gene("b", (0, 1))

  with pytest.raises(ValueError, match="'a' must come after 'b'"):
    Backwards().sample(jax.random.key(0), 1)
