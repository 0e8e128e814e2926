import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from nasformer.attention.base import Context, Sizes
from nasformer.attention.vicinity import Vicinity
from nasformer.types import UserError

FORMS = {"sum": Vicinity(), "product": Vicinity(form="product")}
over_forms = pytest.mark.parametrize("form", FORMS)
over_grids = pytest.mark.parametrize("grid, class_token", [
    ((2, 3), 1), ((5, 1), 0), *(pytest.param(*each, marks=pytest.mark.slow) for each in (
        ((2, 3), 0), ((1, 5), 1), ((1, 1), 1)))])


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def draw(length, seed=0):
  rng = np.random.default_rng(seed)
  return tuple(rng.normal(size=(3, length, 2, width)) for width in (4, 4, 5))


def nearness(form, length, grid):
  """Pair by pair; a first token that is not in the grid is at distance zero from all."""
  first = length - grid[0] * grid[1]
  places = [None] * first + [(y / grid[0], x / grid[1]) for y in range(grid[0]) for x in range(grid[1])]

  def near(one, two):
    along = [1.0, 1.0] if one is None or two is None else [np.cos(np.pi / 2 * (a - b)) for a, b in zip(one, two)]
    return sum(along) if form == "sum" else np.prod(along)

  return np.array([[near(one, two) for two in places] for one in places])


def dense(q, k, v, table, real):
  relu = lambda x: np.maximum(x, 0)
  w = np.einsum("btnh,bsnh->bnts", relu(q), relu(k)) * table * real[:, None, None]
  return np.einsum("bnts,bsne->btne", w, v) / (np.moveaxis(w.sum(-1), 1, 2) + 1e-4)[..., None]


@functools.partial(jax.jit, static_argnums=0, static_argnames="grid")
def said(kind, q, k, v, mask=None, grid=None):
  return kind.attend({}, q, k, v, Context(key_mask=mask, grid=grid))


@over_forms
@over_grids
def test_equals_dense(check_slopes, form, grid, class_token):
  """Values and gradients, with padding and without."""
  length = grid[0] * grid[1] + class_token
  inputs, slope = draw(length), np.random.default_rng(1).normal(size=(3, length, 2, 5))
  holes = np.arange(length) < np.array([length, (length + 1) // 2, 0])[:, None]

  def loss(inputs, real):
    out = FORMS[form].attend({}, *inputs, Context(key_mask=real, grid=grid))
    return (out * slope).sum(), out

  slopes = jax.grad(loss, has_aux=True)
  both = jax.jit(lambda inputs, holes: [slopes(inputs, real) for real in (None, holes)])(inputs, holes)
  for (grads, out), real in zip(both, (np.ones_like(holes), holes)):
    right = lambda inputs, real=real: dense(*inputs, nearness(form, length, grid), real)
    np.testing.assert_allclose(out, right(inputs), rtol=1e-10, atol=1e-12)
    check_slopes(grads, right, inputs, slope)


@over_forms
def test_turning_the_image_turns_the_output(form):
  inputs = draw(12)
  turn = lambda x: x.reshape(3, 3, 4, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
  out = said(FORMS[form], *inputs, grid=(3, 4))
  turned = said(FORMS[form], *map(turn, inputs), grid=(4, 3))
  np.testing.assert_allclose(turned, turn(out), rtol=1e-10)


@over_forms
def test_weights_fall_with_the_distance(form):
  """Equal positive queries and keys: only the place counts, the corner opposite least."""
  ones, v = np.ones((1, 12, 1, 4)), np.eye(12)[None, :, None]
  w = said(FORMS[form], ones, ones, v, grid=(3, 4))[0, 0, 0].reshape(3, 4)
  assert (np.diff(w, axis=0) < 0).all() and (np.diff(w, axis=1) < 0).all()


@over_forms
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-4), (jnp.bfloat16, 2e-2)])
def test_less_precision(form, dtype, tolerance):
  inputs = [jnp.asarray(x, dtype) for x in draw(7)]
  out = said(FORMS[form], *inputs, grid=(2, 3))
  want = dense(*(np.asarray(x, np.float64) for x in inputs), nearness(form, 7, (2, 3)), np.ones((3, 7)))
  assert out.dtype == dtype
  np.testing.assert_allclose(np.asarray(out, np.float64), want, tolerance, tolerance)


