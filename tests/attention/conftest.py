"""Dense references: every core is o_i = Σ_j w_ij v_j / divisor(Σ_j w_ij), with its own w, here written out."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Context, Sizes

BATCH, SIZES, VALUE_DIM = 4, Sizes(embed_dim=12, num_heads=3, head_dim=4), 5


class Case(NamedTuple):
  queries: int
  keys: int
  causal: bool


CASES = [Case(2, 7, False), Case(3, 8, True), Case(8, 3, True)]
MORE = [Case(1, 1, False), Case(7, 2, False)]
SQUARE = [Case(6, 6, False), Case(9, 9, True)]


@pytest.fixture(params=[*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)],
                ids=lambda case: f"{case.queries}x{case.keys}{'-causal' * case.causal}")
def case(request):
  return request.param


def dense(xp, weights, divisor, case, inputs, length_q, length_k):
  """The reference; xp is numpy, or jax.numpy to be differentiated."""
  params, q, k, v = inputs
  seen = [[[j < length and (not case.causal or j <= i + case.keys - case.queries) for j in range(case.keys)]
           for i in range(case.queries)] for length in length_k]
  w = weights(xp, params, q, k, case, np.array(length_q), np.array(length_k)) * np.array(seen)[:, None]
  return xp.einsum("bnts,bsne->btne", w, v) / xp.moveaxis(divisor(xp, w.sum(-1)), 1, 2)[..., None]


def draw(kind, case, seed=0):
  """Random (core parameters, q, k, v) in float64."""
  rng = np.random.default_rng(seed)
  heads = (SIZES.num_heads, SIZES.head_dim)
  params = {name: rng.normal(size=tensor.shape) for name, tensor in kind.core_params(SIZES).items()}
  return (params, rng.normal(size=(BATCH, case.queries, *heads)), rng.normal(size=(BATCH, case.keys, *heads)),
          rng.normal(size=(BATCH, case.keys, SIZES.num_heads, VALUE_DIM)))


def lengths(case):
  """Real lengths of the examples: the whole, a part of either, and one without any real key."""
  queries, keys = case.queries, case.keys
  return [queries, queries, (queries + 1) // 2, queries], [keys, (keys + 1) // 2, keys, 0]


def mask(length, size):
  return jnp.arange(size) < jnp.array(length)[:, None]


def attend(kind, case, inputs, length_q, length_k):
  """What the kind itself says, given lengths or None."""
  context = Context(None if length_q is None else mask(length_q, case.queries),
                    None if length_k is None else mask(length_k, case.keys), causal=case.causal)
  return kind.attend(*inputs, context)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def dense_slopes(weights, divisor, case, inputs, slope):
  """Gradients of Σ slope · reference; forms of one kind share the program."""
  return jax.grad(lambda i: (slope * dense(jnp, weights, divisor, case, i, *lengths(case))).sum())(inputs)


@pytest.fixture
def check_dense():
  """Function that compares a kind with its dense form in float64: values with and without masks, and gradients."""

  def check(kind, weights, divisor, case):
    inputs = draw(kind, case)
    part_q, part_k = lengths(case)
    modes = ((None, None), (None, part_k), (part_q, part_k))
    slope = np.random.default_rng(1).normal(size=(BATCH, case.queries, SIZES.num_heads, VALUE_DIM))
    slope *= np.asarray(mask(part_q, case.queries))[..., None, None]

    @jax.jit
    def everything(inputs):
      outs = [attend(kind, case, inputs, *mode) for mode in modes]
      return outs, jax.grad(lambda i: (slope * attend(kind, case, i, *modes[2])).sum())(inputs)

    with jax.enable_x64(True):
      outs, *grads = *everything(inputs), dense_slopes(weights, divisor, case, inputs, slope)
    for out, (length_q, length_k) in zip(outs, modes):
      compare(out, weights, divisor, case, inputs, length_q, length_k, rtol=1e-10, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), *grads)

  return check


@pytest.fixture
def check_precision():
  """Function that compares a kind in float32 and in bfloat16 with its dense form in float64."""

  def check(kind, weights, divisor):
    for case in SQUARE:
      length_q, length_k = lengths(case)
      for dtype, rtol, atol in ((jnp.float32, 1e-4, 1e-5), (jnp.bfloat16, 2e-2, 2e-2)):
        inputs = jax.tree.map(lambda x: jnp.asarray(x, dtype), draw(kind, case))
        out = jax.jit(lambda i: attend(kind, case, i, length_q, length_k))(inputs)
        assert out.dtype == dtype
        exact = jax.tree.map(lambda x: np.asarray(x, np.float64), inputs)
        compare(out, weights, divisor, case, exact, length_q, length_k, rtol, atol)

  return check


def compare(out, weights, divisor, case, inputs, length_q, length_k, rtol, atol):
  """Rows of real queries equal the dense form, and are exactly zero where there is no key to see."""
  length_q, length_k = length_q or [case.queries] * BATCH, length_k or [case.keys] * BATCH
  out, real = np.asarray(out, np.float64), np.asarray(mask(length_q, case.queries))
  want = dense(np, weights, divisor, case, inputs, length_q, length_k)
  np.testing.assert_allclose(out[real], want[real], rtol, atol)
  blind = np.array(length_k)[:, None] == 0
  if case.causal:
    blind = blind | (np.arange(case.queries) < case.queries - case.keys)
  np.testing.assert_array_equal(out[np.broadcast_to(blind, real.shape)], 0)
