import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.ops import masks


def _normal(*shape):
  return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def test_leading():
  assert [masks.leading(3, jnp.array(n)).tolist() for n in (0, 2, 3)] == [[False] * 3, [True, True, False], [True] * 3]


def test_accumulator_is_float32_unless_the_input_is_wider():
  with jax.enable_x64(True):
    types = [masks.accumulator(jnp.zeros(1, t)) for t in (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)]
  assert types == [jnp.float32, jnp.float32, jnp.float32, jnp.float64]


def test_zero():
  x, keep = jnp.ones((2, 3)), jnp.array([True, False, True])
  assert masks.zero(x, keep).tolist() == [[1, 0, 1]] * 2
  assert masks.zero(x, None) is x


def test_layer_norm_equals_its_formula():
  x, scale, bias = (np.asarray(a, np.float64) for a in (3 + _normal(2, 5, 8), _normal(8), _normal(1, 8)[0]))
  mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  with jax.enable_x64(True):
    out = masks.layer_norm(*map(jnp.asarray, (x, scale, bias)), epsilon=1e-3)
  np.testing.assert_allclose(out, scale * (x - mean) / np.sqrt(variance + 1e-3) + bias, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("alive", [1, 5, 8])
def test_masked_layer_norm_equals_sliced(alive):
  keep = jnp.arange(8) < alive
  x, scale, bias, slope = _normal(2, 8), _normal(8), _normal(1, 8)[0], _normal(2, 8)

  def loss(inputs, size, keep=None):
    out = masks.layer_norm(masks.zero(inputs[0], keep), *inputs[1:], keep)
    return (out * slope[:, :size]).sum(), out

  whole, out = jax.jit(jax.grad(lambda i: loss(i, 8, keep), has_aux=True))((x, scale, bias))
  small = tuple(a[..., :alive] for a in (x, scale, bias))
  cut, want = jax.jit(jax.grad(lambda i: loss(i, alive), has_aux=True))(small)
  for got, expected in ((out, want), *zip(whole, cut)):
    np.testing.assert_allclose(got[..., :alive], expected, rtol=1e-4, atol=1e-5)
    assert not got[..., alive:].any()


def test_layer_norm_of_a_constant_and_of_half_precision():
  ones = jnp.ones(4)
  assert (masks.layer_norm(jnp.full((1, 4), 7.0), ones, 2 * ones) == 2).all()
  x = _normal(2, 4)
  half = masks.layer_norm(x.astype(jnp.bfloat16), ones, ones)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(jnp.float32), masks.layer_norm(x, ones, ones), rtol=2e-2, atol=2e-2)


MASK = np.array([[True, True, True], [False, True, True], [False, True, False], [False] * 3])


def test_softmax_equals_its_formula():
  logits = np.asarray(_normal(4, 3), np.float64)
  weights = np.exp(logits)
  np.testing.assert_allclose(masks.softmax(jnp.asarray(logits, jnp.float32), None),
                             weights / weights.sum(-1, keepdims=True), rtol=1e-5)
  weights *= MASK
  want = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-9)
  out = masks.softmax(jnp.asarray(logits, jnp.float32), jnp.asarray(MASK))
  np.testing.assert_allclose(out, want, rtol=1e-5)
  assert not out[~MASK].any()


@pytest.mark.parametrize("scale", [0, 1e3, 1e8])
def test_gradients_of_softmax_are_finite_and_zero_at_hidden_logits(scale):
  slope = 1e20 * _normal(4, 3)
  grads = jax.grad(lambda x: (slope * masks.softmax(x, jnp.asarray(MASK))).sum())(scale * _normal(4, 3))
  assert jnp.isfinite(grads).all() and not grads[~MASK].any()


@pytest.mark.parametrize("queries, keys", [(1, 1), (4, 4), (2, 5), (5, 2)])
def test_causal_queries_are_the_last_positions(queries, keys):
  want = [[j <= i + keys - queries for j in range(keys)] for i in range(queries)]
  assert masks.causal(queries, keys).tolist() == want


@pytest.mark.parametrize("is_causal, given", [*itertools.product([False, True], repeat=2)])
def test_visible_joins_both_masks(is_causal, given):
  key_mask = jnp.array([[True, True, False], [True, False, True]])
  mask = masks.visible(key_mask if given else None, is_causal, 2, 3)
  if not (is_causal or given):
    assert mask is None
    return
  want = np.ones((2, 2, 3), bool)
  if given:
    want &= np.asarray(key_mask)[:, None]
  if is_causal:
    want &= [[True, True, False], [True, True, True]]
  np.testing.assert_array_equal(np.broadcast_to(mask, (2, 1, 2, 3))[:, 0], want)
