import dataclasses
import types

import jax
import numpy as np
import pytest

from nasformer.attention.base import Can
from nasformer.space.translation import HatIwslt, HatWmt, RankNasIwslt, RankNasWmt, TinyTranslation, Translation
from nasformer.types import DecoderLayerSpec, LayerSpec, TranslationSpec, UserError

SPACE = Translation(
    encoder_embed_dim=(8, 16), decoder_embed_dim=(8, 24), encoder_depth=(2, 3), decoder_depth=(1, 2),
    encoder_ffn_dim=(10, 20), decoder_ffn_dim=(30, 40), encoder_heads=(1, 2), decoder_heads=(2, 4), cross_heads=(1, 4),
    span=(1, 2), qkv_dim=8, encoder_kinds=("b", "a"), decoder_kinds=("c",), cross_kinds=("a", "c"))
SPEC = TranslationSpec(16, 8, (LayerSpec("b", 2, 4, 10), LayerSpec("a", 1, 8, 20)),
                       (DecoderLayerSpec("c", 4, 2, "c", 1, 8, 2, 30),))
GENES = np.array([1, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0] + [0] * 5, np.int32)
ONE_KIND = {"encoder_kinds": ("softmax",), "decoder_kinds": ("softmax",), "cross_kinds": ("softmax",)}


def test_table_of_genes():
  names = ["encoder_embed_dim", "decoder_embed_dim", "encoder_depth", "decoder_depth"]
  names += [f"encoder.{i}.{field}" for i in range(3) for field in ("kind", "num_heads", "ffn_dim")]
  fields = ("num_heads", "cross_kind", "cross_num_heads", "span", "ffn_dim")  # one kind is no choice
  names += [f"decoder.{i}.{field}" for i in range(2) for field in fields]
  assert [gene.name for gene in SPACE.genes] == names
  assert [gene.name for gene in SPACE.genes if gene.kind == "categorical"] == [name for name in names if "kind" in name]
  needs = {gene.site: dict(gene.needs) for gene in SPACE.genes if gene.site}
  assert needs == {"encoder.0": {"encoder_depth": (2, 3)}, "encoder.1": {"encoder_depth": (2, 3)},
                   "encoder.2": {"encoder_depth": (3,)}, "decoder.0": {"decoder_depth": (1, 2)},
                   "decoder.1": {"decoder_depth": (2,)}}


def test_decode_by_hand_and_back():
  assert SPACE.decode(GENES) == SPEC and TranslationSpec.from_json(SPEC.to_json()) == SPEC
  np.testing.assert_array_equal(SPACE.encode(SPEC), GENES)
  noise = np.where(np.asarray(SPACE.active(GENES)), GENES, 1)
  assert SPACE.decode(noise) == SPEC


def test_reading_is_what_decode_says():
  genes = SPACE.sample(jax.random.key(0), 30)
  reading = jax.jit(SPACE.read)(genes)
  for i, spec in enumerate(map(SPACE.decode, np.asarray(genes))):
    assert SPACE.encoder_embed_dim[reading.encoder_embed[i]] == spec.encoder_embed_dim
    assert SPACE.decoder_embed_dim[reading.decoder_embed[i]] == spec.decoder_embed_dim
    for side in ("encoder", "decoder"):
      layers, rows = getattr(spec, side), getattr(reading, side)
      assert getattr(reading, f"{side}_depth")[i] == len(layers) and rows.keys() == SPACE.fields[side].keys()
      for number, layer in enumerate(layers):
        for name, options in SPACE.fields[side].items():
          assert options[rows[name][i, number]] == getattr(layer, name)


