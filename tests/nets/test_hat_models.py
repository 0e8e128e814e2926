"""Published models of HAT (arXiv 2005.14187): their printed sizes follow from closed formulas of their architectures.

The table holds 31 of the 44 models. The other 13, most of the Raspberry Pi's and all of En-Fr on TITAN Xp, are left
out: the data set of measured latencies keeps them for evaluation. The heads of the Pi's four are not known (null);
heads divide a fixed width, so no count depends on them. Sizes leave out embeddings and the vocabulary projection.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from nasformer.attention.softmax import Softmax
from nasformer.nets.translation import Translation, TranslationNet
from nasformer.space.translation import HatIwslt, HatWmt
from nasformer.types import DecoderLayerSpec, LayerSpec, TranslationSpec

MODELS = json.loads((pathlib.Path(__file__).parent / "hat_models.json").read_text())


def transformer(embed_dim, ffn_dim, heads, params_m, flops_g):
  """A row for a Transformer of 6 + 6 equal layers; the printed figures are those of HAT's Table 2."""
  return {"name": f"Transformer {embed_dim}", "encoder_embed_dim": embed_dim, "decoder_embed_dim": embed_dim,
          "encoder_ffn": [ffn_dim] * 6, "encoder_heads": [heads] * 6, "decoder_ffn": [ffn_dim] * 6,
          "decoder_self_heads": [heads] * 6, "decoder_cross_heads": [heads] * 6, "span": [1] * 6,
          "qkv_dim": embed_dim, "length": 30, "params_m": params_m, "flops_g": flops_g}


BASELINES = [transformer(512, 2048, 8, 44.1, 2.68), transformer(1024, 4096, 16, 176.4, 10.64)]


def count_params(row):
  """Weights and biases of the products, and two vectors for each of the 2 or 3 layer norms of a layer."""
  e, d, q = row["encoder_embed_dim"], row["decoder_embed_dim"], row["qkv_dim"]
  encoder = sum(4 * e * q + 3 * q + 2 * e * f + f + 6 * e for f in row["encoder_ffn"])
  decoder = sum(6 * d * q + 2 * e * q + 6 * q + 2 * d * f + f + 9 * d for f in row["decoder_ffn"])
  return encoder + decoder


def count_flops(row):
  """Twice the multiply-adds of one pass over `length` source and target positions.

  As HAT's profiler counts: the whole square of attention in the decoder too, a multiply-add for each output of a layer
  norm, of the query's scaling and of the embeddings' scaling.
  """
  e, d, q, n = row["encoder_embed_dim"], row["decoder_embed_dim"], row["qkv_dim"], row["length"]
  encoder = sum(n * (4 * e * q + 2 * e * f) + 2 * n**2 * q + 2 * n * e + n * q for f in row["encoder_ffn"])
  decoder = sum(
      n * (6 * d * q + 2 * d * f) + 2 * s * n * e * q + 2 * n**2 * q * (1 + s) + 3 * n * d + 2 * n * q
      for f, s in zip(row["decoder_ffn"], row["span"], strict=True)
  )
  return 2 * (encoder + decoder + n * (e + d))


def test_table_is_whole():
  assert len(MODELS) == len({row["name"] for row in MODELS}) == 31
  for row in MODELS:
    assert row["length"] == (23 if row["name"].startswith("iwslt14") else 30)
    assert {row["encoder_embed_dim"], row["decoder_embed_dim"]} <= {512, 640} and row["qkv_dim"] == 512
    assert len(row["encoder_ffn"]) == 6 and 1 <= len(row["decoder_ffn"]) <= 6
    assert set(row["encoder_ffn"] + row["decoder_ffn"]) <= {1024, 2048, 3072}
    assert len(row["span"]) == len(row["decoder_ffn"]) and set(row["span"]) <= {1, 2, 3}


def test_heads_are_known_together():
  known = [row for row in MODELS if row["encoder_heads"]]
  assert len(known) == 27
  for row in known:
    assert len(row["encoder_heads"]) == 6 and set(row["encoder_heads"]) <= {2, 4, 8}
    for heads in row["decoder_self_heads"], row["decoder_cross_heads"]:
      assert len(heads) == len(row["decoder_ffn"]) and set(heads) <= {2, 4, 8}
  for row in MODELS:
    if row not in known:
      assert row["encoder_heads"] is row["decoder_self_heads"] is row["decoder_cross_heads"] is None


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row["name"])
def test_formulas_give_the_printed_sizes(row):
  assert round(count_params(row) / 1e6, 2) == row["params_m"]
  assert round(count_flops(row) / 1e9, 2) == row["flops_g"]


@pytest.mark.parametrize("row", BASELINES, ids=lambda row: row["name"])
def test_formulas_give_the_sizes_of_transformers(row):
  assert round(count_params(row) / 1e6, 1) == row["params_m"]
  assert round(count_flops(row) / 1e9, 2) == row["flops_g"]


# -- the library counts the same ---------------------------------------------------------------------------------------


def spec_of(row):
  """The row's architecture; heads that are not known are eight."""
  width, encoder, decoder = row["qkv_dim"], row["encoder_ffn"], row["decoder_ffn"]
  heads = [row[name] or [8] * 6 for name in ("encoder_heads", "decoder_self_heads", "decoder_cross_heads")]
  return TranslationSpec(
      row["encoder_embed_dim"], row["decoder_embed_dim"],
      tuple(LayerSpec("softmax", n, width // n, f) for n, f in zip(heads[0], encoder)),
      tuple(DecoderLayerSpec("softmax", n, width // n, "softmax", c, width // c, s, f)
            for n, c, s, f in zip(heads[1], heads[2], row["span"], decoder)))


@pytest.mark.parametrize("row", MODELS + BASELINES, ids=lambda row: row["name"])
def test_networks_of_the_library_count_the_same(row):
  """HAT's FLOPs hold element-wise work that ours leave out; `Count` has it apart."""
  spec = spec_of(row)
  net = TranslationNet(Translation(count_length=row["length"]), 9, 9, (("softmax", Softmax()),), (1024, 1024))
  count = net.count_spec(spec)
  assert count.params == count_params(row) and 2 * (count.products + count.elementwise) == count_flops(row)
  assert net.count_spec(spec, row["length"]) == count


def row_of(spec, length):
  """What the formulas need of an architecture."""
  return {"encoder_embed_dim": spec.encoder_embed_dim, "decoder_embed_dim": spec.decoder_embed_dim,
          "encoder_ffn": [layer.ffn_dim for layer in spec.encoder], "decoder_ffn": [layer.ffn_dim for layer in spec.decoder],
          "span": [layer.span for layer in spec.decoder], "qkv_dim": 512, "length": length}


@pytest.mark.parametrize("space, length", [(HatWmt(), 30), (HatIwslt(), 23)], ids=["wmt", "iwslt"])
def test_all_networks_of_the_spaces_count_the_same(space, length):
  """So the formulas' figures are the library's for published models that the table leaves out, too."""
  net = TranslationNet(Translation(count_length=length), 9, 9, (("softmax", Softmax()),), (1024, 1024))
  space = dataclasses.replace(space, restrict="*kind=softmax")
  for genes in np.asarray(space.sample(jax.random.key(0), 100)):
    row, count = row_of(space.decode(genes), length), net.count_spec(space.decode(genes))
    assert count.params == count_params(row) and 2 * (count.products + count.elementwise) == count_flops(row)
