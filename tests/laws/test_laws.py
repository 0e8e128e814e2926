"""The laws that every space and every attention kind of the tables obeys, those of tomorrow included."""

import contextlib
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.score.counts import NumFlops, NumParams, terms
from nasformer.search.costs import CostTable

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling
quick = functools.partial(jax.jit, compiler_options=QUICK)
RATIO = ("autoformer_tiny", ("softmax",), 20)  # a case whose MLP widths are multiples of the model's
PRE, POST = ("ranknas_iwslt", ("cosformer", "linear"), 2), ("ranknas_wmt", ("softmax",), 2)  # by their norm
TEXTS = ("texts:tiny", ("softmax", "cosformer", "evolving", "luna", "mega"), 10)  # padded rows of unequal lengths
CARRY = ("tiny", ("evolving", "luna", "linear"), 8)  # two kinds that pass something on, and one that lets it through
over_forms = pytest.mark.parametrize("form", ["masked", "exact"])
over_costs = pytest.mark.parametrize("cost", [NumParams(), NumFlops()])


def close(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


def check_gradient(this, i, got):
  """It is the small network's where there is one, and exactly zero for what the network does not use."""
  close(this.supernet.derive(got, this.specs[i]), this.grads[i])
  for leaf, used in zip(jax.tree.leaves(got), jax.tree.leaves(this.supernet.used(this.genes[i])), strict=True):
    assert not np.where(used, 0, leaf).any()


# -- 1. every form of the supernet is the sliced network ---------------------------------------------------------------


@over_forms
def test_logits_are_those_of_the_sliced_network(case, name, form):
  this = case(name)
  close(np.stack([this.forward(form)(this.params, genes, this.inputs) for genes in this.genes]), this.logits)


@over_forms
def test_logits_of_texts_are_those_of_the_sliced_network(case, form):
  this = case(*TEXTS)
  close(np.stack([this.forward(form)(this.params, genes, this.inputs) for genes in this.genes]), this.logits)


@over_forms
def test_padding_further_changes_nothing(case, form):
  """Of texts: the same rows, one token longer, whatever that is."""
  this = case(*TEXTS)
  run, (values, length) = this.forward(form), this.inputs
  longer = type(this.inputs)(jnp.concatenate([values, jnp.full((len(values), 1), 8)], 1), length)
  for genes, want in zip(this.genes, this.logits):
    np.testing.assert_allclose(run(this.params, genes, longer), want, rtol=1e-4, atol=1e-5)


@over_forms
@pytest.mark.parametrize("of", [
    pytest.param(("tiny",), marks=pytest.mark.slow), RATIO, PRE, CARRY, ("texts:tiny", ("linear", "evolving"), 3),
    pytest.param(("ranknas_iwslt", ("luna",), 2), marks=pytest.mark.slow),
], ids=["ffn_dim", "mlp_ratio", "translation", "carry", "texts", "translation_carry"])
def test_gradients_are_those_of_the_sliced_network(case, of, form):
  this = case(*of)
  for i, genes in enumerate(this.genes):
    got, logits = this.gradient(form)(this.params, genes)
    check_gradient(this, i, got)
    close(logits, this.logits[i])


@pytest.mark.parametrize("chunk, of", [
    pytest.param(4, ("tiny",), marks=pytest.mark.slow), (1, ("vision", ("linear",), 5)), (5, RATIO), (2, PRE), (4, CARRY),
    (3, ("texts:tiny", ("linear", "evolving"), 3))])
def test_shared_is_the_sliced_network(case, chunk, of):
  """Values, and slopes of the loss along a random direction (a loop of traced length has no reverse mode)."""
  this, rng = case(*of), np.random.default_rng(1)
  slope = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), this.params)

  def member(genes):
    loss = lambda params: this.loss(this.supernet.shared(params, genes, this.inputs, "chunk"))
    return jax.jvp(loss, (this.params,), (slope,), has_aux=True)

  run = quick(jax.vmap(member, axis_name="chunk"))
  parts = [run(genes) for genes in this.genes.reshape(-1, chunk, this.genes.shape[1])]
  _, slopes, logits = map(np.concatenate, zip(*parts))
  close(logits, this.logits)
  for spec, got, want in zip(this.specs, slopes, this.grads, strict=True):
    small = this.supernet.derive(slope, spec)
    close(got, sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(want), strict=True)))
  assert run._cache_size() == 1


