"""A supernet of a few hundred weights, of which none is zero, and a batch."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.linear import Linear
from nasformer.attention.softmax import Softmax
from nasformer.nets.vision import Vision, VisionNet
from nasformer.space.encoder import Encoder
from nasformer.supernet.encoder import Supernet

SPACE = Encoder(embed_dim=(4, 6), depth=(1, 2, 3), num_heads=(1, 2), head_dim=4, ffn_dim=(3, 5),
                kinds=("softmax", "linear"))
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling


def make(**config):
  net = VisionNet(Vision(2, "gelu", **config), (4, 6, 2), 3, (("softmax", Softmax()), ("linear", Linear())))
  return Supernet(SPACE, net)


@pytest.fixture(scope="session")
def small():
  """The toys as a namespace: `make` a supernet by options of its net, the plain one's parameters, images and labels."""
  rng, supernet = np.random.default_rng(0), make()
  shapes = jax.eval_shape(supernet.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)
  batch = {"image": jnp.asarray(rng.integers(0, 256, (4, 4, 6, 2)), jnp.uint8), "label": jnp.array([0, 2, 1, 1])}
  return types.SimpleNamespace(make=make, space=SPACE, supernet=supernet, params=params, batch=batch,
                               quick=functools.partial(jax.jit, compiler_options=QUICK))
