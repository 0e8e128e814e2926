"""Architectures read from HAT's own fields count as they are printed; NASFORMER_HAT_MODELS may name a file of more of them.

Such a file has one JSON object a line: the fields of HAT's file, and "params_m", "flops_g" and "length" as printed.
"""

import json
import os
import pathlib

import pytest

from nasformer.attention.softmax import Softmax
from nasformer.nets.translation import Translation, TranslationNet
from nasformer.space import hat
from nasformer.space.translation import HatIwslt, HatWmt
from nasformer.types import UserError


def fields(encoder_dim, decoder_dim, encoder_ffn, decoder_ffn, codes, **printed):
  """A file as HAT writes them; heads do not matter to the counts."""
  depth = len(decoder_ffn)
  return {"encoder-embed-dim-subtransformer": encoder_dim, "decoder-embed-dim-subtransformer": decoder_dim,
          "encoder-layer-num-subtransformer": len(encoder_ffn), "decoder-layer-num-subtransformer": depth,
          "encoder-ffn-embed-dim-all-subtransformer": encoder_ffn, "decoder-ffn-embed-dim-all-subtransformer": decoder_ffn,
          "encoder-self-attention-heads-all-subtransformer": [4] * len(encoder_ffn),
          "decoder-self-attention-heads-all-subtransformer": [4] * depth,
          "decoder-ende-attention-heads-all-subtransformer": [4] * depth,
          "decoder-arbitrary-ende-attn-all-subtransformer": codes, **printed}


ROWS = [fields(640, 640, [3072] * 6, [3072] * 3, [-1, 1, 1], params_m=51.20, flops_g=3.17, length=30),
        fields(640, 512, [3072] * 6, [3072], [1], params_m=36.89, flops_g=2.27, length=30),
        fields(512, 512, [3072] * 6, [3072] * 6, [-1, 1, -1, 1, 2, -1], params_m=56.73, flops_g=3.57, length=30),
        fields(512, 512, [1024] * 6, [1024, 1024, 2048], [2, -1, -1], params_m=23.13, flops_g=1.13, length=23)]
MORE = os.environ.get("NASFORMER_HAT_MODELS")
ROWS += [json.loads(line) for line in pathlib.Path(MORE).read_text().splitlines()] if MORE else []


@pytest.mark.parametrize("row", ROWS)
def test_counts_as_printed(row):
  net = TranslationNet(Translation(count_length=row["length"]), 9, 9, (("softmax", Softmax()),), (1024, 1024))
  count = net.count_spec(hat.spec(row))
  assert round(count.params / 1e6, 2) == row["params_m"]
  assert round(2 * (count.products + count.elementwise) / 1e9, 2) == row["flops_g"]


@pytest.mark.parametrize("space, row", [(HatWmt(), ROWS[0]), (HatIwslt(), ROWS[-1 if MORE is None else 3])])
def test_lie_in_their_spaces(space, row):
  spec = hat.spec(row)
  assert space.decode(space.encode(spec)) == spec


def test_other_spellings_and_longer_lists_mean_the_same():
  row = {name.removesuffix("-subtransformer").replace("-", "_"): value for name, value in ROWS[3].items()}
  row["decoder_ffn_embed_dim_all"] = [*row["decoder_ffn_embed_dim_all"], 512, 512, 512]
  assert hat.spec(row) == hat.spec(ROWS[3])


@pytest.mark.parametrize("change, message", [
    ({"decoder-layer-num-subtransformer": 4}, "has 3 values for 4 layers"),
    ({"decoder-arbitrary-ende-attn-all-subtransformer": [0, 1, 1]}, "has 0: it must be one of -1, 1, 2"),
    ({"encoder-self-attention-heads-all-subtransformer": [3] * 6}, "3 heads do not divide")])
def test_what_hat_does_not_write_is_refused(change, message):
  with pytest.raises(UserError, match=message):
    hat.spec(ROWS[0] | change)


def test_a_missing_field_is_named():
  with pytest.raises(UserError, match="encoder-layer-num-subtransformer is missing"):
    hat.spec({"encoder-embed-dim": 512})