@over_forms
@pytest.mark.parametrize("of", [("tiny", ("linear", "softmax_relative"), 8), POST], ids=["images", "translations"])
def test_under_vmap(case, of, form):
  this = case(*of)
  run = quick(jax.vmap(lambda p, g: getattr(this.supernet, form)(p, g, this.inputs), (None, 0)))
  close(run(this.params, this.genes), this.logits)


@over_forms
@pytest.mark.parametrize("of", [("tiny", ("linear",), 2), POST], ids=["images", "translations"])
def test_under_pmap(case, of, form):
  this = case(*of)
  run = jax.pmap(lambda p, g: getattr(this.supernet, form)(p, g, this.inputs), in_axes=(None, 0))
  with quickly():
    logits = run(this.params, this.genes)
  close(logits, this.logits)


@over_forms
def test_gradients_under_pmap(case, form):
  this = case("tiny", ("linear",), 2)
  loss = lambda p, g: this.loss(getattr(this.supernet, form)(p, g, this.inputs))
  with quickly():
    grads, _ = jax.pmap(jax.grad(loss, has_aux=True), in_axes=(None, 0))(this.params, this.genes)
  grads = jax.device_get(grads)
  for i in range(len(this.genes)):
    check_gradient(this, i, jax.tree.map(lambda leaf: jnp.asarray(leaf[i]), grads))


@contextlib.contextmanager
def quickly():
  """Programs are compiled as by `quick`, for pmap has no options."""
  jax.config.update("jax_disable_most_optimizations", True)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", False)


def test_at_full_size(full_size, name):
  """Shapes only: nothing of that size is computed. Rows share out the kinds."""
  family, this, net, example = full_size
  this = family.few(name, this)
  supernet, genes = family.supernet(this, net), np.zeros(this.num_genes, np.int32)
  spec, params = this.decode(genes), jax.eval_shape(supernet.init, jax.random.key(0))
  logits = jax.eval_shape(supernet.masked, params, jnp.asarray(genes), example)
  small = jax.eval_shape(lambda p: supernet.derive(p, spec), params)
  assert logits == jax.eval_shape(lambda p, x: supernet.module(spec).apply({"params": p}, x), small, example)


# -- 2. one compilation serves every architecture ----------------------------------------------------------------------


@contextlib.contextmanager
def compilations():
  """A list that grows by one for every program that is compiled meanwhile."""
  seen = []
  listen = lambda event, seconds, **_: seen.append(event) if event.endswith("backend_compile_duration") else None
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield seen
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


@over_forms
def test_one_compilation(case, name, form):
  this = case(name)
  run, genomes = this.forward(form), list(this.genes)
  with compilations() as first:
    quick(lambda x: x + 1)(1)  # is seen, whatever has been compiled before
    run(this.params, genomes[0], this.inputs)
  with compilations() as later:
    for genes in genomes:
      run(this.params, genes, this.inputs)
  assert first and not later and run._cache_size() == 1


# -- 3. genes and specs are two forms of one thing ---------------------------------------------------------------------


def test_codec(this, draw):
  genes = draw(this, 200)
  specs = [this.decode(row) for row in genes]
  np.testing.assert_array_equal([this.encode(spec) for spec in specs[:50]], genes[:50])
  assert [this.decode(this.encode(spec)) for spec in specs[:50]] == specs[:50]
  assert [this.spec.from_json(json.loads(json.dumps(spec.to_json()))) for spec in specs] == specs
  assert len(set(specs)) == len(np.unique(genes, axis=0))


def last_kinds(this):
  """Values of some genes: the last of every kind, at the largest depth."""
  return {gene.name: gene.values[-1] for gene in this.genes
          if gene.kind == "categorical" or gene.name.endswith("depth")}


