"""Sizes of the published spaces."""

import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.softmax import Softmax
from nasformer.nets.vision import Vision, VisionNet
from nasformer.space.autoformer import AutoFormerBase, AutoFormerSmall, AutoFormerTiny
from nasformer.supernet.sampling import extreme

NET = VisionNet(Vision(16, "gelu"), (224, 224, 3), 1000, (("softmax", Softmax()),))
RELATIVE = 4 * 30 * 64  # per layer, not built here: tables of rows and columns for keys and values, 30 x head width
spaces = pytest.mark.parametrize("space", [AutoFormerTiny(), AutoFormerSmall(), AutoFormerBase()])


@spaces
def test_number_of_networks(space):
  """Widths times (heads x ratios) to the power of the depth, summed over depths."""
  layer = len(space.num_heads) * len(space.mlp_ratio)
  assert 10 ** space.log10_size() == pytest.approx(len(space.embed_dim) * sum(layer**depth for depth in space.depth))


@pytest.mark.parametrize("space, networks", [(AutoFormerTiny(), 1.06e9), (AutoFormerSmall(), 7.7e13),
                                             (AutoFormerBase(), 1.0e13)])
def test_number_of_networks_in_print(space, networks):
  assert 10 ** space.log10_size() == pytest.approx(networks, rel=0.02)


@pytest.mark.parametrize("space, smallest, largest", [
    (AutoFormerTiny(), 5.37, 10.52), (AutoFormerSmall(), 13.06, 34.79), (AutoFormerBase(), 41.69, 76.88)])
def test_parameters_of_the_released_models(space, smallest, largest):
  """In millions at 224 x 224 with a class token and 1000 classes, as the released counter has them."""
  genes = jnp.zeros(space.num_genes, jnp.int32)
  for which, millions in (("smallest", smallest), ("largest", largest)):
    spec = space.decode(np.asarray(extreme(space, genes, which)))
    assert round((NET.count_spec(spec).params + RELATIVE * spec.depth) / 1e6, 2) == millions


def test_the_smallest_of_all_to_the_last_number():
  """D = 192 over 12 layers: patches, class token, 197 positions; norms, q k v o, MLP of 672; final norm, classifier."""
  spec = AutoFormerTiny().decode(np.zeros(44, np.int32))
  layer = 4 * 192 + 4 * (192 * 192 + 192) + (192 * 672 + 672) + (672 * 192 + 192)
  ends = (768 * 192 + 192) + 192 + 197 * 192 + 2 * 192 + (192 * 1000 + 1000)
  assert NET.count_spec(spec).params == 12 * layer + ends == 5_366_056 - 12 * RELATIVE


@spaces
def test_mlp_widths_follow_the_model_width(space):
  for dim in space.embed_dim:
    assert space.ffn_dims(dim) == tuple(dim * ratio for ratio in space.mlp_ratio)  # no rounding in the published sizes
