import dataclasses

import numpy as np
import pytest

from nasformer.space.vision import Vision
from nasformer.types import LayerSpec


def test_size_of_the_published_space():
  """2 + 3 x 14 genes. 3 widths, then 3 kinds x 3 heads x 5 MLPs for each of 12, 13 or 14 layers."""
  assert Vision().num_genes == 44
  assert 10 ** (Vision().log10_size() - 20) == pytest.approx(3 * (45**12 + 45**13 + 45**14) / 1e20)
  assert round(Vision().log10_size(), 1) == 23.6


@pytest.mark.parametrize("space", [Vision(kinds=("cosformer",)), Vision("layer.*.kind=softmax")])
def test_size_without_the_choice_of_attention(space):
  assert round(space.log10_size(), 1) == 17.0


def test_released_architecture_is_a_member():
  """The sub-network that the authors' repository tags 87.4, with relative softmax throughout."""
  ffn = (1792, 1792, 1344, 1568, 1344, 1344, 1344, 1344, 1568, 672, 1568, 1344)
  heads = (7, 7, 6, 7, 5, 7, 5, 7, 5, 6, 7, 6)
  space = Vision()
  genes = space.genome({"embed_dim": 448, "depth": 12} | {
      f"layer.{i}.{field}": value for i in range(12)
      for field, value in (("kind", "softmax_relative"), ("num_heads", heads[i]), ("ffn", ffn[i]))})
  spec = space.decode(genes)
  assert spec.layers == tuple(LayerSpec("softmax_relative", n, 64, f) for n, f in zip(heads, ffn))
  np.testing.assert_array_equal(space.encode(spec), genes)
  assert space.contains(genes) and not dataclasses.replace(space, restrict="depth=13,14").contains(genes)
