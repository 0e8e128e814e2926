import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import derive
from nasformer.attention import TABLE
from nasformer.compilations import counted
from nasformer.nets.vision import Vision, VisionNet
from nasformer.registry import lookup
from nasformer.space.tiny import Tiny
from nasformer.supernet.encoder import Supernet

SPACE = Tiny(embed_dim=(6, 8), depth=(1, 2), num_heads=(1, 2), head_dim=4, ffn_dim=(5, 8), kinds=("softmax", "linear"))


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)).astype(np.uint8)
GENES = np.asarray(jax.jit(SPACE.sample, static_argnums=1)(jax.random.key(2), 2))


@functools.cache
def make(dtype="float32"):
  """A supernet and its weights."""
  kinds = tuple((name, lookup(TABLE, name)()) for name in SPACE.kinds)
  supernet = Supernet(SPACE, VisionNet(Vision(2, dtype=dtype), (4, 4, 1), 3, kinds))
  return supernet, jax.jit(supernet.init)(jax.random.key(0))


@functools.cache
def checker(dtype="float32"):
  return derive.checker(make(dtype)[0])


@pytest.mark.parametrize("dtype, num", [("float32", 2), ("bfloat16", 1)])
def test_the_small_network_is_cut_out_and_passes(dtype, num):
  supernet, params = make(dtype)
  cut = checker(dtype)
  for genes in GENES[:num]:
    small, network = cut(params, genes, IMAGES), supernet.module(SPACE.decode(genes))
    wanted = jax.eval_shape(network.init, jax.random.key(0), IMAGES)["params"]
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, wanted)


def test_the_supernet_is_compiled_once():
  cut, (_, params) = checker(), make()
  cut(params, GENES[0], IMAGES)
  with counted() as count:
    cut(params, GENES[0], IMAGES)
  assert count.num == 1  # the small network


def test_a_wrong_cut_does_not_pass():
  supernet, params = make()

  class Wrong(Supernet):

    def derive(self, params, spec):
      return jax.tree.map(lambda leaf: leaf + 0.1, super().derive(params, spec))

  with pytest.raises(AssertionError, match="the derived network differs from the supernet by"):
    derive.checker(Wrong(supernet.space, supernet.net))(params, GENES[0], IMAGES)


def test_dropout_is_scaled_by_the_share_of_the_largest_width():
  spec = SPACE.decode(np.zeros(SPACE.num_genes, np.int32))
  assert make()[0].module(spec).width_share == 6 / 8
