"""The laws that every space and every attention kind of the tables obeys, those of tomorrow included."""

import contextlib
import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry, space
from nasformer.score.counts import NumFlops, NumParams, terms
from nasformer.search.costs import CostTable

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling
quick = functools.partial(jax.jit, compiler_options=QUICK)
RATIO = ("autoformer_tiny", ("softmax",))  # a case whose MLP widths are multiples of the model's
PRE = ("ranknas_iwslt", ("linear",), 2)  # of two networks that translate
KINDS = {name: registry.lookup(attention.TABLE, name).can for name in attention.TABLE}
ELASTIC = [name for name in attention.TABLE if registry.lookup(attention.TABLE, name).elastic]
TEXTS = ("texts:tiny", tuple(name for name, can in KINDS.items() if not can.grid))  # padded rows of unequal lengths
SERIES = ("series:tiny", ("linear",), 3)
CARRY = ("tiny", ("evolving", "linear"), (  # a kind that passes something on to more heads and fewer, and one between
    "embed_dim=6; depth=3; layer.[02].kind=evolving; layer.1.kind=linear; layer.0.num_heads=1; layer.2.num_heads=3",
    "depth=2; layer.*.kind=evolving; layer.0.num_heads=3; layer.1.num_heads=1"))
NEVER_DIVIDE = tuple(name for name, can in KINDS.items() if not can.divides)  # which other translation spaces lack
CARRY_CROSS = ("hat_iwslt", NEVER_DIVIDE, tuple(  # and between decoder layers that look at one encoder layer, then at three
    f"*kind={name}; encoder_embed_dim=6; decoder_depth=2; decoder.0.span=1; decoder.1.span=3" for name in NEVER_DIVIDE))
FAMILIES = ("tiny", (*ELASTIC, *(f"{name} less" for name in ELASTIC)), (  # kinds with fewer of what is their own, and with all
    "depth=3; layer.[02].kind=luna; layer.1.kind=luna less", *(
        "depth=3; " + "; ".join(f"layer.{i}.kind={ELASTIC[(first + i) % len(ELASTIC)]} less" for i in range(3))
        for first in range(0, len(ELASTIC), 3))))
BUDGET = ("wide", ("softmax", "linear"), "many")  # of up to three layers that share heads unevenly
CARRY_TEXTS = ("texts:tiny", ("luna", "linear"))  # another, of padded rows
over_sequences = pytest.mark.parametrize("of", [TEXTS, SERIES], ids=["texts", "series"])
ROWS, FORMS = [*space.TABLE, TEXTS[0], SERIES[0]], ("masked", "exact")
over_turns = pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["own", "other"])
over_nums = pytest.mark.parametrize("num", [None, pytest.param("many", marks=pytest.mark.slow)], ids=["few", "many"])
COSTS = (NumParams(), NumFlops())


