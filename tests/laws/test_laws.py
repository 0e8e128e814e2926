"""The laws that every space and every attention kind of the tables obeys, those of tomorrow included."""

import contextlib
import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry, space
from nasformer.nets.vision import Vision, VisionNet, VisionTransformer
from nasformer.ops.losses import smoothed_cross_entropy
from nasformer.score.counts import NumFlops, NumParams, terms
from nasformer.search.costs import CostTable
from nasformer.supernet.encoder import Supernet
from nasformer.types import EncoderSpec

KINDS = {name: registry.lookup(attention.TABLE, name)() for name in attention.TABLE}
SPACES = {name: registry.lookup(space.TABLE, name)() for name in space.TABLE}
FEW = ("linear", "softmax_relative")  # kinds, where it is not they that are tested
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling
quick = functools.partial(jax.jit, compiler_options=QUICK)
RATIO = ("autoformer_tiny", ("softmax",), 20)  # a case whose MLP widths are multiples of the model's
FORMS = ("masked", "exact")
over_forms = pytest.mark.parametrize("form", FORMS)
over_spaces = pytest.mark.parametrize("name", SPACES)


class Blocks(VisionNet):
  """The same network with compiled blocks, which all small networks share: op by op they would take minutes."""

  stem = jax.jit(VisionNet.stem, static_argnums=0)
  attention = jax.jit(VisionNet.attention, static_argnums=(0, 1))
  mlp = jax.jit(VisionNet.mlp, static_argnums=0)
  head = jax.jit(VisionNet.head, static_argnums=0)


def shrunk(name, kinds):
  """The same class of space with short lists of small sizes."""
  mlp = {"ffn_dim": (5, 10)} if SPACES[name].ffn_dim else {"mlp_ratio": (0.5, 1.0)}
  return dataclasses.replace(SPACES[name], embed_dim=(6, 10), depth=(1, 2, 3), num_heads=(1, 3), head_dim=4,
                             kinds=kinds, **mlp)


@functools.cache
def draw(space, num):
  """Random genomes."""
  return np.asarray(quick(functools.partial(space.sample, num=num))(jax.random.key(0)))


@functools.cache
def case(name, kinds=tuple(KINDS), num=20):
  """A small supernet, parameters of which none is zero, a batch, random genomes, and what their small networks say."""
  net = Vision(2), (4, 6, 2), 3, tuple(KINDS.items()), (100.0, 120.0), (60.0, 50.0)
  supernet, rng = Supernet(shrunk(name, kinds), VisionNet(*net)), np.random.default_rng(0)
  shapes = jax.eval_shape(supernet.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)
  images, labels = jnp.asarray(rng.uniform(0, 255, (3, 4, 6, 2)), jnp.float32), jnp.array([0, 2, 1])
  genes = jnp.asarray(draw(supernet.space, num))

  def loss(logits):
    return smoothed_cross_entropy(logits, labels, 0.1).mean(), logits

  def sliced(genes):
    spec = supernet.space.decode(np.asarray(genes))
    apply = VisionTransformer(Blocks(*net), spec).apply
    small = supernet.derive(params, spec)
    return jax.grad(lambda small: loss(apply({"params": small}, images)), has_aux=True)(small)

  grads, logits = zip(*map(sliced, genes))
  return types.SimpleNamespace(supernet=supernet, params=params, images=images, loss=loss, genes=genes, grads=grads,
                               logits=np.stack(logits))


@functools.cache
def forward(form, *of):
  """Compiled (params, genes, images) -> logits of a form of the supernet of a case."""
  return quick(getattr(case(*of).supernet, form))


@functools.cache
def gradient(form, *of):
  """Compiled (params, genes) -> (gradient, logits)."""
  this = case(*of)
  return quick(jax.grad(lambda p, g: this.loss(getattr(this.supernet, form)(p, g, this.images)), has_aux=True))