def test_parts_are_the_pieces_of_the_spec():
  """The sizes of every part that exists, found through genes, are those that the spec names."""
  assert len(SPACE.parts) == 1 + 3 * 2 + 2 * 3
  for genes in np.asarray(SPACE.sample(jax.random.key(1), 20)):
    values, spec, sizes = SPACE.values(genes), SPACE.decode(genes), {}
    for part in SPACE.parts:
      if part.genes[-1] in values:
        sizes[part.name] = SPACE.part_sizes(part.role, tuple(values[name] for name in part.genes))
        assert part.role == part.name or part.role == "_".join(part.name.split(".")[::2])
    encoder, decoder = spec.encoder_embed_dim, spec.decoder_embed_dim
    wanted = {"ends": {"encoder_embed_dim": encoder, "decoder_embed_dim": decoder}}
    for side, dim in (("encoder", encoder), ("decoder", decoder)):
      for i, layer in enumerate(getattr(spec, side)):
        wanted[f"{side}.{i}.attention"] = {
            "embed_dim": dim, "kind": layer.kind, "num_heads": layer.num_heads, "head_dim": layer.head_dim}
        wanted[f"{side}.{i}.mlp"] = {"embed_dim": dim, "ffn_dim": layer.ffn_dim}
    for i, layer in enumerate(spec.decoder):
      wanted[f"decoder.{i}.cross"] = {
          "source_dim": encoder, "embed_dim": decoder, "kind": layer.cross_kind, "span": layer.span,
          "num_heads": layer.cross_num_heads, "head_dim": layer.cross_head_dim}
    assert sizes == wanted


def test_networks_made_by_hand_have_layers_alike():
  found = [SPACE.decode(genes) for genes in SPACE.uniform_genomes()]
  assert len(found) == len(set(found)) and SPEC not in found
  for spec in found:
    assert len(set(spec.encoder)) == len(set(spec.decoder)) == 1
  assert {spec.decoder[0].span for spec in found} == {1, 2} and {len(spec.encoder) for spec in found} == {2, 3}
  assert {layer.cross_kind for spec in found for layer in spec.decoder} == {"a", "c"}


def test_number_of_networks():
  """2 kinds x 2 heads x 2 MLPs in each of 2 or 3 layers; 2 heads x 2 kinds x 2 heads x 2 spans x 2 MLPs in 1 or 2."""
  assert 10 ** SPACE.log10_size() == pytest.approx(4 * (8**2 + 8**3) * (32 + 32**2))
  fixed = dataclasses.replace(SPACE, restrict="*kind=a; encoder_depth=2; decoder.*.span=2; *_embed_dim=8")
  assert 10 ** fixed.log10_size() == pytest.approx(4**2 * (8 + 8**2))


def test_restrictions_reach_kinds_of_all_modules():
  space = dataclasses.replace(TinyTranslation(), restrict="*kind=cosformer; decoder.*.span=2; *_depth=2")
  genes = np.asarray(space.sample(jax.random.key(0), 50))
  assert space.contains(genes).all()
  for spec in map(space.decode, genes):
    assert len(spec.encoder) == len(spec.decoder) == 2 and {layer.span for layer in spec.decoder} == {2}
    assert {layer.kind for layer in spec.encoder + spec.decoder} == {"cosformer"}
    assert {layer.cross_kind for layer in spec.decoder} == {"cosformer"}


def test_widths_are_sorted_and_kinds_are_not():
  mixed = dataclasses.replace(SPACE, encoder_embed_dim=(16, 8), span=(2, 1), cross_heads=(4, 1), decoder_depth=(2, 1))
  assert mixed == SPACE and mixed.encoder_kinds == ("b", "a") and mixed.kinds == ("b", "a", "c")


@pytest.mark.parametrize("kind, can, message", [
    ("c", Can(causal=False), "space.decoder_kinds: 'c' cannot be used there, it has no causal form"),
    ("a", Can(cross=False), "space.cross_kinds: 'a' cannot be used there, it has no cross form"),
    ("b", Can(grid=True), "space.encoder_kinds: 'b' cannot be used there, it needs the patches of an image"),
    ("b", Can(divides=False), "space.encoder_kinds: the heads of 'b' cannot divide a fixed width, so space.encoder_heads"
     " must be one number where it is used")])
def test_kinds_are_refused_where_they_cannot_be(kind, can, message):
  kinds = {name: types.SimpleNamespace(can=Can()) for name in "abc"}
  SPACE.check(kinds)
  with pytest.raises(UserError, match=message):
    SPACE.check(kinds | {kind: types.SimpleNamespace(can=can)})


def test_kinds_may_lack_what_their_modules_do_not_need():
  rest = {name: types.SimpleNamespace(can=Can()) for name in "ac"}
  dataclasses.replace(SPACE, encoder_heads=(2,)).check(rest | {"b": types.SimpleNamespace(can=Can(False, False, False))})


