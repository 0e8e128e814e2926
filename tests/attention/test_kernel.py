import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import kernel
from nasformer.attention.base import Context
from nasformer.attention.cosformer import CosFormer
from nasformer.attention.kernel import Rows, causal_sums, full_sums, kernel_count
from nasformer.attention.vicinity import Vicinity

HEADS, FEATURES, VALUE_DIM = 2, 3, 4


def _draw(queries, keys):
  rng = np.random.default_rng(queries * 100 + keys)
  mask = rng.random((2, keys)) < 0.7
  return (rng.random((2, queries, HEADS, FEATURES)), rng.random((2, keys, HEADS, FEATURES)),
          rng.normal(size=(2, keys, HEADS, VALUE_DIM)), mask)


def _naive(phi_q, phi_k, v, mask, causal):
  """The sums over visible keys, pair by pair."""
  out = np.zeros((*phi_q.shape[:3], v.shape[-1]))
  offset = phi_k.shape[1] - phi_q.shape[1]
  for b, i, n in np.ndindex(phi_q.shape[:3]):
    seen = [j for j in range(phi_k.shape[1]) if mask[b, j] and (not causal or j <= i + offset)]
    weights = [phi_q[b, i, n] @ phi_k[b, j, n] for j in seen]
    if seen:
      out[b, i, n] = sum(w * v[b, j, n] for w, j in zip(weights, seen)) / (sum(weights) + 1e-6)
  return out


def _sums(phi_q, phi_k, v, mask, causal):
  rows = [Rows(x, jnp.arange(x.shape[1]), lambda x, at: x.astype(jnp.promote_types(x.dtype, jnp.float32)))
          for x in (phi_q, phi_k)]
  return (causal_sums if causal else full_sums)(*rows, v, mask)


@functools.partial(jax.jit, static_argnames=("causal", "chunk"))  # a chunk is constant at tracing
def _apply(*inputs, causal, chunk=None):
  numerator, denominator = _sums(*inputs, causal)
  return numerator / (denominator + 1e-6)[..., None]


@pytest.mark.parametrize("queries, keys", [(1, 1), (9, 9), (6, 16), (10, 3)])
def test_both_forms_equal_the_sums_in_float64(queries, keys, monkeypatch):
  inputs, longer = _draw(queries, keys), max(queries, keys)
  with jax.enable_x64(True):
    for chunk in (1,) if longer == 1 else (1, 7, longer, longer + 5):
      monkeypatch.setattr(kernel, "CHUNK", chunk)
      monkeypatch.setattr(kernel, "BLOCK", chunk)
      for causal in (False, True):
        out = _apply(*inputs, causal=causal, chunk=chunk)
        np.testing.assert_allclose(out, _naive(*inputs, causal), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_pieces_are_those_of_the_whole(causal, monkeypatch):
  """Backward and forward: a derivative along a direction is the gradient times it."""
  *inputs, mask = _draw(7, 9)
  slope = _draw(7, 9)[:3]

  def slopes():
    loss = lambda inputs: jnp.square(_sums(*inputs, jnp.asarray(mask), causal)[0]).sum()
    return jax.jit(jax.grad(loss))(inputs), jax.jit(lambda x: jax.jvp(loss, (x,), (list(slope),))[1])(inputs)

  with jax.enable_x64(True):
    whole, along = slopes()
    monkeypatch.setattr(kernel, "CHUNK", 4)
    monkeypatch.setattr(kernel, "BLOCK", 4)
    pieces, along_pieces = slopes()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), pieces, whole)
  np.testing.assert_allclose([along_pieces, along], sum(np.vdot(g, s) for g, s in zip(whole, slope)), rtol=1e-10)


def test_keys_may_come_in_any_order_with_their_positions():
  """In a sequence, and on a grid."""
  order, mask = np.random.default_rng(1).permutation(12), jnp.arange(12) < jnp.array([[12], [7]])
  grid, lengths = (3, 4), mask.sum(1, keepdims=True)
  kinds = (CosFormer(), None, lengths), (Vicinity("sum"), grid, grid), (Vicinity("product"), grid, grid)

  def both(kind, grid, length, q, k, v):
    """Attention of the kind, and what its features say at positions in another order."""
    phi = lambda x, at: kind.phi({}, x, at, length)
    rows = Rows(q, jnp.arange(12), phi), Rows(k[:, order], jnp.asarray(order), phi)
    numerator, total = full_sums(*rows, v[:, order], mask[:, order])
    return kind.attend({}, q, k, v, Context(mask, mask, grid=grid)), numerator / kind.divisor(total)[..., None]

  inputs = np.random.default_rng(0).normal(size=(3, 2, 12, HEADS, FEATURES))
  with jax.enable_x64(True):
    for whole, shuffled in jax.jit(lambda *inputs: [both(*kind, *inputs) for kind in kinds])(*inputs):
      np.testing.assert_allclose(shuffled, whole, rtol=1e-10, atol=1e-12)


def test_a_huge_key_leaves_earlier_queries_of_its_chunk_alone(monkeypatch):
  """States before a chunk must not come from a difference: 1e12 would take all digits of the rest with it."""
  monkeypatch.setattr(kernel, "CHUNK", 4)
  phi_q, phi_k, v, _ = (jnp.asarray(x, jnp.float32) for x in _draw(12, 12))
  attend = lambda k: _apply(phi_q, k, v, None, causal=True, chunk="huge")
  np.testing.assert_array_equal(attend(phi_k.at[:, 7].set(1e12))[:, :7], attend(phi_k)[:, :7])


def test_half_precision_is_summed_in_float32():
  """Ones would stop adding up at 256 in bfloat16."""
  ones = jnp.ones((1, 1000, 1, 1), jnp.bfloat16)
  out = _apply(ones, ones, ones, None, causal=True)
  assert out.dtype == jnp.float32 and abs(out - 1).max() < 1e-5


@pytest.mark.parametrize("queries, keys, causal", [
    (5, 9, False), (9, 5, False), (1, 1, True), (63, 63, True), (65, 65, True), (10, 200, True), (9, 5, True),
    (600, 1100, False)])
def test_count_equals_what_is_done(count_products, queries, keys, causal):
  shapes = [jax.ShapeDtypeStruct((1, length, HEADS, width), jnp.float32)
            for length, width in ((queries, FEATURES), (keys, FEATURES), (keys, VALUE_DIM))]
  done = count_products(lambda *x: _sums(*x, None, causal), *shapes)
  count = kernel_count(HEADS, queries, keys, FEATURES, VALUE_DIM, causal)
  assert (count.params, count.products, count.elementwise) == (0, done, 0)
