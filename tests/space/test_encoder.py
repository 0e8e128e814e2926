import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.space.base import Part
from nasformer.space.encoder import Encoder
from nasformer.types import EncoderSpec, LayerSpec, UserError

SPACE = Encoder(embed_dim=(8, 16), depth=(1, 3), num_heads=(1, 2, 4), head_dim=5, ffn_dim=(10, 20), kinds=("b", "a"))
RATIO = dataclasses.replace(SPACE, ffn_dim=(), mlp_ratio=(1.5, 2.0))
GENES = np.array([1, 1, 0, 2, 1, 1, 0, 0, 0, 1, 1], np.int32)
LAYERS = [("b", 4, 1), ("a", 1, 0), ("b", 2, 1)]  # kind, heads and MLP option that GENES mean


def test_table_of_genes():
  names = ["embed_dim", "depth"] + [f"layer.{i}.{field}" for i in range(3) for field in ("kind", "num_heads", "ffn")]
  assert [gene.name for gene in SPACE.genes] == names
  assert [gene.name for gene in SPACE.genes if gene.kind == "categorical"] == names[2::3]
  assert [dict(gene.needs) for gene in SPACE.genes[2::3]] == [{"depth": (1, 3)}, {"depth": (3,)}, {"depth": (3,)}]
  assert [gene.site for gene in SPACE.genes[:3]] == [None, None, "layer.0"]
  assert [gene.values for gene in RATIO.genes[2:5]] == [("b", "a"), (1, 2, 4), (1.5, 2.0)]


@pytest.mark.parametrize("space, widths", [(SPACE, (10, 20)), (RATIO, (24, 32))])
def test_decode_by_hand_and_back(space, widths):
  spec = EncoderSpec(16, tuple(LayerSpec(kind, heads, 5, widths[ffn]) for kind, heads, ffn in LAYERS))
  assert space.decode(GENES) == spec
  np.testing.assert_array_equal(space.encode(spec), GENES)
  shallow = space.encode(dataclasses.replace(spec, layers=spec.layers[:1]))
  np.testing.assert_array_equal(shallow, [1, 0, 0, 2, 1] + [0] * 6)


def test_widths_are_sorted_and_kinds_are_not():
  mixed = dataclasses.replace(SPACE, embed_dim=(16, 8), depth=(3, 1), num_heads=(4, 1, 2), ffn_dim=(20, 10))
  assert mixed == SPACE and mixed.kinds == ("b", "a")


def test_reading_is_what_decode_says():
  genes = SPACE.sample(jax.random.key(0), 30)
  reading = jax.jit(SPACE.read)(genes)
  for i, spec in enumerate(map(SPACE.decode, np.asarray(genes))):
    assert (SPACE.embed_dim[reading.embed[i]], reading.depth[i]) == (spec.embed_dim, spec.depth)
    for number, layer in enumerate(spec.layers):
      assert SPACE.kinds[reading.kind[i, number]] == layer.kind
      assert SPACE.num_heads[reading.heads[i, number]] == layer.num_heads
      assert SPACE.ffn_dims(spec.embed_dim)[reading.ffn[i, number]] == layer.ffn_dim


@pytest.mark.parametrize("space", [SPACE, RATIO])
def test_parts_are_the_pieces_of_the_spec(space):
  """The sizes of every part that exists, found through genes, are those that the spec names."""
  assert space.parts[0] == Part("ends", "ends", ("embed_dim",)) and len(space.parts) == 7
  for genes in np.asarray(space.sample(jax.random.key(1), 20)):
    values, spec, sizes = space.values(genes), space.decode(genes), {}
    for part in space.parts:
      if part.genes[-1] in values:
        sizes[part.name] = space.part_sizes(part.role, tuple(values[name] for name in part.genes))
    wanted = {"ends": {"embed_dim": spec.embed_dim}}
    for i, layer in enumerate(spec.layers):
      whole = {"embed_dim": spec.embed_dim} | dataclasses.asdict(layer)
      wanted[f"layer.{i}.mlp"] = {name: whole[name] for name in ("embed_dim", "ffn_dim")}
      wanted[f"layer.{i}.attention"] = {name: whole[name] for name in whole if name != "ffn_dim"}
    assert sizes == wanted


def test_number_of_networks():
  """2 widths, and 2 kinds x 3 numbers of heads x 2 MLPs in each of 1 or 3 layers."""
  assert 10 ** SPACE.log10_size() == pytest.approx(2 * (12 + 12**3))
  fixed = dataclasses.replace(SPACE, restrict="layer.*.kind=a; depth=3")
  assert 10 ** fixed.log10_size() == pytest.approx(2 * 6**3)


def test_ratios_are_cut_to_whole_widths():
  odd = dataclasses.replace(SPACE, embed_dim=(5,), ffn_dim=(), mlp_ratio=(1.5, 3.3))
  assert odd.ffn_dims(5) == (math.floor(7.5), math.floor(16.5))


@pytest.mark.parametrize("change, message", [
    ({"mlp_ratio": (2.0,)}, "either ffn_dim or mlp_ratio"),
    ({"ffn_dim": ()}, "either ffn_dim or mlp_ratio"),
    ({"embed_dim": ()}, "space.embed_dim is empty"),
    ({"kinds": ()}, "space.kinds is empty"),
    ({"num_heads": (2, 2)}, "names a choice twice"),
    ({"kinds": ("a", "a")}, "names a choice twice"),
    ({"depth": (0, 1)}, "sizes must be positive"),
    ({"head_dim": 0}, "head_dim=0: it must be positive"),
    ({"restrict": "depth=2"}, "depth cannot be '2'"),
    ({"restrict": "layer.*.width=2"}, "no gene matches"),
])
def test_choices_that_make_no_space_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(SPACE, **change)


@pytest.mark.parametrize("embed_dim, layer, message", [
    (12, LayerSpec("a", 1, 5, 10), "embed_dim = 12 is outside"),
    (16, LayerSpec("a", 1, 6, 10), "layer 0 .* is outside the space .head_dim 5"),
    (16, LayerSpec("a", 1, 5, 11), "layer 0 .* is outside the space"),
    (16, LayerSpec("a", 3, 5, 10), "layer.0.num_heads = 3 is outside"),
    (16, LayerSpec("c", 1, 5, 10), "layer.0.kind = 'c' is outside"),
])
def test_a_spec_of_another_space_is_refused(embed_dim, layer, message):
  with pytest.raises(UserError, match=message):
    SPACE.encode(EncoderSpec(embed_dim, (layer,)))


def test_a_depth_of_another_space_is_refused():
  with pytest.raises(UserError, match="depth = 2 is outside"):
    SPACE.encode(EncoderSpec(16, (LayerSpec("a", 1, 5, 10),) * 2))
  with pytest.raises(UserError, match="depth = 4 is outside"):
    SPACE.encode(EncoderSpec(16, (LayerSpec("a", 1, 5, 10),) * 4))