@pytest.mark.parametrize("side, sum_of_both", [((16, 8), 34_603_008), ((32, 32), 276_824_064)])
def test_reference_counts(side, sum_of_both):
  """H (n + m) 4d (d + 1) and, by element, 4 H (n + m) d; H = 8, d = 64."""
  length = side[0] * side[1]
  count = Vicinity().core_count(Sizes(512, 8, 64, grid=side), length, length, False)
  assert (count.params, count.products + count.elementwise) == (0, sum_of_both)
  assert count.elementwise == 4 * 8 * 2 * length * 64


def test_count_with_a_class_token(count_products):
  """Its products with every key, and those of every query with it."""
  shape = jax.ShapeDtypeStruct((1, 7, 2, 4), jnp.float32)
  done = count_products(lambda *x: Vicinity().attend({}, *x, Context(grid=(2, 3))), shape, shape, shape)
  assert Vicinity().core_count(Sizes(8, 2, 4, grid=(2, 3)), 7, 7, False).products == done


def test_unknown_form_is_refused():
  with pytest.raises((UserError, jaxtyping.TypeCheckError), match="'product'"):  # the annotation may come first
    Vicinity(form="manhattan")


@over_forms
def test_in_a_very_large_image_it_is_plain_relu_attention(form):
  """Of five patches beside each other, which are all that is real: distances are next to nothing."""
  q, k, v = (np.pad(x, ((0, 0), (0, 4091), (0, 0), (0, 0))) for x in draw(5))
  relu = lambda x: np.maximum(x, 0)
  w = np.einsum("btnh,bsnh->bnts", relu(q[:, :5]), relu(k[:, :5]))
  want = np.einsum("bnts,bsne->btne", w / (w.sum(-1, keepdims=True) + 1e-12), v[:, :5])
  real = np.broadcast_to(np.arange(4096) < 5, (3, 4096))
  kind = Vicinity(form, epsilon=1e-12)
  out = said(kind, q, k, v, real, grid=(1, 4096))
  np.testing.assert_allclose(out[:, :5], want, rtol=1e-5, atol=1e-5)


@over_forms
def test_a_constant_comes_out_as_it_is(form):
  """But for what is added to the divisor."""
  q, k, v = map(np.abs, draw(7))
  kind = Vicinity(form, epsilon=1e-12)
  out = said(kind, q, k, np.full_like(v, 2.5), grid=(2, 3))
  np.testing.assert_allclose(out, 2.5, rtol=1e-10)


# -- as released -------------------------------------------------------------------------------------------------------


def test_clamps_by_hand():
  """Of 2 x 2 patches, whose angles are 0 and π/4: equal keys of 1 sum up to 2 + √2 in cosines and √2 in sines."""
  kind, ones, (cosines, sines) = Vicinity(reference_clamps=True), np.ones((1, 4, 1, 1)), (2 + 2**0.5, 2**0.5)
  clamp = lambda x: np.sign(x) * np.clip(np.abs(x), 1e-4, 1e4)
  for q, v in ((1, 2), (1, -1e-5), (1, 4e3), (1e4, 0.7), (1, 0)):  # clamped: nothing, small, large, a large divisor, zeros
    out, held = said(kind, q * ones, ones, v * ones, grid=(2, 2))[0, :, 0, 0], (clamp(v * cosines), clamp(v * sines))
    first, last = 2 * q * np.array([held[0], cosines]), 2**0.5 * q * np.array([sum(held), cosines + sines])
    for place, (values, total) in ((0, first), (3, last)):
      np.testing.assert_allclose(out[place], clamp(clamp(values) * clamp(1 / (total + 1e-4))), rtol=1e-12)
  moved = said(kind, ones, ones, -1e-5 * ones, grid=(2, 2))
  np.testing.assert_allclose(moved, -1e-4 * ones, rtol=1e-12)
