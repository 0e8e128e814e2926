"""Dense references: every core is o_i = Σ_j w_ij v_j / divisor(Σ_j w_ij), with its own w, here written out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import kernel
from nasformer.attention.base import Context, Sizes

BATCH, SIZES, VALUE_DIM = 4, Sizes(embed_dim=12, num_heads=3, head_dim=4), 5


class Case(NamedTuple):
  queries: int
  keys: int
  causal: bool


CONSTANT = 2.5  # one channel of all values
CASES = [Case(2, 7, False), Case(3, 8, True), Case(8, 3, True)]
MORE = [Case(1, 1, False), Case(7, 2, False)]
TOLERANCES = {"float64": (1e-10, 1e-12), "float32": (1e-4, 1e-5), "bfloat16": (2e-2, 2e-2)}
SQUARE = [Case(7, 7, False), Case(10, 10, True)]


@pytest.fixture(params=[*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)],
                ids=lambda case: f"{case.queries}x{case.keys}{'-causal' * case.causal}")
def case(request):
  return request.param


def dense(xp, weights, divisor, case, inputs, length_q, length_k):
  """The reference."""
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
  v = rng.normal(size=(BATCH, case.keys, SIZES.num_heads, VALUE_DIM))
  v[..., 0] = CONSTANT
  return params, rng.normal(size=(BATCH, case.queries, *heads)), rng.normal(size=(BATCH, case.keys, *heads)), v


def lengths(case):
  """Real lengths of the examples: the whole, a part of either, and one without any real key."""
  queries, keys = case.queries, case.keys
  return [queries, queries, (queries + 1) // 2, queries], [keys, (keys + 1) // 2, keys, 0]


def mask(length, size, xp=np):
  return xp.arange(size) < xp.asarray(length)[:, None]


def attend(kind, case, inputs, length_q, length_k):
  """What the kind itself says, given lengths or None."""
  context = Context(None if length_q is None else mask(length_q, case.queries, jnp),
                    None if length_k is None else mask(length_k, case.keys, jnp), causal=case.causal)
  return kind.attend(*inputs, context)


def slopes_along(dense, inputs, slope):
  """Derivatives of Σ slope · dense(inputs) along random directions, two for every array, and the directions.

  By imaginary steps, whose results are exact, in numpy: a dense form need not be compiled.
  """
  leaves, tree = jax.tree.flatten(jax.tree.map(np.asarray, inputs))
  rng, found = np.random.default_rng(2), []
  for number, way in ((number, rng.normal(size=leaf.shape)) for number, leaf in enumerate(leaves) for _ in range(2)):
    out = dense(tree.unflatten([leaf + 1e-30j * way if i == number else leaf for i, leaf in enumerate(leaves)]))
    total = sum((s * np.imag(o)).sum() for s, o in zip(*map(jax.tree.leaves, (slope, out)), strict=True))
    found.append((number, way, total / 1e-30))
  return found


@pytest.fixture
def check_slopes():
  """Function (gradients, dense, inputs, slope): those of Σ slope · dense(inputs); they are compared along directions."""

  def check(grads, dense, inputs, slope):
    grads = jax.tree.leaves(grads)
    for number, way, want in slopes_along(dense, inputs, slope):
      parts = np.asarray(grads[number]) * way
      np.testing.assert_allclose(parts.sum(), want, rtol=0, atol=1e-12 * np.abs(parts).sum() + 1e-13)

  return check


@pytest.fixture
def check_dense(check_slopes):
  """Function that compares a kind with its dense form in float64: values with and without masks, and gradients."""

  def check(kind, weights, divisor, case):
    inputs = draw(kind, case)
    part_q, part_k = lengths(case)
    slope = np.random.default_rng(1).normal(size=(BATCH, case.queries, SIZES.num_heads, VALUE_DIM))

    def loss(inputs, *lengths):
      out = attend(kind, case, inputs, *lengths)
      return (slope * out * mask(lengths[0], case.queries, jnp)[..., None, None]).sum(), out

    everything = jax.jit(lambda inputs, *lengths: (attend(kind, case, inputs, None, None),
                                                   *jax.grad(loss, has_aux=True)(inputs, *lengths)))
    with jax.enable_x64(True):
      for length_q in ([case.queries] * BATCH, part_q):
        plain, grads, out = everything(inputs, np.array(length_q), np.array(part_k))
        compare(out, weights, divisor, case, inputs, length_q, part_k, *TOLERANCES["float64"])
    compare(plain, weights, divisor, case, inputs, None, None, *TOLERANCES["float64"])
    definition = lambda inputs: dense(np, weights, divisor, case, inputs, part_q, part_k)
    check_slopes(grads, definition, inputs, slope * mask(part_q, case.queries)[..., None, None])

  return check


@pytest.fixture
def check_precision(monkeypatch):
  """Function that compares a kind in float64, float32 and bfloat16 with its dense form in float64: at equal lengths, which
  are of several pieces in the kernel family."""
  monkeypatch.setattr(kernel, "CHUNK", 4)
  monkeypatch.setattr(kernel, "BLOCK", 4)

  def check(kind, weights, divisor):
    for dtypes in ((jnp.float64,), (jnp.float32, jnp.bfloat16)):
      with jax.enable_x64(jnp.float64 in dtypes):
        runs = [(case, jax.tree.map(lambda x, dtype=dtype: jnp.asarray(x, dtype), draw(kind, case)))
                for case in SQUARE for dtype in dtypes]
        outs = jax.jit(lambda every, runs=runs: [attend(kind, case, inputs, *lengths(case)) for (case, _), inputs in zip(
            runs, every)])([inputs for _, inputs in runs])
      for (case, inputs), out in zip(runs, outs, strict=True):
        assert out.dtype == inputs[1].dtype
        exact = jax.tree.map(lambda x: np.asarray(x, np.float64), inputs)
        compare(out, weights, divisor, case, exact, *lengths(case), *TOLERANCES[out.dtype.name])

  return check


def compare(out, weights, divisor, case, inputs, length_q, length_k, rtol, atol):
  """Rows of real queries equal the dense form, and are exactly zero where there is no key to see.

  A constant comes out as it is, but for what is added to a divisor.
  """
  length_q, length_k = length_q or [case.queries] * BATCH, length_k or [case.keys] * BATCH
  out, real = np.asarray(out, np.float64), mask(length_q, case.queries)
  want = dense(np, weights, divisor, case, inputs, length_q, length_k)
  np.testing.assert_allclose(out[real], want[real], rtol, atol)
  np.testing.assert_allclose(out[real][..., 0], np.where(want[real][..., 0] == 0, 0, CONSTANT), max(rtol, 1e-5), atol)
  blind = np.array(length_k)[:, None] == 0
  if case.causal:
    blind = blind | (np.arange(case.queries) < case.queries - case.keys)
  np.testing.assert_array_equal(out[np.broadcast_to(blind, real.shape)], 0)