def test_variation_stays_inside(this):
  wanted = last_kinds(this)
  this = dataclasses.replace(this, restrict="; ".join(f"{name}={value}" for name, value in wanted.items()))

  @quick
  def vary(key):
    keys = jax.random.split(key, 4)
    one, two = this.sample(keys[0], 50), this.sample(keys[1], 50)
    genes = jnp.concatenate([one, this.mutate(keys[2], one, 0.3), this.cross(keys[3], one, two)])
    return genes, this.contains(genes)

  genes, inside = vary(jax.random.key(0))
  assert inside.all()
  for row in np.asarray(genes)[::5]:
    assert this.values(this.encode(this.decode(row))).items() >= wanted.items()


# -- 4. an example does not know the others ----------------------------------------------------------------------------


@over_forms
@pytest.mark.parametrize("name", ["tiny", "hat_iwslt", "texts:tiny"])
def test_rows_are_independent(case, name, form):
  this = case(*TEXTS) if name.startswith("texts:") else case(name)
  run, others = this.forward(form), [0, *range(2, len(this.logits[0]))]
  for genes, before in zip(this.genes, this.logits):
    after = run(this.params, genes, this.family.other)
    np.testing.assert_array_equal(after[np.array(others)], run(this.params, genes, this.inputs)[np.array(others)])
    assert np.abs(after[1] - before[1]).max() > 1e-3


# -- 5. the cases cover what translation can be ------------------------------------------------------------------------


def test_every_choice_of_translation_is_covered(translations):
  """By at least 200 networks: each norm with each way to share embeddings, and all that a layer can be."""
  configs = [this.supernet.net.config for this in translations]
  assert len({(config.norm, config.embeddings) for config in configs}) == 6
  specs = [spec for this in translations for spec in set(this.specs)]
  assert len(specs) >= 200
  assert {spec.encoder_embed_dim for spec in specs} == {spec.decoder_embed_dim for spec in specs} == {6, 8}
  encoder, decoder = ([layer for spec in specs for layer in getattr(spec, side)] for side in ("encoder", "decoder"))
  kinds = dict(translations[0].supernet.net.kinds)
  kinds = {name: kind.can for name, kind in kinds.items() if kind.can.divides and not kind.can.grid}
  assert {layer.kind for layer in encoder} == kinds.keys()
  assert {layer.kind for layer in decoder} == {name for name, can in kinds.items() if can.causal}
  assert {layer.cross_kind for layer in decoder} == {name for name, can in kinds.items() if can.cross}
  assert {layer.span for layer in decoder} == {1, 2, 3} and {layer.cross_num_heads for layer in decoder} == {1, 2}


# -- 6. counts are exact -----------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_network(full_size, draw, count_products):
  _, this, net, example = full_size
  kinds = {gene.name: gene.values[i % len(gene.values)]  # every kind has its turn
           for i, gene in enumerate(gene for gene in this.genes if gene.kind == "categorical")}
  spec = this.decode(this.genome(this.values(draw(this, 50)[0]) | last_kinds(this) | kinds))
  module = full_size[0].supernet(this, net).module(spec)
  variables = jax.eval_shape(module.init, jax.random.key(0), example)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == net.count_spec(spec).params
  assert count_products(module.apply, variables, example) == net.count_spec(spec).products


@over_costs
def test_counts_add_up_from_parts(full_size, draw, cost):
  _, this, net, _ = full_size
  genes = draw(this, 50)
  table = CostTable(this, tuple(terms(this, net, cost)))
  np.testing.assert_array_equal(table.exact(genes), [cost.read(net.count_spec(this.decode(row))) for row in genes])


@over_costs
def test_counts_grow_with_every_size(full_size, draw, cost):
  family, this, net, _ = full_size
  table = CostTable(this, tuple(terms(this, net, cost)))
  genes = draw(this, 50)
  active, prices = np.asarray(this.active(genes)), table.exact(genes)
  for i, gene in enumerate(this.genes):
    if gene.kind == "ordinal" and family.grows(this, gene, cost):
      more = genes.copy()
      more[:, i] += 1
      can = active[:, i] & (more[:, i] < len(gene.values))
      assert (table.exact(more[can]) > prices[can]).all(), gene.name
