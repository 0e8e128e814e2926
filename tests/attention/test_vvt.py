import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Context, Sizes
from nasformer.attention.vicinity import Vicinity
from nasformer.attention.vvt import Vvt
from nasformer.types import UserError

SIZES = Sizes(6, 3, 4, grid=(2, 3))
# Of the four released models: depths and MLP ratios of their stages, and millions of parameters.
STAGES = {"tiny": ((2, 2, 2, 2), (8, 8, 4, 4), 12.88), "small": ((3, 3, 9, 3), (8, 8, 4, 4), 25.49),
          "medium": ((3, 3, 27, 3), (8, 8, 4, 4), 47.91), "large": ((4, 4, 36, 4), (4, 4, 4, 4), 61.85)}


def _draw(kind, length=7):
  rng = np.random.default_rng(0)
  normal = lambda *shape: np.float32(rng.normal(size=shape))
  return {name: normal(*tensor.shape) for name, tensor in kind.params(SIZES).items()}, normal(3, length, 6)


def test_it_is_narrower_vicinity_attention_and_a_gate():
  params, x = _draw(Vvt())
  mask = jnp.arange(7) < jnp.array([7, 4, 0])[:, None]
  context = Context(mask, mask, grid=(2, 3))
  (core, _), (out, carry) = jax.jit(lambda p, x: [kind(p, x, x, context) for kind in (Vicinity(), Vvt())])(params, x)
  for b, length in enumerate((7, 4)):
    mean = x[b, :length].mean(0)
    gate = 1 / (1 + np.exp(-np.maximum(mean @ params["gate_in"], 0) @ params["gate_out"]))
    np.testing.assert_allclose(out[b], core[b] * (1 + gate), rtol=1e-4, atol=1e-5)
  assert carry is None and not out[2].any()


def test_heads_are_narrower():
  declared = Vvt(reduction=4).params(SIZES)
  assert declared["query"].shape == (6, 3, 1) and declared["out"].shape == (3, 1, 6)
  assert declared["gate_in"].shape == declared["gate_out"].shape == (6, 6)
  assert declared["gate_in"].axes == ("embed", "embed")


def test_padding_does_not_reach_the_gate():
  params, x = _draw(Vvt(), 6)
  mask = jnp.arange(6) < jnp.array([3, 6, 6])[:, None]
  run = jax.jit(lambda params, x: Vvt()(params, x, x, Context(mask, mask, grid=(2, 3)))[0])
  np.testing.assert_array_equal(run(params, np.where(mask[..., None], x, 1e4)), run(params, x))


@pytest.mark.parametrize("name", STAGES)
def test_parameters_of_the_released_models(name):
  """Patch embeddings (7x7, then 3x3) with norms, blocks of two norms, attention, and an MLP with a depthwise 3x3
  convolution; a norm after each stage; and a linear head for 1000 classes."""
  depths, ratios, millions = STAGES[name]
  widths, heads = (96, 160, 320, 512), (1, 2, 5, 8)
  total, source, kernel = 512 * 1000 + 1000, 3, 7
  for depth, width, number, ratio in zip(depths, widths, heads, ratios, strict=True):
    total += kernel**2 * source * width + width + 2 * width + 2 * width
    attention = Vvt().count(Sizes(width, number, width // number, grid=(1, 1)), 1, 1).params
    hidden = ratio * width
    total += depth * (attention + 4 * width + 2 * width * hidden + hidden + width + 9 * hidden + hidden)
    source, kernel = width, 3
  assert round(total / 1e6, 2) == pytest.approx(millions, abs=0.011)


@pytest.mark.parametrize("length, products", [(128, 8_912_896), (1024, 71_303_168)])
def test_reference_counts_of_the_core(length, products):
  """Heads of 64 become 32 wide: H (n + m) 4d (d + 1) and 4 H (n + m) d by element, with d = 32."""
  sizes = Sizes(512, 8, 64, grid=(length, 1))
  whole = Vvt().count(sizes, length, length)
  projections, gate = 4 * length * 512 * 256, 2 * 512**2
  assert whole.products - projections - gate + (whole.elementwise - length * 512) == products


def test_reduction_must_divide_the_heads():
  with pytest.raises(UserError, match="vvt.reduction=3 does not divide heads of width 4"):
    Vvt(reduction=3).params(SIZES)


def test_clamps_of_the_output_by_hand():
  """Without values it is the bias, kept between 1e-4 and 1e4 before the gate, here of 1 + 1/2, and after it."""
  params, x = jax.tree.map(np.zeros_like, _draw(Vvt()))
  params["out_bias"] = np.float32([1e-6, -1e-6, 9e3, -2e4, 0.5, 0])
  out, _ = jax.jit(lambda p, x: Vvt(reference_clamps=True)(p, x, x, Context(grid=(2, 3))))(params, x)
  np.testing.assert_allclose(out, np.broadcast_to([1.5e-4, -1.5e-4, 1e4, -1e4, 0.75, 0], x.shape), rtol=1e-6)


def test_equals_the_definition_in_double_precision(check_slopes):
  """Values and gradients by everything, with a row of padding only."""
  inputs, mask = jax.tree.map(np.float64, _draw(Vvt())), np.arange(7) < np.array([7, 4, 0])[:, None]
  slope = np.random.default_rng(1).normal(size=(3, 7, 6))
  context = Context(jnp.asarray(mask), jnp.asarray(mask), grid=(2, 3))

  def dense(inputs):
    p, x = inputs
    mean = (x * mask[..., None]).sum(1) / np.maximum(mask.sum(1, keepdims=True), 1)
    gate = 1 / (1 + np.exp(-np.maximum(mean @ p["gate_in"], 0) @ p["gate_out"]))
    heads = lambda name: np.einsum("btd,dnh->btnh", x, p[name]) + p[f"{name}_bias"]
    q, k, v = np.maximum(heads("query"), 0), np.maximum(heads("key"), 0), heads("value")
    places = np.array([[0, 0], *np.ndindex(2, 3)]) / [2, 3]
    near = np.cos(np.pi / 2 * (places[:, None] - places)).sum(-1)
    near[0] = near[:, 0] = 2  # a class token
    w = np.einsum("btnh,bsnh->bnts", q, k) * near * mask[:, None, None]
    out = np.einsum("bnts,bsne->btne", w / (w.sum(-1, keepdims=True) + 1e-4), v)
    return (np.einsum("btne,ned->btd", out, p["out"]) + p["out_bias"]) * mask[..., None] * (1 + gate[:, None])

  def loss(p, x):
    out = Vvt()(p, x, x, context)[0]
    return (out * slope).sum(), out

  with jax.enable_x64(True):
    grads, out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(*inputs)
  np.testing.assert_allclose(out, dense(inputs), rtol=1e-10, atol=1e-12)
  check_slopes(grads, dense, inputs, slope)
