import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from nasformer.attention.base import Context, Sizes
from nasformer.attention.couplformer import Couplformer
from nasformer.attention.softmax import Softmax
from nasformer.types import UserError

FORMS = {"concat": Couplformer(), "pooling": Couplformer("pooling"), "by_side": Couplformer(side_scale=True)}
over_forms = pytest.mark.parametrize("kind", FORMS.values(), ids=FORMS)


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def draw(length, heads=3):
  rng = np.random.default_rng(0)
  return tuple(rng.normal(size=(2, length, heads, width)) for width in (4, 4, 5))


@functools.partial(jax.jit, static_argnums=0, static_argnames="grid")
def said(kind, q, k, v, mask=None, grid=None):
  return kind.attend({}, q, k, v, Context(mask, mask, grid=grid))


def softmax(logits):
  weights = np.exp(logits)
  return weights / weights.sum(-1, keepdims=True)


def dense(kind, q, k, v, grid, real):
  """The Kronecker product itself, row by row of both grids; padding does not count."""
  (rows, columns), width = grid, q.shape[-1]
  if kind.channel_merge == "pooling":
    q, k = q.max(-1, keepdims=True), k.max(-1, keepdims=True)
  k = k * real[..., None, None]
  q, k = (np.moveaxis(x, 2, 1).reshape(*x.shape[:1], x.shape[2], rows, columns, -1) for x in (q, k))
  meet = lambda one, two: (one[..., :, None, :] * two[..., None, :, :]).sum(-1) / width**0.25
  by_row = sum(meet(q[:, :, :, x], k[:, :, :, x]) for x in range(columns))
  by_column = sum(meet(q[:, :, y], k[:, :, y]) for y in range(rows))
  if kind.side_scale:  # of what is real
    by_row = by_row / np.sqrt(real.reshape(-1, *grid).any(1).sum(1))[:, None, None, None]
    by_column = by_column / np.sqrt(real.reshape(-1, *grid).any(2).sum(1))[:, None, None, None]
  product = np.einsum("bnyz,bnxw->bnyxzw", softmax(by_row), softmax(by_column))
  product = product.reshape(*product.shape[:2], rows * columns, -1) * real[:, None, None]
  product = product / np.where(real.any(1), product.sum(-1).T, 1).T[..., None]
  return np.einsum("bnts,bsne->btne", product, v)


@over_forms
@pytest.mark.parametrize("grid", [
    (2, 3), *(pytest.param(grid, marks=pytest.mark.slow) for grid in ((3, 2), (1, 4), (1, 1)))])
def test_equals_the_kronecker_product(check_slopes, kind, grid):
  """Values and gradients, with and without holes in the second image."""
  inputs, slope = draw(grid[0] * grid[1]), np.ones((2, grid[0] * grid[1], 3, 1)) + np.arange(5.0)
  holes = np.ones((2, grid[0] * grid[1]), bool)
  holes[1, 1::3] = False

  def loss(inputs, real):
    out = kind.attend({}, *inputs, Context(key_mask=real, grid=grid))
    return (out * slope).sum(), out

  slopes = jax.grad(loss, has_aux=True)
  both = jax.jit(lambda inputs, holes: [slopes(inputs, real) for real in (None, holes)])(inputs, holes)
  for (grads, out), real in zip(both, (np.ones_like(holes), holes)):
    np.testing.assert_allclose(out, dense(kind, *inputs, grid, real), 1e-10, 1e-12)
    check_slopes(grads, lambda inputs, real=real: dense(kind, *inputs, grid, real), inputs, slope)


@over_forms
def test_rows_that_are_padding_change_nothing(kind):
  """Neither as keys nor, where they are masked, as queries."""
  q, k, v = draw(12)
  mask = np.broadcast_to(np.arange(12) < 8, (2, 12))
  wild = lambda x: np.where(mask[..., None, None], x, 1e4)
  out = said(kind, *map(wild, (q, k, v)), mask, grid=(3, 4))
  small = said(kind, *(x[:, :8] for x in (q, k, v)), grid=(2, 4))
  np.testing.assert_allclose(out[:, :8], small, 1e-10, 1e-12)


def test_a_column_is_softmax_attention():
  """With its scale d^-1/4 instead of d^-1/2; d is 4 here."""
  q, k, v = draw(7)
  want = said(Softmax(), q * 4**0.25, k, v)
  for grid in ((7, 1), (1, 7)):
    np.testing.assert_allclose(said(Couplformer(), q, k, v, grid=grid), want, 1e-10)


def test_transposing_the_image_transposes_the_output():
  inputs = draw(6)
  turn = lambda x, rows, columns: x.reshape(2, rows, columns, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
  out = said(Couplformer(), *inputs, grid=(2, 3))
  other = said(Couplformer(), *(turn(x, 2, 3) for x in inputs), grid=(3, 2))
  np.testing.assert_allclose(turn(other, 3, 2), out, 1e-10)


def test_rows_and_columns_may_come_in_any_order():
  """Of queries, keys and values alike."""
  inputs, order = draw(6), np.arange(6).reshape(2, 3)[[1, 0]][:, [2, 0, 1]].ravel()
  out = said(Couplformer(), *inputs, grid=(2, 3))
  np.testing.assert_allclose(said(Couplformer(), *(x[:, order] for x in inputs), grid=(2, 3)), out[:, order], 1e-10)


def test_a_constant_comes_out_as_it_is():
  q, k, v = draw(6)
  out = jax.jit(lambda *inputs: Couplformer().attend({}, *inputs[:3], Context(key_mask=inputs[3], grid=(2, 3))))(
      q, k, np.ones_like(v), np.tile(np.arange(6) != 2, (2, 1)))
  np.testing.assert_allclose(out, np.ones_like(out), 1e-12)


def test_a_token_in_front_of_the_grid_sees_all_and_is_not_seen():
  q, k, v = draw(7)
  out = said(Couplformer(), q, k, v, grid=(2, 3))
  patches = said(Couplformer(), *(x[:, 1:] for x in (q, k, v)), grid=(2, 3))
  np.testing.assert_allclose(out[:, 1:], patches, 1e-12)
  np.testing.assert_allclose(out[:, :1], said(Softmax(), q[:, :1] * 4**0.25, k, v), 1e-10)


@pytest.mark.parametrize("side, products", [(14, 5_619_712), (32, 67_108_864)])
def test_reference_counts(side, products):
  sizes = Sizes(512, 8, 64, grid=(side, side))
  assert Couplformer().core_count(sizes, side**2, side**2, False).products == products


@over_forms
@pytest.mark.parametrize("extra", [0, 1])
def test_counts_on_a_grid(count_products, kind, extra):
  q, k, v = (jax.ShapeDtypeStruct((1, 6 + extra, 3, 4), jnp.float32) for _ in "qkv")
  done = count_products(lambda *x: kind.attend({}, *x, Context(grid=(2, 3))), q, k, v)
  assert kind.core_count(Sizes(12, 3, 4, grid=(2, 3)), 6 + extra, 6 + extra, False).products == done


def test_unknown_merge_is_refused():
  with pytest.raises((UserError, jaxtyping.TypeCheckError), match="'pooling'"):  # the annotation may come first
    Couplformer("mean")