def close(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


def check_gradient(this, genes, got, want):
  """It is the small network's where there is one, and exactly zero for what the network does not use."""
  close(this.supernet.derive(got, this.supernet.space.decode(np.asarray(genes))), want)
  for leaf, used in zip(jax.tree.leaves(got), jax.tree.leaves(this.supernet.used(genes)), strict=True):
    assert not np.where(used, 0, leaf).any()


# -- 1. every form of the supernet is the sliced network ---------------------------------------------------------------


@over_forms
@over_spaces
def test_logits_are_those_of_the_sliced_network(name, form):
  this = case(name)
  close(np.stack([forward(form, name)(this.params, genes, this.images) for genes in this.genes]), this.logits)


@over_forms
@pytest.mark.parametrize("of", [("tiny",), RATIO], ids=["ffn_dim", "mlp_ratio"])
def test_gradients_are_those_of_the_sliced_network(of, form):
  this = case(*of)
  for genes, want, want_logits in zip(this.genes, this.grads, this.logits, strict=True):
    got, logits = gradient(form, *of)(this.params, genes)
    close(logits, want_logits)
    check_gradient(this, genes, got, want)


@pytest.mark.parametrize("chunk, of", [(4, ("tiny",)), (1, ("vision", ("linear",), 5)), (5, RATIO)])
def test_shared_is_the_sliced_network(chunk, of):
  """Values, and slopes of the loss along a random direction (a loop of traced length has no reverse mode)."""
  this, rng = case(*of), np.random.default_rng(1)
  slope = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), this.params)

  def member(genes):
    loss = lambda params: this.loss(this.supernet.shared(params, genes, this.images, "chunk"))
    return jax.jvp(loss, (this.params,), (slope,), has_aux=True)

  run = quick(jax.vmap(member, axis_name="chunk"))
  parts = [run(genes) for genes in this.genes.reshape(-1, chunk, this.genes.shape[1])]
  _, slopes, logits = map(np.concatenate, zip(*parts))
  close(logits, this.logits)
  for genes, got, want in zip(this.genes, slopes, this.grads, strict=True):
    small = this.supernet.derive(slope, this.supernet.space.decode(np.asarray(genes)))
    close(got, sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(want), strict=True)))
  assert run._cache_size() == 1


@over_forms
def test_under_vmap(form):
  this = case("tiny", FEW, 8)
  run = quick(jax.vmap(lambda p, g: getattr(this.supernet, form)(p, g, this.images), (None, 0)))
  close(run(this.params, this.genes), this.logits)


@over_forms
def test_under_pmap(form):
  this = case("tiny", ("linear",), 2)
  loss = lambda p, g: this.loss(getattr(this.supernet, form)(p, g, this.images))
  grads, logits = jax.pmap(jax.grad(loss, has_aux=True), in_axes=(None, 0))(this.params, this.genes)
  close(logits, this.logits)
  grads = jax.device_get(grads)
  for i, (genes, want) in enumerate(zip(this.genes, this.grads, strict=True)):
    check_gradient(this, genes, jax.tree.map(lambda leaf: jnp.asarray(leaf[i]), grads), want)


@pytest.mark.parametrize("name", [name for name in SPACES if SPACES[name].max_depth > 8])
def test_big_spaces_at_full_size(name):
  """Shapes only: nothing of that size is computed."""
  supernet = Supernet(SPACES[name], VisionNet(Vision(4), (32, 32, 3), 10, tuple(KINDS.items())))
  params = jax.eval_shape(supernet.init, jax.random.key(0))
  genes = jax.ShapeDtypeStruct((1, supernet.space.num_genes), jnp.int32)
  images = jax.ShapeDtypeStruct((5, 32, 32, 3), jnp.uint8)
  first = lambda form: lambda p, g, x: form(p, g[0], x)[None]
  shared = jax.vmap(functools.partial(supernet.shared, axis="chunk"), (None, 0, None), axis_name="chunk")
  for form in (first(supernet.masked), first(supernet.exact), shared):
    logits = jax.eval_shape(form, params, genes, images)
    assert (logits.shape, logits.dtype) == ((1, 5, 10), jnp.float32)


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


