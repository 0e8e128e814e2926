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
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick = functools.partial(jax.jit, compiler_options=QUICK)
over_forms = pytest.mark.parametrize("kind", FORMS.values(), ids=FORMS)


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def draw(length, heads=3):
  rng = np.random.default_rng(0)
  return tuple(jnp.asarray(rng.normal(size=(2, length, heads, width))) for width in (4, 4, 5))


def softmax(logits):
  weights = jnp.exp(logits)
  return weights / weights.sum(-1, keepdims=True)


def dense(kind, q, k, v, grid, real):
  """The Kronecker product itself, row by row of both grids; padding does not count."""
  (rows, columns), width = grid, q.shape[-1]
  if kind.channel_merge == "pooling":
    q, k = q.max(-1, keepdims=True), k.max(-1, keepdims=True)
  k = k * real[..., None, None]
  q, k = (jnp.moveaxis(x, 2, 1).reshape(*x.shape[:1], x.shape[2], rows, columns, -1) for x in (q, k))
  meet = lambda one, two: (one[..., :, None, :] * two[..., None, :, :]).sum(-1) / width**0.25
  by_row = sum(meet(q[:, :, :, x], k[:, :, :, x]) for x in range(columns))
  by_column = sum(meet(q[:, :, y], k[:, :, y]) for y in range(rows))
  if kind.side_scale:  # of what is real
    by_row = by_row / jnp.sqrt(real.reshape(-1, *grid).any(1).sum(1))[:, None, None, None]
    by_column = by_column / jnp.sqrt(real.reshape(-1, *grid).any(2).sum(1))[:, None, None, None]
  product = jax.vmap(jax.vmap(jnp.kron))(softmax(by_row), softmax(by_column)) * real[:, None, None]
  product = product / jnp.maximum(product.sum(-1, keepdims=True), 1e-300)
  return jnp.einsum("bnts,bsne->btne", product, v)


@over_forms
@pytest.mark.parametrize("grid", [
    (2, 3), *(pytest.param(grid, marks=pytest.mark.slow) for grid in ((3, 2), (1, 4), (1, 1)))])
def test_equals_the_kronecker_product(kind, grid):
  """Values and gradients, with and without holes in the second image."""
  inputs, slope = draw(grid[0] * grid[1]), 1 + np.arange(5.0)
  holes = np.ones((2, grid[0] * grid[1]), bool)
  holes[1, 1::3] = False

  def loss(inputs, run):
    out = run(*inputs)
    return (out * slope).sum(), out

  slopes = lambda run, inputs: jax.grad(functools.partial(loss, run=run), has_aux=True)(inputs)
  ours = quick(lambda inputs, holes: [slopes(lambda *i: kind.attend({}, *i, Context(key_mask=real, grid=grid)), inputs)
                                      for real in (None, holes)])
  right = quick(lambda inputs, real: slopes(lambda *i: dense(kind, *i, grid, real), inputs))
  want = [right(inputs, real) for real in (np.ones_like(holes), holes)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-11), ours(inputs, holes), want)


@over_forms
def test_rows_that_are_padding_change_nothing(kind):
  """Neither as keys nor, where they are masked, as queries."""
  q, k, v = draw(12)
  mask = jnp.broadcast_to(np.arange(12) < 8, (2, 12))
  wild = lambda x: jnp.where(mask[..., None, None], x, 1e4)
  out = kind.attend({}, *map(wild, (q, k, v)), Context(mask, mask, grid=(3, 4)))
  small = kind.attend({}, *(x[:, :8] for x in (q, k, v)), Context(grid=(2, 4)))
  np.testing.assert_allclose(out[:, :8], small, 1e-9, 1e-11)


def test_a_column_is_softmax_attention():
  """With its scale d^-1/4 instead of d^-1/2; d is 4 here."""
  q, k, v = draw(7)
  want = Softmax().attend({}, q * 4**0.25, k, v, Context())
  for grid in ((7, 1), (1, 7), None):
    np.testing.assert_allclose(Couplformer().attend({}, q, k, v, Context(grid=grid)), want, 1e-9)


def test_transposing_the_image_transposes_the_output():
  inputs = draw(6)
  turn = lambda x, rows, columns: x.reshape(2, rows, columns, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
  out = Couplformer().attend({}, *inputs, Context(grid=(2, 3)))
  other = Couplformer().attend({}, *(turn(x, 2, 3) for x in inputs), Context(grid=(3, 2)))
  np.testing.assert_allclose(turn(other, 3, 2), out, 1e-9)


def test_a_constant_comes_out_as_it_is():
  q, k, v = draw(6)
  mask = jnp.asarray(np.arange(6) != 2)[None]
  out = Couplformer().attend({}, q, k, jnp.ones_like(v), Context(key_mask=jnp.tile(mask, (2, 1)), grid=(2, 3)))
  np.testing.assert_allclose(out, np.ones_like(out), 1e-12)


def test_a_token_in_front_of_the_grid_sees_all_and_is_not_seen():
  q, k, v = draw(7)
  out = Couplformer().attend({}, q, k, v, Context(grid=(2, 3)))
  patches = Couplformer().attend({}, *(x[:, 1:] for x in (q, k, v)), Context(grid=(2, 3)))
  np.testing.assert_allclose(out[:, 1:], patches, 1e-12)
  np.testing.assert_allclose(out[:, :1], Softmax().attend({}, q[:, :1] * 4**0.25, k, v, Context()), 1e-9)


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
