"""The laws that every space and every attention kind of the tables obeys, those of tomorrow included."""

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
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # most time here is compiling
NUM = 20  # architectures of each space

over_spaces = pytest.mark.parametrize("name", SPACES)
over_both_mlp_rules = pytest.mark.parametrize("name", ["tiny", "autoformer_tiny"])


quick = functools.partial(jax.jit, compiler_options=QUICK)


class QuickNet(VisionNet):
  """The same network with compiled blocks, which all small networks share: op by op they would take minutes."""

  stem = quick(VisionNet.stem, static_argnums=0)
  attention = quick(VisionNet.attention, static_argnums=(0, 1))
  mlp = quick(VisionNet.mlp, static_argnums=0)
  head = quick(VisionNet.head, static_argnums=0)


def shrunk(name):
  """The same class of space with short lists of small sizes, and all kinds."""
  mlp = {"ffn_dim": (5, 10)} if SPACES[name].ffn_dim else {"mlp_ratio": (0.5, 1.0)}
  return dataclasses.replace(SPACES[name], embed_dim=(6, 10), depth=(1, 2, 3), num_heads=(1, 3), head_dim=4,
                             kinds=tuple(KINDS), **mlp)


@functools.cache
def case(name):
  """A supernet with parameters of which none is zero, a batch, random genomes, and its forms, compiled on first use."""
  net = Vision(2), (4, 6, 2), 3, tuple(KINDS.items()), (100.0, 120.0), (60.0, 50.0)
  supernet = Supernet(shrunk(name), VisionNet(*net))
  images, labels = 255 * jax.random.uniform(jax.random.key(1), (3, 4, 6, 2)), jnp.array([0, 2, 1])

  def nowhere_zero(key):
    leaves, tree = jax.tree.flatten(supernet.init(key))
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(tree, [x + 0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])

  def loss(logits):
    return smoothed_cross_entropy(logits, labels, 0.1).mean(), logits

  return types.SimpleNamespace(
      supernet=supernet, net=QuickNet(*net), params=quick(nowhere_zero)(jax.random.key(0)), images=images, loss=loss,
      genes=quick(lambda key: supernet.space.sample(key, NUM))(jax.random.key(2)),
      exact=quick(lambda p, g: supernet.exact(p, g, images)),
      masked_grad=quick(jax.grad(lambda p, g: loss(supernet.masked(p, g, images)), has_aux=True)),
      exact_grad=quick(jax.grad(lambda p, g: loss(supernet.exact(p, g, images)), has_aux=True)))


@functools.cache
def sliced(name):
  """(gradient, logits) of the small network of every genome of a case."""
  this = case(name)

  def of(genes):
    spec = this.supernet.space.decode(np.asarray(genes))
    apply = VisionTransformer(this.net, spec).apply
    loss = lambda small: this.loss(apply({"params": small}, this.images))
    return jax.grad(loss, has_aux=True)(this.supernet.derive(this.params, spec))

  return [of(genes) for genes in this.genes]


def logits_of(name):
  return np.stack([logits for _, logits in sliced(name)])


def close(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


def check_gradients(name, form):
  """Logits and gradients are those of the small networks; what a network does not use has a gradient of exactly zero."""
  this = case(name)
  for genes, (gradient, logits) in zip(this.genes, sliced(name), strict=True):
    got, got_logits = form(this.params, genes)
    close(got_logits, logits)
    close(this.supernet.derive(got, this.supernet.space.decode(np.asarray(genes))), gradient)
    dead = jax.tree.map(lambda g, used: jnp.where(used, 0, g), got, this.supernet.used(genes))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(dead))


# -- 1. a masked network is its sliced network ------------------------------------------------------------------------


@over_spaces
def test_masked_equals_sliced(name):
  check_gradients(name, case(name).masked_grad)


@over_spaces
def test_exact_equals_sliced(name):
  this = case(name)
  close(np.stack([this.exact(this.params, genes) for genes in this.genes]), logits_of(name))


@over_both_mlp_rules
def test_exact_gradient_equals_sliced(name):
  check_gradients(name, case(name).exact_grad)
