import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import nprf
from nasformer.attention.base import Context, Sizes
from nasformer.attention.favor import Favor, directions
from nasformer.attention.nprf import Nprf
from nasformer.ops.toeplitz import fast_length, transform_count
from nasformer.types import UserError

KIND = Nprf(features=6, max_distance=5)
over_forms = pytest.mark.parametrize("form", ["pairs", "sums", "transforms"])
over_grid_forms = pytest.mark.parametrize("form", ["pairs", "transforms"])


@pytest.fixture
def force(monkeypatch):
  """Function that chooses a form, with small blocks."""

  def choose(form):
    monkeypatch.setattr(nprf, "form", lambda *_: form)
    monkeypatch.setattr(nprf, "BLOCK", 4)
    monkeypatch.setattr(nprf, "NEAR", 3)
    monkeypatch.setattr(nprf, "EARLY", 3)

  return choose


def _features(xp, params, x, features=6):
  """Of unit vectors times the root of the temperature."""
  x = x / xp.sqrt((x**2).sum(-1)[..., None] + 1e-12) * xp.exp(params["temperature_scale"] / 2)[:, None]
  return xp.exp(x @ directions(0, features, x.shape[-1]).T - (x**2).sum(-1)[..., None] / 2) / math.sqrt(features)


def _weights(xp, params, q, k, case, length_q, length_k, features=6, far=5):
  """exp(b) for every pair, b being clipped at the largest distance and, causal, near its largest value of the past."""
  start = case.keys - case.queries if case.causal else 0
  lag = np.clip(np.subtract.outer(np.arange(case.keys), start + np.arange(case.queries)).T, -far, far)
  bias = params["position_bias"][:, :, 0]
  if case.causal:
    most = bias[:, : far + 1].max(1)[:, None]
    bias = xp.clip(bias, most - 8, most)
  phi_q, phi_k = (_features(xp, params, x, features) for x in (q, k))
  return xp.exp(bias)[:, lag + far] * xp.einsum("btnr,bsnr->bnts", phi_q, phi_k)


def _divisor(xp, total):
  return xp.where(total > 0, total, 1)


@over_forms
def test_equals_dense(check_dense, case, force, form):
  force(form)
  check_dense(KIND, _weights, _divisor, case)


def test_equals_dense_in_less_precision(check_precision):
  check_precision(KIND, _weights, _divisor)


def test_transforms_equal_dense_in_less_precision(check_precision, force):
  force("transforms")
  check_precision(KIND, _weights, _divisor)


# -- on a grid ---------------------------------------------------------------------------------------------------------


def _on_grid(params, q, k, v, grid, real):
  """Pair by pair; a first token that is not on the grid has no bias."""
  first = q.shape[1] - math.prod(grid)
  places = [(y, x) for y in range(grid[0]) for x in range(grid[1])]
  rows = np.array([[b[0] - a[0] + grid[0] - 1 for b in places] for a in places])
  columns = np.array([[b[1] - a[1] + grid[1] - 1 for b in places] for a in places])
  bias = np.pad(params["position_bias"][:, rows, columns], ((0, 0), (first, 0), (first, 0)))
  w = np.exp(bias) * np.einsum("btnr,bsnr->bnts", _features(np, params, q), _features(np, params, k)) * real[:, None, None]
  return np.einsum("bnts,bsne->btne", w, v) / _divisor(np, np.moveaxis(w.sum(-1), 1, 2))[..., None]


@over_grid_forms
@pytest.mark.parametrize("grid, class_token", [
    ((4, 1), 0), ((5, 3), 1), *(pytest.param(*each, marks=pytest.mark.slow) for each in (
        ((2, 3), 0), ((2, 3), 1), ((1, 4), 1)))])
