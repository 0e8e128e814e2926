"""Two-dimensional distances of both kinds that know distances, against their definition pair by pair."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import online, softmax
from nasformer.attention.base import Context, Sizes
from nasformer.attention.places import Places
from nasformer.attention.softmax import Softmax
from nasformer.attention.softmax_relative import SoftmaxRelative
from nasformer.attention.softmax_t5 import SoftmaxT5

KINDS = {"t5": SoftmaxT5(num_buckets=8, max_distance=5), "relative": SoftmaxRelative(max_distance=2)}
TABLES = {"t5": ("row_bias", "column_bias"), "relative": ("relative_rows", "relative_columns")}
BUCKETS = {-4: 3, -3: 2, -2: 2, -1: 1, 0: 0, 1: 5, 2: 6, 3: 6, 4: 7}  # from the formula, of 8 buckets for 5 positions
GRID, HEADS, WIDTH = (3, 5), 3, 4
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling
over_kinds = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def draw(name, first, grid=GRID):
  """(tables, q, k, v), and a mask that leaves the last image no token."""
  rng = np.random.default_rng(first)
  length = first + grid[0] * grid[1]
  tables = {role: rng.normal(size=tensor.shape)
            for role, tensor in KINDS[name].core_params(Sizes(12, HEADS, WIDTH, grid=grid)).items()}
  q, k, v = (rng.normal(size=(3, length, HEADS, width)) for width in (WIDTH, WIDTH, 5))
  return (tables, q, k, v), np.arange(length) < np.array([length, length // 2, 0])[:, None]


def pair(name, params, q, one, two, axis):
  """What a pair of tokens gets of one axis, [B, N]; `one` and `two` are its places there."""
  table = params[TABLES[name][axis]]
  if name == "t5":
    return table[:, BUCKETS[two - one]]
  return np.einsum("bnh,h->bn", q, table[min(max(two - one, -2), 2) + 2]) / np.sqrt(WIDTH)


def dense(name, first, grid, inputs, mask):
  """With (dy, dx) written out for every pair of patches."""
  params, q, k, v = inputs
  logits = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(WIDTH)
  logits = logits + 0 * sum(x.sum() for x in params.values())
  for i in range(grid[0] * grid[1]):
    for j in range(grid[0] * grid[1]):
      for axis, (one, two) in enumerate(zip(divmod(i, grid[1]), divmod(j, grid[1]))):
        logits[:, :, first + i, first + j] += pair(name, params, q[:, first + i], one, two, axis)
  w = np.exp(logits) * mask[:, None, None]
  return np.einsum("bnts,bsne->btne", w / np.where(mask.any(1), w.sum(-1).T, 1).T[..., None], v)


def attend(name, inputs, mask, grid=GRID):
  return KINDS[name].attend(*inputs, Context(key_mask=mask, grid=grid))


said = jax.jit(attend, static_argnames=("name", "grid"))


@over_kinds
@pytest.mark.parametrize("first, long", [(0, False), (2, False), (2, True), pytest.param(0, True, marks=pytest.mark.slow)])
def test_equals_the_definition(monkeypatch, check_slopes, name, first, long):
  """Values and gradients, with padding; blocks of at most four tokens cut rows of the grid in two."""
  monkeypatch.setattr(online, "BLOCK", 4)
  monkeypatch.setattr(softmax, "LONG", 0 if long else 1024)
  inputs, mask = draw(name, first)
  slope = np.random.default_rng(9).normal(size=inputs[3].shape)
  loss = lambda inputs, mask: ((slope * (out := attend(name, inputs, mask))).sum(), out)
  grads, out = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(inputs, mask)
  want = functools.partial(dense, name, first, GRID, mask=mask)
  np.testing.assert_allclose(out, want(inputs), 1e-10, 1e-12)
  check_slopes(grads, lambda inputs: want(inputs), inputs, slope)


@over_kinds
def test_transposing_the_image_and_swapping_the_tables_transposes_the_output(name):
  (params, *inputs), mask = draw(name, 0)
  turn = lambda x, rows, columns: x.reshape(3, rows, columns, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
  one, two = TABLES[name]
  out = said(name, (params, *inputs), mask)
  swapped = {one: params[two], two: params[one]}, *(turn(x, *GRID) for x in inputs)
  other = said(name, swapped, turn(mask, *GRID), grid=GRID[::-1])
  np.testing.assert_allclose(turn(other, *GRID[::-1]), out, 1e-10, 1e-12)


@over_kinds
def test_empty_tables_are_plain_softmax(name):
  (params, *inputs), mask = draw(name, 1)
  out = said(name, (jax.tree.map(np.zeros_like, params), *inputs), mask)
  np.testing.assert_allclose(out, jax.jit(Softmax().attend)({}, *inputs, Context(key_mask=jnp.asarray(mask))), 1e-12, 1e-14)


def test_the_order_of_tokens_may_be_what_counts():
  """As in the mixed CIFAR-10 space: the grid then means nothing."""
  kind, ((_, *inputs), mask) = SoftmaxRelative(max_distance=2, axes=False), draw("relative", 1)
  sizes = Sizes(12, HEADS, WIDTH, grid=GRID)
  (name, tensor), = kind.core_params(sizes).items()
  params = {name: np.random.default_rng(0).normal(size=tensor.shape)}
  run, context = jax.jit(kind.attend), Context(key_mask=jnp.asarray(mask))
  np.testing.assert_array_equal(run(params, *inputs, context.replace(grid=GRID)), run(params, *inputs, context))
  assert kind.core_count(sizes, 16, 16, False) == kind.core_count(Sizes(12, HEADS, WIDTH), 16, 16, False)


@over_kinds
@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("long", [1024, 0], ids=["at once", "in blocks"])
def test_counts(monkeypatch, count_products, name, first, long):
  monkeypatch.setattr(online, "BLOCK", 4)
  monkeypatch.setattr(softmax, "LONG", long)
  kind, length = KINDS[name], first + 15
  params = jax.tree.map(jnp.asarray, draw(name, first)[0][0])
  shape = jax.ShapeDtypeStruct((1, length, HEADS, WIDTH), jnp.float32)
  count = kind.core_count(Sizes(12, HEADS, WIDTH, grid=GRID), length, length, False)
  assert count.products == count_products(lambda *x: kind.attend(params, *x, Context(grid=GRID)), shape, shape, shape)
  assert count.params == sum(table.size for table in params.values()) == 2 * {"t5": HEADS * 8, "relative": 5 * WIDTH}[name]


def test_places():
  """Of a token in front of 2 x 3 patches, and of one beyond the end, which is nobody's."""
  table = np.arange(8.0).reshape(2, 4) + 1
  seen = Places(1, (2, 3)).bias(lambda axis, at: jnp.asarray(table)[at][:, :2 + axis], np.arange(7), np.arange(7))
  assert not seen[0].any() and not seen[:, 0].any()
  np.testing.assert_array_equal(seen[1, 1:], [2, 3, 4, 3, 4, 5])
