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

KINDS = {"softmax": Softmax(), "relative": SoftmaxRelative(max_distance=3)}
HEADS, HEAD_DIM, VALUE_DIM = 3, 4, 5
CASES = [(5, 14, False), (14, 5, False), (5, 14, True), (14, 5, True),
         *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 9, False), (9, 9, False), (9, 9, True)))]
over_cases = pytest.mark.parametrize("queries, keys, causal", CASES)
over_kinds = pytest.mark.parametrize("name", KINDS)


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


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def run(name, inputs, mask, causal, long, copies=1):
  """Values, and gradients of a loss."""
  before, softmax.LONG = softmax.LONG, 0 if long else 10**9
  try:
    attend = lambda inputs: KINDS[name].attend(*inputs, Context(key_mask=mask, causal=causal, copies=copies))

    def loss(inputs):
      out = attend(inputs)
      return (jnp.sin(out) * jnp.arange(VALUE_DIM)).sum(), out

    slopes, out = jax.grad(loss, has_aux=True)(inputs)
    return out, slopes
  finally:
    softmax.LONG = before


def close(got, want, rtol=1e-10):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, rtol / 10), got, want)


@over_kinds
@over_cases
def test_blocks_give_the_dense_form(name, queries, keys, causal):
  inputs, mask = draw(name, queries, keys)
  with jax.enable_x64(True):
    for seen in (None, mask):
      dense = np.ones_like(mask) if seen is None else seen
      close(run(name, inputs, seen, causal, True), run(name, inputs, dense, causal, False))


@over_kinds
def test_positions_begin_anew_in_every_copy(name):
  inputs, mask = draw(name, 5, 12)
  with jax.enable_x64(True):
    close(run(name, inputs, mask, False, True, 3), run(name, inputs, mask, False, False, 3))


def test_rows_without_a_key_are_zero():
  inputs, mask = draw("softmax", 9, 9)
  out, grads = run("softmax", jax.tree.map(jnp.float32, inputs), mask, True, True)
  assert not out[2].any() and out[:2].any() and all(np.isfinite(g).all() and not g[2].any() for g in grads[1:])


def test_nothing_leaks_from_the_future():
  (params, q, k, v), _ = draw("softmax", 14, 14)
  inputs = jax.tree.map(jnp.float32, (params, q, k, v))
  out, _ = run("softmax", inputs, None, True, True)
  for first in (1, 6, 13):
    wild = [np.where(np.arange(14)[:, None, None] >= first, 1e4, x) for x in inputs[1:]]
    np.testing.assert_array_equal(run("softmax", (params, *wild), None, True, True)[0][:, :first], out[:, :first])


def test_extreme_logits_stay_finite():
  inputs, mask = draw("softmax", 9, 9)
  large = jax.tree.map(lambda x: jnp.float32(1e3 * x), inputs)
  got, want = (run("softmax", large, mask, False, long) for long in (True, False))
  close(got[0], want[0], 1e-4)
  assert all(np.isfinite(g).all() for g in got[1][1:])


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_less_precision(dtype, tolerance):
  inputs, mask = draw("relative", 9, 9)
  rough = jax.tree.map(lambda x: jnp.asarray(x, dtype), inputs)
  out, grads = run("relative", rough, mask, True, True)
  assert all(leaf.dtype == dtype for leaf in jax.tree.leaves((out, grads)))
  with jax.enable_x64(True):
    exact = run("relative", jax.tree.map(lambda x: np.asarray(x, np.float64), rough), mask, True, False)
  for got, want in zip(jax.tree.leaves((out, grads)), jax.tree.leaves(exact), strict=True):
    assert np.abs(np.asarray(got, np.float64) - want).max() < tolerance * max(1, np.abs(want).max())


def test_a_batch_of_one_at_a_time():
  """Under vmap too."""
  inputs, mask = draw("relative", 9, 9)
  one = lambda q, k, v, mask: KINDS["relative"].attend(inputs[0], q[None], k[None], v[None], Context(key_mask=mask[None]))
  with jax.enable_x64(True):
    want, _ = run("relative", inputs, mask, False, False)
    close(jax.jit(jax.vmap(lambda *x: one(*x)[0]))(*inputs[1:], mask), want)


@pytest.mark.parametrize("queries, keys, causal", [(1024, 1024, True), (1030, 1030, True), (600, 1500, False)])
def test_count_equals_what_is_done(count_products, monkeypatch, queries, keys, causal):
  monkeypatch.setattr(online, "BLOCK", 512)
  shape = lambda length: jax.ShapeDtypeStruct((1, length, 2, 3), jnp.float32)
  attend = lambda *inputs: Softmax().attend({}, *inputs, Context(causal=causal))
  done = count_products(attend, shape(queries), shape(keys), shape(keys))
  assert Softmax().core_count(Sizes(6, 2, 3), queries, keys, causal).products == done


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