def test_grid_equals_dense(check_slopes, force, form, grid, class_token):
  """Values and gradients."""
  force(form)
  length, rng = math.prod(grid) + class_token, np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape)
  params = {name: normal(*tensor.shape) for name, tensor in KIND.core_params(Sizes(8, 2, 4, grid=grid)).items()}
  inputs = params, normal(3, length, 2, 4), normal(3, length, 2, 4), normal(3, length, 2, 5)
  real = np.arange(length) < np.array([length, (length + 1) // 2, 0])[:, None]
  slope = normal(3, length, 2, 5)

  def loss(inputs):
    out = KIND.attend(*inputs, Context(key_mask=jnp.asarray(real), grid=grid))
    return (out * slope).sum(), out

  with jax.enable_x64(True):
    grads, out = jax.jit(jax.grad(loss, has_aux=True))(inputs)
  right = lambda inputs: _on_grid(*inputs, grid, real)
  np.testing.assert_allclose(out, right(inputs), rtol=1e-10, atol=1e-12)
  check_slopes(grads, right, inputs, slope)


# -- properties --------------------------------------------------------------------------------------------------------


def _draw(length, dtype=np.float64, features=6, distance=5, heads=2):
  rng = np.random.default_rng(length)
  kind = Nprf(features=features, max_distance=distance)
  params = {name: rng.normal(size=tensor.shape).astype(dtype) for name, tensor in
            kind.core_params(Sizes(8, heads, 4)).items()}
  return kind, params, [rng.normal(size=(2, length, heads, 4)).astype(dtype) for _ in range(3)]


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _run(kind, params, inputs, causal, form, copies=1):
  return kind.attend(params, *inputs, Context(causal=causal, copies=copies))


@over_grid_forms
@pytest.mark.parametrize("causal", [False, True])
def test_only_differences_of_the_bias_count(force, form, causal):
  force(form)
  kind, params, inputs = _draw(9)
  with jax.enable_x64(True):
    out = _run(kind, params, inputs, causal, form)
    more = _run(kind, params | {"position_bias": params["position_bias"] + 20}, inputs, causal, form)
  np.testing.assert_allclose(more, out, rtol=1e-10)


@over_grid_forms
def test_the_length_of_queries_and_keys_does_not_count(force, form):
  force(form)
  kind, params, (q, k, v) = _draw(9)
  with jax.enable_x64(True):
    out = _run(kind, params, (q, k, v), False, form)
    np.testing.assert_allclose(_run(kind, params, (7 * q, k / 3, v), False, form), out, rtol=1e-10)


@over_forms
def test_a_bias_that_ends_is_a_window(force, form):
  """Without causality nothing is clipped: beyond a distance of 2 nothing is seen."""
  force(form)
  kind, params, (q, k, v) = _draw(9)
  params["position_bias"] = np.where(np.abs(np.arange(-5, 6))[:, None] > 2, -60.0, params["position_bias"])
  far = np.arange(9)[:, None, None] > 6
  with jax.enable_x64(True):
    out = _run(kind, params, (q, k, v), False, form)
    np.testing.assert_allclose(_run(kind, params, (q, np.where(far, -k, k), np.where(far, 9, v)), False, form)[:, :5],
                               out[:, :5], rtol=1e-10)


def test_early_rows_of_a_rising_causal_bias_are_exact(monkeypatch):
  """Transforms in float32 err by the largest weights, which are 8 nats away; against the dense form in float64."""
  monkeypatch.setattr(nprf, "form", lambda *_: "transforms")
  kind, params, inputs = _draw(1024, np.float32, features=32, distance=1023)
  params["position_bias"] = np.broadcast_to(np.linspace(8, 0, 2047)[:, None] * 2, (2, 2047, 1)).astype(np.float32)
  got = _run(kind, params, inputs, True, "transforms")
  exact, (q, k, v) = jax.tree.map(np.float64, (params, inputs))
  case = types.SimpleNamespace(queries=1024, keys=1024, causal=True)
  weights = _weights(np, exact, q, k, case, None, None, 32, 1023) * np.tri(1024)
  want = np.einsum("bnts,bsne->btne", weights / weights.sum(-1, keepdims=True), v)
  np.testing.assert_allclose(got[:, :64], want[:, :64], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", ["sums", "transforms"])
def test_nothing_leaks_from_the_future(force, form):
  """Over many blocks, with a table that ends early. Sums are exact; transforms round by what is largest in them, and let no
  more than that pass."""
  force(form)
  kind, params, inputs = _draw(20, np.float32, distance=2)
  bound, after = 0 if form == "sums" else 1e-5, lambda first: np.arange(20)[:, None, None] >= first

  @jax.jit
  def run(inputs, slope):
    out, pull = jax.vjp(lambda inputs: kind.attend(params, *inputs, Context(causal=True)), inputs)
    return out, pull(slope)[0]

  for first in (1, 4, 11, 19):
    slope = np.where(after(first), 0, inputs[0])
    out, grads = run(inputs, slope)
    wild, _ = run([np.where(after(first), 1e4, x) for x in inputs], slope)
    assert np.abs(wild[:, :first] - out[:, :first]).max() <= bound * 1e4
    assert grads[2][:, :first].any() and all(np.abs(g[:, first:]).max() <= bound * np.abs(g).max() for g in grads)


def test_all_forms_give_the_same_over_many_blocks(force):
  """Values and gradients, with several copies of a source, and a reach that is shorter than a block."""
  kind, params, (q, _, _) = _draw(20, distance=2)
  _, _, (_, k, v) = _draw(26)
  loss = lambda inputs, form: jnp.sin(_run(kind, *inputs, False, form, 2)).sum()
  slopes = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  found = []
  with jax.enable_x64(True):
    for form in ("pairs", "sums", "transforms"):
      force(form)
      found.append(slopes((params, (q, k, v)), form))
  for other in found[1:]:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), other, found[0])


def test_the_form_follows_the_sizes():
  """Few keys are met one by one, many beyond the reach of the table as a sum, and many within it by transforms."""
  assert [nprf.form(n, n, 1, 128, False) for n in (511, 512, 8192)] == ["pairs", "sums", "sums"]
  assert [nprf.form(n, n, 1, n - 1, True) for n in (1024, 4096)] == ["pairs", "transforms"]
  assert [nprf.form(n, n, 64, n // 64 - 1, False) for n in (1024, 4096)] == ["pairs", "transforms"]


# -- counts and mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries, keys, causal, grid", [
    (9, 9, False, None), (9, 9, True, None), (4, 9, True, None), (9, 4, True, None), (5, 9, False, None),
    (7, 7, False, (2, 3))])
@over_forms
def test_count_equals_what_is_done(count_products, force, form, queries, keys, causal, grid):
  """But for the transform of the weights, which is shared by all examples."""
  force("pairs" if grid and form == "sums" else form)
  sizes = Sizes(8, 2, 4, grid=grid)
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  params = {name: shape(*tensor.shape) for name, tensor in KIND.core_params(sizes).items()}
  done = count_products(lambda *x: KIND.attend(*x, Context(causal=causal, grid=grid)), params, shape(1, queries, 2, 4),
                        shape(1, keys, 2, 4), shape(1, keys, 2, 4))
  places = 9 if grid else queries + keys - 1  # 2 rows of 3 take 8 places
  shared = 2 * transform_count(fast_length(15 if grid else places)) if form == "transforms" else 0
  count = KIND.core_count(sizes, queries, keys, causal)
  assert count.products == done - shared and count.params == 2 + 2 * (15 if grid else 11)


@pytest.mark.parametrize("length, total", [(128, 102_137_856), (1024, 1_072_693_248)])
def test_reference_counts(monkeypatch, length, total):
  """H = 8, r = 32, d = e = 64: (n + m) r d and 2 r (e + 1) transforms of N = 2 n; and, by element, 2 N r (e + 1) for
  the filter, m r e for what keys hold and n r (e + 1) to read it, but that divisors are held like values here."""
  monkeypatch.setattr(nprf, "form", lambda *_: "transforms")
  count = Nprf(max_distance=length - 1).core_count(Sizes(512, 8, 64), length, length, False)
  assert count.products + count.elementwise - 8 * length * 32 == total


@pytest.mark.parametrize("field", ["features", "max_distance"])
def test_mistakes_are_told(field):
  with pytest.raises(UserError, match=f"nprf.{field}=0: it must be at least 1"):
    Nprf(**{field: 0})


# -- what else it is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form, causal", [("pairs", False), ("sums", True), ("transforms", False)])
def test_without_a_bias_it_is_favor_of_unit_vectors(force, form, causal):
  """But for the scale d^(1/4) there, with d = 4."""
  force(form)
  kind, params, (q, k, v) = _draw(9, features=8)
  params = {name: np.zeros_like(value) for name, value in params.items()}
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True) * 4**0.25
  with jax.enable_x64(True):
    want = jax.jit(lambda *x: Favor(2).attend({}, *x, Context(causal=causal)))(unit(q), unit(k), v)
    np.testing.assert_allclose(_run(kind, params, (q, k, v), causal, form), want, rtol=1e-10)
