import jax
import numpy as np
import pytest

from nasformer.attention.linear import Linear
from nasformer.attention.luna import Luna
from nasformer.attention.softmax import Softmax
from nasformer.score import counts, layers, prices
from nasformer.search.costs import CostTable
from nasformer.space.encoder import Encoder
from nasformer.types import UserError

ROWS = [{"device": "here", "width": 512}] + [
    {"kind": kind, "mode": "bidirectional", "what": what, "length": length, "ms": ms}
    for kind, what, length, ms in (("softmax", "forward", 64, 1.0), ("softmax", "forward", 256, 16.0), ("softmax", "step", 128, 9.0),
                                   ("linear", "forward", 64, 2.0), ("linear", "forward", 256, 8.0), ("linear", "forward", 256, 4.0))]
KINDS = {"softmax": Softmax(), "linear": Linear(), "short": Luna(8), "own": Linear()}
SPACE = Encoder(embed_dim=(16,), depth=(1, 2), num_heads=(2, 4), head_dim=8, ffn_dim=(16,), kinds=("softmax", "linear"))


def test_layers_add_up_along_a_line_in_logarithms():
  """At 128 tokens softmax takes 4 ms where a layer is 512 wide, linear sqrt(8): its last measurement counts."""
  terms = counts.terms(SPACE, layers.layers(ROWS, "table", 128, "here", KINDS), layers.AttentionTime())
  cost = CostTable(SPACE, tuple(terms), prices.UNIT_MS)
  for genes in np.asarray(SPACE.sample(jax.random.key(0), 8)):
    expected = sum({"softmax": 4.0, "linear": 8**0.5}[layer.kind] * layer.num_heads * 8 / 512 for layer in SPACE.decode(genes).layers)
    assert cost.exact(genes) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("length, device, message", [
    (300, "here", "has times of 'softmax' .bidirectional. from 64 to 256 tokens, and sequences here have 300"),
    (128, "elsewhere", "was measured on 'here', and this is 'elsewhere'"),
])
def test_tables_that_do_not_fit(length, device, message):
  with pytest.raises(UserError, match=message):
    list(counts.terms(SPACE, layers.layers(ROWS, "table", length, device, KINDS), layers.AttentionTime()))


def test_missing_tables_and_kinds():
  with pytest.raises(UserError, match="is missing or no table of attention layers"):
    layers.layers([], "none.jsonl", 128, "here", KINDS)
  with pytest.raises(UserError, match=r"has no times of 'luna\(memory_length=8\)' .bidirectional, forward.: measure it with"):
    layers.layers(ROWS, "table", 128, "here", KINDS).count("attention", kind="short", num_heads=2, head_dim=8)


def test_kinds_are_found_by_what_they_are_whatever_their_names():
  table = layers.layers(ROWS, "table", 128, "here", KINDS)
  linear, own = (table.count("attention", kind=kind, num_heads=2, head_dim=8) for kind in ("linear", "own"))
  assert own == linear > 0
