"""The block-by-block form is the dense one, whatever the bias."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import online, softmax
from nasformer.attention.base import Context, Sizes
from nasformer.attention.softmax import Softmax
from nasformer.attention.softmax_relative import SoftmaxRelative
from nasformer.attention.softmax_t5 import SoftmaxT5, bucket

KINDS = {"softmax": Softmax(), "relative": SoftmaxRelative(max_distance=3), "t5": SoftmaxT5(8, 6)}
HEADS, HEAD_DIM, VALUE_DIM = 3, 4, 5
CASES = [(5, 14, False), (14, 5, False), (5, 14, True), (14, 5, True)]
MORE = [(1, 9, False), (9, 9, False), (9, 9, True)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(online, "BLOCK", 4)


def draw(name, queries, keys, batch=3):
  """(parameters, q, k, v) of float64, and a mask that leaves one example no key."""
  rng = np.random.default_rng(queries * 100 + keys)
  normal = lambda *shape: rng.normal(size=shape)
  own = KINDS[name].core_params(Sizes(HEADS * HEAD_DIM, HEADS, HEAD_DIM))
  inputs = ({role: normal(*tensor.shape) for role, tensor in own.items()}, normal(batch, queries, HEADS, HEAD_DIM),
            normal(batch, keys, HEADS, HEAD_DIM), normal(batch, keys, HEADS, VALUE_DIM))
  return inputs, np.arange(keys) < np.array([keys, keys // 2, 0])[:batch, None]


def slope_of(q):
  return np.random.default_rng(1).normal(size=(*q.shape[:3], VALUE_DIM))


@functools.partial(jax.jit, static_argnames=("name", "causal", "copies"))
def run(name, inputs, masks, causal, copies=1):
  """Block by block: (gradients of Σ slope · out, out) with each of the masks."""

  def loss(inputs, mask):
    out = KINDS[name].attend(*inputs, Context(key_mask=mask, causal=causal, copies=copies))
    return (slope_of(inputs[1]) * out).sum(), out

  before, softmax.LONG = softmax.LONG, 0
  try:
    return [jax.grad(loss, has_aux=True)(inputs, mask) for mask in masks]
  finally:
    softmax.LONG = before


def dense(name, inputs, mask, causal, copies=1):
  """The definition, with all weights; positions begin anew in every copy."""
  params, q, k, v = inputs
  queries, keys = q.shape[1], k.shape[1]
  lag = np.arange(keys) % (keys // copies) - (np.arange(queries) + (keys - queries if causal else 0))[:, None]
  logits = np.einsum("btnh,bsnh->bnts", q, k) / HEAD_DIM**0.5
  if name == "relative":
    logits = logits + np.einsum("btnh,tsh->bnts", q, params["relative"][np.clip(lag, -3, 3) + 3]) / HEAD_DIM**0.5
  if name == "t5":
    logits = logits + params["distance_bias"][:, bucket(lag, causal, 8, 6)]
  sees = mask[:, None, None] & ((lag <= 0) | (not causal))
  largest = np.where(sees, logits.real, -1e300).max(-1, keepdims=True)
  w = np.exp(np.where(sees, logits - largest, 0)) * sees
  return np.einsum("bnts,bsne->btne", w / np.where(sees.any(-1), w.sum(-1), 1)[..., None], v)


def close(got, want, rtol=1e-10):
  np.testing.assert_allclose(got, want, rtol, rtol / 10)


@pytest.mark.parametrize("name, queries, keys, causal", [
    pytest.param(name, *case, marks=() if case in (CASES[1:3] if name == "softmax" else CASES) else pytest.mark.slow)
    for name in KINDS for case in CASES + MORE])
def test_blocks_give_the_dense_form(check_slopes, name, queries, keys, causal):
  inputs, mask = draw(name, queries, keys)
  with jax.enable_x64(True):
    both = run(name, inputs, (None, mask), causal)
  for seen, (grads, out) in zip((np.ones_like(mask), mask), both):
    right = lambda inputs, seen=seen: dense(name, inputs, seen, causal)
    close(out, right(inputs))
    check_slopes(grads, right, inputs, slope_of(inputs[1]))


@pytest.mark.parametrize("name", ["softmax", "relative"])  # T5 has no bias where there are copies
def test_positions_begin_anew_in_every_copy(check_slopes, name):
  inputs, mask = draw(name, 5, 12)
  with jax.enable_x64(True):
    (grads, out), = run(name, inputs, (mask,), False, 3)
  right = lambda inputs: dense(name, inputs, mask, False, 3)
  close(out, right(inputs))
  check_slopes(grads, right, inputs, slope_of(inputs[1]))


def test_rows_without_a_key_are_zero():
  inputs, mask = draw("softmax", 9, 9)
  (grads, out), = run("softmax", jax.tree.map(np.float32, inputs), (mask,), True)
  assert not out[2].any() and out[:2].any() and all(np.isfinite(g).all() and not g[2].any() for g in grads[1:])


def test_nothing_leaks_from_the_future():
  (params, *inputs), mask = draw("softmax", 9, 9)
  said = lambda inputs: run("softmax", (params, *map(np.float32, inputs)), (np.ones_like(mask),), True)[0][1]
  for first in (1, 4, 6, 8):
    wild = [np.where(np.arange(9)[:, None, None] >= first, 1e4, x) for x in inputs]
    np.testing.assert_array_equal(said(wild)[:, :first], said(inputs)[:, :first])


def test_extreme_logits_stay_finite():
  inputs, mask = draw("softmax", 9, 9)
  large = jax.tree.map(lambda x: np.float32(1e3 * x), inputs)
  (grads, out), = run("softmax", large, (mask,), False)
  close(out, dense("softmax", jax.tree.map(np.float64, large), mask, False), 1e-4)
  assert all(np.isfinite(g).all() for g in grads[1:])


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_less_precision(dtype, tolerance):
  """Of what is compared with the dense form in double precision."""
  inputs, mask = draw("relative", 9, 9)
  rough = jax.tree.map(lambda x: np.asarray(x, dtype), inputs)
  got = run("relative", rough, (mask,), True)
  assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(got))
  with jax.enable_x64(True):
    exact = run("relative", jax.tree.map(np.float64, rough), (mask,), True)
  for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
    assert np.abs(np.asarray(one, np.float64) - two).max() < tolerance * max(1, np.abs(two).max())


def test_a_batch_of_one_at_a_time():
  """Under vmap too."""
  (own, *inputs), mask = draw("relative", 9, 9)

  def one(own, q, k, v, mask):
    return KINDS["relative"].attend(own, q[None], k[None], v[None], Context(key_mask=mask[None]))[0]

  with jax.enable_x64(True):
    got = jax.jit(jax.vmap(one, (None, 0, 0, 0, 0)))(own, *inputs, mask)
  close(got, dense("relative", (own, *inputs), mask, False))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("queries, keys, causal", [(1024, 1024, True), (1030, 1030, True), (600, 1500, False)])
def test_count_equals_what_is_done(count_products, monkeypatch, name, queries, keys, causal):
  monkeypatch.setattr(online, "BLOCK", 512)
  shape, sizes = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32), Sizes(6, 2, 3)
  params = {role: shape(*tensor.shape) for role, tensor in KINDS[name].core_params(sizes).items()}
  attend = lambda *inputs: KINDS[name].attend(*inputs, Context(causal=causal))
  done = count_products(attend, params, *(shape(1, length, 2, 3) for length in (queries, keys, keys)))
  assert KINDS[name].core_count(sizes, queries, keys, causal).products == done


def test_memory_is_linear_in_the_length(monkeypatch):
  """The weights of 2048 x 2048 alone would take 16 MB per head; nothing is computed here."""
  monkeypatch.setattr(online, "BLOCK", 512)
  shape = jax.ShapeDtypeStruct((1, 2048, 1, 8), jnp.float32)
  loss = lambda q, k, v: Softmax().attend({}, q, k, v, Context(causal=True)).sum()
  memory = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 2**23


def test_dropout_takes_the_dense_form():
  """Which knows all weights: half of them are gone, so a row of ones is seldom one."""
  q = jnp.ones((1, 1024, 1, 2))
  context = Context(dropout_key=jax.random.key(0), dropout=jnp.float32(0.5))
  out = jax.jit(lambda x: Softmax().attend({}, x, x, x, context))(q)
  assert 0.9 < out.mean() < 1.1 and (out != 1).mean() > 0.9