@pytest.mark.parametrize("change, message", [
    ({"encoder_embed_dim": ()}, "space.encoder_embed_dim is empty: give at least one choice"),
    ({"cross_kinds": ()}, "space.cross_kinds is empty"),
    ({"span": (1, 1)}, r"space.span=\(1, 1\) names a choice twice"),
    ({"decoder_kinds": ("a", "a")}, "space.decoder_kinds=.* names a choice twice"),
    ({"decoder_depth": (0, 1)}, "sizes must be positive"),
    ({"span": (1, 3)}, r"a span of 3 needs as many encoder layers, but encoder_depth=\(2, 3\) allows 2"),
    ({"encoder_heads": (1, 3)}, r"space.encoder_heads=\(1, 3\): each must divide the largest and qkv_dim=8"),
    ({"decoder_heads": (2, 3), "qkv_dim": 6}, r"space.decoder_heads=\(2, 3\): each must divide the largest"),
    ({"cross_heads": (16,)}, "must divide the largest and qkv_dim=8"),
    ({"restrict": "encoder_depth=4"}, "encoder_depth cannot be '4'"),
    ({"restrict": "decoder.*.kind=c"}, "no gene matches 'decoder.*.kind'"),
])
def test_choices_that_make_no_space_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(SPACE, **change)


def changed(side, **fields):
  """SPEC with its last layer of a side changed."""
  layers = getattr(SPEC, side)
  return dataclasses.replace(SPEC, **{side: (*layers[:-1], dataclasses.replace(layers[-1], **fields))})


@pytest.mark.parametrize("spec, message", [
    (dataclasses.replace(SPEC, decoder_embed_dim=16), "decoder_embed_dim = 16 is outside"),
    (dataclasses.replace(SPEC, encoder=SPEC.encoder[:1]), "encoder_depth = 1 is outside"),
    (changed("encoder", kind="c"), r"encoder.1.kind = 'c' is outside the space \(options: \('b', 'a'\)\)"),
    (changed("decoder", kind="a"), "decoder.0.kind = 'a' is outside"),
    (changed("decoder", span=3), "decoder.0.span = 3 is outside"),
    (changed("encoder", head_dim=4), r"encoder layer 1 .* is outside the space \(qkv_dim 8\)"),
    (changed("decoder", cross_head_dim=4), r"decoder layer 0 .* is outside the space \(qkv_dim 8\)"),
])
def test_a_spec_of_another_space_is_refused(spec, message):
  with pytest.raises(UserError, match=message):
    SPACE.encode(spec)


# -- the published spaces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [HatWmt(), HatIwslt()])
def test_hat_without_the_choice_of_attention(space):
  """HAT 3.3: 4 + 6 x 2 + 6 x 4 genes, about 10^15 networks (arXiv 2005.14187).

  There are 2 x 2 widths, 2 heads x 3 MLPs in each of 6 encoder layers, and 2 x 2 heads x 3 MLPs x 3 spans in each of 1
  to 6 decoder layers.
  """
  alone = dataclasses.replace(space, **ONE_KIND)
  assert alone.num_genes == 40 and space.num_genes == 40 + 6 + 2 * 6
  networks = 4 * 6**6 * sum(36**depth for depth in range(1, 7))
  assert 10 ** alone.log10_size() == pytest.approx(networks) and 14.5 < alone.log10_size() < 15
  assert dataclasses.replace(space, restrict="*kind=softmax").log10_size() == pytest.approx(alone.log10_size())


@pytest.mark.parametrize("space, embed, ffn, heads, qkv_dim", [
    (HatWmt(), (512, 640), (1024, 2048, 3072), (4, 8), 512),
    (HatIwslt(), (512, 640), (512, 1024, 2048), (2, 4), 512),
    (RankNasWmt(), (640, 768, 1024), (2048, 3072, 4096, 5120), (4, 8, 16), 1024),
    (RankNasIwslt(), (512, 640), (768, 1024, 1536, 2048), (2, 4, 8), 512),
])
def test_choices_in_print(space, embed, ffn, heads, qkv_dim):
  assert space.encoder_embed_dim == space.decoder_embed_dim == embed
  assert space.encoder_ffn_dim == space.decoder_ffn_dim == ffn
  assert space.encoder_heads == space.decoder_heads == space.cross_heads == heads
  assert (space.encoder_depth, space.decoder_depth, space.span) == ((6,), (1, 2, 3, 4, 5, 6), (1, 2, 3))
  assert space.qkv_dim == qkv_dim