@over_spaces
@over_forms
def test_one_compilation(name, form):
  this, run, genomes = case(name), forward(form, name), list(case(name).genes)
  with compilations() as first:
    quick(lambda x: x + 1)(1)  # is seen, whatever has been compiled before
    run(this.params, genomes[0], this.images)
  with compilations() as later:
    for genes in genomes:
      run(this.params, genes, this.images)
  assert first and not later and run._cache_size() == 1


# -- 3. genes and specs are two forms of one thing ---------------------------------------------------------------------


@over_spaces
def test_codec(name):
  this = SPACES[name]
  genes = draw(this, 200)
  specs = [this.decode(row) for row in genes]
  np.testing.assert_array_equal([this.encode(spec) for spec in specs[:50]], genes[:50])
  assert [this.decode(this.encode(spec)) for spec in specs[:50]] == specs[:50]
  assert [EncoderSpec.from_json(json.loads(json.dumps(spec.to_json()))) for spec in specs] == specs
  assert len(set(specs)) == len(np.unique(genes, axis=0))


@over_spaces
def test_variation_stays_inside(name):
  rules = f"layer.*.kind={SPACES[name].kinds[-1]}; depth={SPACES[name].max_depth}"
  this = dataclasses.replace(SPACES[name], restrict=rules)

  @quick
  def vary(key):
    keys = jax.random.split(key, 4)
    one, two = this.sample(keys[0], 50), this.sample(keys[1], 50)
    genes = jnp.concatenate([one, this.mutate(keys[2], one, 0.3), this.cross(keys[3], one, two)])
    return genes, this.contains(genes)

  genes, inside = vary(jax.random.key(0))
  assert inside.all()
  for spec in map(this.decode, np.asarray(genes)):
    assert spec.depth == this.max_depth and {layer.kind for layer in spec.layers} == {this.kinds[-1]}


# -- 4. an example does not know the others ----------------------------------------------------------------------------


@over_forms
def test_rows_are_independent(form):
  this, run = case("tiny"), forward(form, "tiny")
  other = this.images.at[1].set(255 - this.images[1])
  for genes, before in zip(this.genes, this.logits):
    after = run(this.params, genes, other)
    np.testing.assert_array_equal(after[::2], run(this.params, genes, this.images)[::2])
    assert np.abs(after[1] - before[1]).max() > 1e-3


# -- 6. counts are exact -----------------------------------------------------------------------------------------------


def full_size(name):
  """The space with every kind, and networks of its sizes for images of 64 x 64."""
  this = dataclasses.replace(SPACES[name], kinds=tuple(KINDS))
  return this, VisionNet(Vision(8), (64, 64, 3), 10, tuple(KINDS.items()))


@over_spaces
def test_counts_are_those_of_the_network(name, count_products):
  this, net = full_size(name)
  genes = draw(this, 50)[0].copy()
  genes[2::3] = np.arange(this.max_depth) % len(KINDS)  # every kind has its turn
  spec = this.decode(genes)
  module, images = VisionTransformer(net, spec), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
  variables = jax.eval_shape(module.init, jax.random.key(0), images)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == net.count_spec(spec).params
  assert count_products(module.apply, variables, images) == net.count_spec(spec).products


@over_spaces
@pytest.mark.parametrize("cost", [NumParams(), NumFlops()])
def test_counts_add_up_from_parts(name, cost):
  this, net = full_size(name)
  genes = draw(this, 50)
  table = CostTable(this, tuple(terms(this, net, cost)))
  np.testing.assert_array_equal(table.exact(genes), [cost.read(net.count_spec(this.decode(row))) for row in genes])


@over_spaces
@pytest.mark.parametrize("cost", [NumParams(), NumFlops()])
def test_counts_grow_with_every_size(name, cost):
  this, net = full_size(name)
  table = CostTable(this, tuple(terms(this, net, cost)))
  genes = draw(this, 50)
  active, prices = np.asarray(this.active(genes)), table.exact(genes)
  for i, gene in enumerate(this.genes):
    if gene.kind == "ordinal":
      more = genes.copy()
      more[:, i] += 1
      can = active[:, i] & (more[:, i] < len(gene.values))
      assert (table.exact(more[can]) > prices[can]).all(), gene.name