def close(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


def form_of(row, turn):
  """Rows, by twos, have one form and the other in turn; both, where slow tests run too."""
  return FORMS[(ROWS.index(row) // 2 + turn) % 2]


def check_gradient(this, i, got):
  """It is the small network's, and exactly zero for what the network does not use."""
  close(got, this.grads[i])
  for leaf, used in zip(jax.tree.leaves(got), jax.tree.leaves(this.used(this.genes[i])), strict=True):
    assert not np.where(used, 0, leaf).any()


# -- 1. every form of the supernet is the sliced network ---------------------------------------------------------------


@over_turns
@over_nums
def test_logits_are_those_of_the_sliced_network(case, name, turn, num):
  this, form = case(name, (), num), form_of(name, turn)
  close(np.stack([this.forward(form)(this.params, genes, this.inputs) for genes in this.genes]), this.logits)


@over_turns
@pytest.mark.parametrize("of", [TEXTS, SERIES, CARRY_CROSS, FAMILIES], ids=["texts", "series", "carry_cross", "families"])
def test_logits_of_more_cases_are_those_of_the_sliced_network(case, of, turn):
  this, form = case(*of), form_of(of[0], turn)
  close(np.stack([this.forward(form)(this.params, genes, this.inputs) for genes in this.genes]), this.logits)


@pytest.mark.parametrize("form", ["masked", pytest.param("exact", marks=pytest.mark.slow)])
def test_padding_further_changes_nothing(case, form):
  """Of texts: the same rows, one token longer, whatever that is."""
  this = case(*TEXTS)
  run, (values, length) = quick(getattr(this.supernet, form)), this.inputs
  longer = type(this.inputs)(jnp.concatenate([values, jnp.full((len(values), 1), 8)], 1), length)
  for genes, want in zip(this.genes, this.logits):
    np.testing.assert_allclose(run(this.params, genes, longer), want, rtol=1e-4, atol=1e-5)


@over_turns
@pytest.mark.parametrize("of, form", [
    (RATIO, "exact"), (PRE, "masked"), (CARRY, "masked"),
    *(pytest.param(of, "masked", marks=pytest.mark.slow) for of in (
        FAMILIES, CARRY_TEXTS, BUDGET, ("tiny", (), "many"), ("ranknas_iwslt", ("cosformer", "linear"), 2),
        ("ranknas_iwslt", ("luna", "luna less"), 4),
        ("ranknas_iwslt", ("eit", "evolving"), 2)))
], ids=["mlp_ratio", "translation", "carry", "families", "texts", "budget", "ffn_dim", "translation_kinds", "translation_carry",
        "translation_heads"])
def test_gradients_are_those_of_the_sliced_network(case, of, form, turn):
  this, form = case(*of), FORMS[(FORMS.index(form) + turn) % 2]
  for i, genes in enumerate(this.genes):
    got, logits = this.gradient(form)(this.params, genes)
    check_gradient(this, i, got)
    close(logits, this.logits[i])


@pytest.mark.parametrize("chunk, of", [(3, RATIO), (2, PRE), *(
    pytest.param(chunk, of, marks=pytest.mark.slow) for chunk, of in (
        (2, CARRY), (3, FAMILIES), (3, BUDGET), (4, ("tiny", (), "many")), (1, ("vision", ("linear",))), (2, CARRY_TEXTS)))])
def test_shared_is_the_sliced_network(case, chunk, of):
  """Values, and slopes of the loss along a random direction (a loop of traced length has no reverse mode)."""
  this, rng = case(*of), np.random.default_rng(1)
  slope = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), this.params)

  def member(genes):
    loss = lambda params: this.loss(this.supernet.shared(params, genes, this.inputs, "chunk"))
    return jax.jvp(loss, (this.params,), (slope,), has_aux=True)

  run = quick(jax.vmap(member, axis_name="chunk"))
  members = np.arange(-(-len(this.genes) // chunk) * chunk) % len(this.genes)  # the last chunk is filled up
  parts = [run(this.genes[some]) for some in members.reshape(-1, chunk)]
  _, slopes, logits = map(np.concatenate, zip(*parts))
  close(logits, this.logits[members])
  want = [sum(jax.tree.leaves(jax.tree.map(np.vdot, slope, grads))) for grads in this.grads]
  close(slopes, np.array(want)[members])
  assert run._cache_size() == 1


@over_turns
@pytest.mark.parametrize("of, form", [(RATIO, "masked"), (PRE, "exact")], ids=["images", "translations"])
def test_under_vmap(case, of, form, turn):
  this, form = case(*of), FORMS[(FORMS.index(form) + turn) % 2]
  run = quick(jax.vmap(lambda p, g: getattr(this.supernet, form)(p, g, this.inputs), (None, 0)))
  close(run(this.params, this.genes), this.logits)


@pytest.mark.parametrize("of, form", [
    (RATIO, "exact"), *(pytest.param(*of, marks=pytest.mark.slow) for of in (
        (RATIO, "masked"), (PRE, "exact"), (PRE, "masked")))])
def test_under_pmap(case, of, form):
  """Values and gradients of two networks."""
  this = case(*of)
  loss = lambda p, g: this.loss(getattr(this.supernet, form)(p, g, this.inputs))
  with quickly():
    grads, logits = jax.device_get(jax.pmap(jax.grad(loss, has_aux=True), in_axes=(None, 0))(this.params, this.genes[:2]))
  close(logits, this.logits[:2])
  for i in range(2):
    check_gradient(this, i, jax.tree.map(lambda leaf: leaf[i], grads))


@contextlib.contextmanager
def quickly():
  """Programs are compiled as by `quick`, for pmap has no options."""
  jax.config.update("jax_disable_most_optimizations", True)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", False)


def test_at_full_size(shared_out):
  """Shapes only: nothing of that size is computed."""
  family, this, net, example = shared_out
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


@over_turns
def test_one_compilation(case, name, turn):
  check_one_compilation(case(name), form_of(name, turn))


@over_turns
@over_sequences
def test_one_compilation_of_sequences(case, of, turn):
  check_one_compilation(case(*of), form_of(of[0], turn))


def check_one_compilation(this, form):
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
  genes = draw(this, 50)
  specs = [this.decode(row) for row in genes]
  np.testing.assert_array_equal([this.encode(spec) for spec in specs], genes)
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


@over_turns
@pytest.mark.parametrize("name", ["tiny", "hat_iwslt", "texts:tiny"])
def test_rows_are_independent(case, name, turn):
  this, form = case(*TEXTS) if name.startswith("texts:") else case(name), form_of(name, turn)
  run, others = this.forward(form), [0, *range(2, len(this.logits[0]))]
  for genes, before in zip(this.genes, this.logits):
    after = run(this.params, genes, this.family.other)
    np.testing.assert_array_equal(after[np.array(others)], run(this.params, genes, this.inputs)[np.array(others)])
    assert np.abs(after[1] - before[1]).max() > 1e-3


# -- 5. the cases cover what translation can be ------------------------------------------------------------------------


@over_nums
def test_every_choice_of_translation_is_covered(translations, num):
  """By at least 200 networks if many: each norm with each way to share embeddings, and all that a layer can be."""
  translations = translations(num)
  configs = [this.supernet.net.config for this in translations]
  assert len({(config.norm, config.embeddings) for config in configs}) == 6
  specs = [spec for this in translations for spec in set(this.specs)]
  assert num is None or len(specs) >= 200
  assert {spec.encoder_embed_dim for spec in specs} == {spec.decoder_embed_dim for spec in specs} == {6, 8}
  encoder, decoder = ([layer for spec in specs for layer in getattr(spec, side)] for side in ("encoder", "decoder"))
  kinds = {name: can for name, can in KINDS.items() if can.divides and not can.grid}
  assert {layer.kind for layer in encoder} == kinds.keys()
  assert {layer.kind for layer in decoder} == {name for name, can in kinds.items() if can.causal}
  assert {layer.cross_kind for layer in decoder} == {name for name, can in kinds.items() if can.cross}
  assert {layer.span for layer in decoder} == {1, 2, 3} and {layer.cross_num_heads for layer in decoder} == {1, 2}


# -- 6. counts are exact -----------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_network(shared_out, draw, count_products):
  family, this, net, example = shared_out
  kinds = {gene.name: gene.values[i % len(gene.values)]  # every kind has its turn
           for i, gene in enumerate(gene for gene in this.genes if gene.kind == "categorical")}
  spec = this.decode(this.genome(this.values(draw(this, 50)[0]) | last_kinds(this) | kinds))
  module = family.supernet(this, net).module(spec)
  variables = jax.eval_shape(module.init, jax.random.key(0), example)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == net.count_spec(spec).params
  assert count_products(module.apply, variables, example) == net.count_spec(spec).products


@functools.cache
def table_of(this, net, cost):
  return CostTable(this, tuple(terms(this, net, cost)))


def test_counts_add_up_from_parts(full_size, draw):
  _, this, net, _ = full_size
  genes = draw(this, 50)
  counts = [net.count_spec(this.decode(row)) for row in genes[:20]]
  for cost in COSTS:
    np.testing.assert_array_equal(table_of(this, net, cost).exact(genes[:20]), [cost.read(count) for count in counts])


def test_counts_grow_with_every_size(full_size, draw):
  family, this, net, _ = full_size
  genes = draw(this, 50)
  active = np.asarray(quick(this.active)(genes))
  for cost, (i, gene) in itertools.product(COSTS, enumerate(this.genes)):
    if gene.kind == "ordinal" and family.grows(this, gene, cost):
      table, more = table_of(this, net, cost), genes.copy()
      more[:, i] += 1
      can = active[:, i] & (more[:, i] < len(gene.values))
      assert (table.exact(more[can]) > table.exact(genes[can])).all(), gene.name
