import dataclasses

import jax
import numpy as np
import pytest

from nasformer.attention.linear import Linear
from nasformer.attention.softmax import Softmax
from nasformer.nets.vision import Vision, VisionNet
from nasformer.space.encoder import Encoder
from nasformer.space.wide import Wide
from nasformer.types import EncoderSpec, LayerSpec, UserError

SPACE = Wide()
NET = VisionNet(Vision(8), (32, 32, 3), 10, (("softmax", Softmax()), ("linear", Linear())))


def shape(layers, kind="softmax"):
  return EncoderSpec(192, (LayerSpec(kind, 48 // layers, 16, 384),) * layers)


def test_heads_are_no_genes_and_always_add_up():
  assert not [gene for gene in SPACE.genes if "heads" in gene.name] and SPACE.heads == (8, 12, 16, 24, 48)
  for genes in np.asarray(SPACE.sample(jax.random.key(0), 50)):
    spec = SPACE.decode(genes)
    assert sum(layer.num_heads for layer in spec.layers) == 48 and len({layer.num_heads for layer in spec.layers}) == 1
    np.testing.assert_array_equal(SPACE.encode(spec), genes)


def test_reading_is_what_decode_says():
  genes = SPACE.sample(jax.random.key(1), 30)
  reading = jax.jit(SPACE.read)(genes)
  for i, spec in enumerate(map(SPACE.decode, np.asarray(genes))):
    for number, layer in enumerate(spec.layers):
      assert SPACE.heads[reading.heads[i, number]] == layer.num_heads
      assert SPACE.kinds[reading.kind[i, number]] == layer.kind
      assert SPACE.ffn_dim[reading.ffn[i, number]] == layer.ffn_dim


@pytest.mark.parametrize("kind", ["softmax", "linear"])
@pytest.mark.parametrize("layers", [2, 3, 6])
def test_the_trade_costs_what_layers_have_beside_heads(kind, layers):
  """Every layer more costs its MLP, two norms and the bias of an output; heads cost the same wherever they are."""
  one, many = NET.count_spec(shape(1, kind)), NET.count_spec(shape(layers, kind))
  assert many.products - one.products == (layers - 1) * 2 * NET.length * 192 * 384
  assert many.params - one.params == (layers - 1) * (2 * 192 * 384 + 384 + 192 + 4 * 192 + 192)


@pytest.mark.parametrize("fields, message", [
    ({"num_heads": (2,)}, "either num_heads or head_budget"),
    ({"head_budget": 0}, "either num_heads or head_budget"),
    ({"depth": (1, 5)}, "head_budget=48: every depth of .1, 5. must divide it")])
def test_budgets_that_make_no_space_are_refused(fields, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(SPACE, **fields)


def test_another_sum_is_refused():
  spec = shape(2)
  with pytest.raises(UserError, match="head_budget 48 for 2 layers"):
    SPACE.encode(dataclasses.replace(spec, layers=(dataclasses.replace(spec.layers[0], num_heads=12),) * 2))


def test_any_encoder_space_can_have_a_budget():
  space = Encoder(depth=(2, 4), num_heads=(), head_budget=8)
  assert {layer.num_heads for layer in space.decode(np.zeros(space.num_genes, int)).layers} == {4}
