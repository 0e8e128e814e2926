import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import chunks, kernel
from nasformer.attention.base import Context, Count, Sizes
from nasformer.attention.favor import Favor, directions
from nasformer.types import UserError

LARGE = Sizes(embed_dim=512, num_heads=8, head_dim=64)


def _features(xp, kind, x):
  """exp(ω x - |x|² / 2), of x / d^(1/4), with no stabiliser."""
  omega = directions(kind.seed, kind.features_per_dim * x.shape[-1], x.shape[-1])
  x = x / x.shape[-1] ** 0.25
  return xp.exp(x @ omega.T - (x**2).sum(-1)[..., None] / 2)


def _weights(kind):
  return lambda xp, params, q, k, case, length_q, length_k: xp.einsum(
      "btnr,bsnr->bnts", _features(xp, kind, q), _features(xp, kind, k))


def _divisor(xp, total):
  return xp.where(total > 0, total, 1)


@pytest.mark.parametrize("kind", [Favor(), pytest.param(Favor(features_per_dim=3, seed=5), marks=pytest.mark.slow)])
def test_equals_dense(check_dense, case, kind):
  check_dense(kind, _weights(kind), _divisor, case)


def test_equals_dense_in_less_precision(check_precision):
  check_precision(Favor(), _weights(Favor()), _divisor)


def _normal(*shape):
  return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


# -- random features ---------------------------------------------------------------------------------------------------


def test_features_estimate_the_softmax():
  """The mean over many draws is within three of its standard errors of exp(q · k / sqrt(d))."""
  q, k = np.random.default_rng(0).normal(size=(2, 4, 8)) / np.sqrt(8)
  products = []
  for seed in range(1000):
    one, two = (_features(np, Favor(seed=seed), x) for x in (q, k))
    products.append((one * two).mean(-1))
  error = np.abs(np.mean(products, 0) - np.exp((q * k).sum(-1) / np.sqrt(8)))
  assert (error < 3 * np.std(products, 0) / np.sqrt(1000)).all()


def test_directions_are_orthogonal_in_blocks_and_of_normal_length():
  omega = directions(0, 64, 16)
  for block in omega.reshape(4, 16, 16):
    product = block @ block.T
    np.testing.assert_allclose(product, np.diag(np.diag(product)), atol=1e-12)
  squares = np.square(directions(1, 1600, 16)).sum(1)
  np.testing.assert_allclose([squares.mean(), squares.var()], [16, 32], rtol=0.15)  # those of χ² with 16 degrees


def test_directions_are_a_function_of_the_seed():
  np.testing.assert_array_equal(directions(3, 10, 4), directions(3, 10, 4))
  assert (directions(3, 10, 4) != directions(4, 10, 4)).all() and directions(3, 10, 4).shape == (10, 4)


def test_more_features_come_closer_to_softmax():
  q, k, v = (np.float64(_normal(1, 20, 2, 8)) + i for i in (0, 0.1, 0.2))
  mean = lambda weights: np.einsum("bnts,bsne->btne", weights / weights.sum(-1, keepdims=True), v)
  of_kind = lambda *fields: mean(_weights(Favor(*fields))(np, {}, q, k, None, None, None))
  want = mean(np.exp(np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(8)))
  errors = [np.mean([np.square(of_kind(features, seed) - want).mean() for seed in range(5)]) for features in (1, 8, 64)]
  assert errors[0] > 2 * errors[1] > 4 * errors[2]
  many = jax.jit(lambda *x: Favor(64).attend({}, *x, Context()))(*map(jnp.float32, (q, k, v)))
  np.testing.assert_allclose(many, of_kind(64), rtol=1e-4, atol=1e-5)


# -- stability ---------------------------------------------------------------------------------------------------------


def test_a_large_future_key_is_not_felt():
  x = _normal(1, 80, 1, 4)
  attend = jax.jit(lambda k: Favor().attend({}, x, k, x, Context(causal=True)))
  np.testing.assert_array_equal(attend(x.at[:, 70].mul(1e3))[:, :70], attend(x)[:, :70])


@pytest.mark.parametrize("scale, tolerance", [(1, 1e-5), (3, 1e-4)])
def test_float32_is_enough(scale, tolerance):
  """Heads of 64, whose exponents reach far."""
  q, k, v = (scale**(i < 2) * np.random.default_rng(i).normal(size=(1, 96, 2, 64)) for i in range(3))
  phi_q, phi_k = (_features(np, Favor(), x) for x in (q, k))
  weights = np.einsum("btnr,bsnr->bnts", phi_q, phi_k) * np.tri(96)
  want = np.einsum("bnts,bsne->btne", weights / weights.sum(-1, keepdims=True), v)
  out = jax.jit(lambda *x: Favor().attend({}, *x, Context(causal=True)))(*map(jnp.float32, (q, k, v)))
  assert np.abs(out - want).max() < tolerance


def test_wide_heads_do_not_overflow():
  """|ω|² / 2 exceeds what float32 can hold as an exponent, so keys give way."""
  omega = directions(0, 4 * 256, 256)
  k = jnp.asarray(omega[np.square(omega).sum(1).argmax()] * 4, jnp.float32)[None, None, None]  # its worst case: x = ω
  assert np.square(omega).sum(1).max() / 2 > 100
  out = jax.jit(lambda k: Favor().attend({}, k, k, jnp.ones_like(k), Context()))(k)
  np.testing.assert_allclose(out, 1, rtol=1e-5)


# -- counts and mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length, products", [(128, 67_633_152), (1024, 541_065_216)])
def test_reference_counts(length, products):
  """H (n + m) r d and H (n + m) r (e + 1); causal, in chunks of c, H n (c (r + e) + 2 r e + 2 r) for the latter."""
  count = Favor().core_count(LARGE, length, length, False)
  assert (count.params, count.products) == (0, products)
  size = chunks.pieces(length, kernel.CHUNK)[1]
  causal = 8 * length * (2 * 256 * 64 + size * (256 + 64) + 2 * 256 * 64 + 2 * 256)
  assert Favor().core_count(LARGE, length, length, True).products == causal


def test_a_number_of_features_must_be_positive():
  with pytest.raises(UserError, match="favor.features_per_dim=0: it must be at least 1"):
    Favor(0)


# -- what else it is ---------------------------------------------------------------------------------------------------


def test_the_released_stabiliser_lets_the_future_in():
  """The largest exponent of all keys, beside an epsilon in every feature: an earlier output feels a key that has a large
  one, as the direction itself has. Ours does not."""
  x, omega = np.asarray(_normal(1, 80, 1, 16), np.float64), directions(0, 64, 16)
  large = np.where(np.arange(80)[:, None, None] == 70, omega[np.square(omega).sum(1).argmax()] * 16**0.25, x)

  def released(k):
    phi_q, phi_k = (_features(np, Favor(), part) for part in (x, k))
    phi_q, phi_k = phi_q / phi_q.max(-1, keepdims=True) + 1e-4, phi_k / phi_k.max((1, 3), keepdims=True) + 1e-4
    weights = np.einsum("btnr,bsnr->bnts", phi_q, phi_k) * np.tri(80)
    return np.einsum("bnts,bsne->btne", weights / weights.sum(-1, keepdims=True), x)

  ours = jax.jit(lambda k: Favor().attend({}, *map(jnp.float32, (x, k, x)), Context(causal=True)))
  np.testing.assert_allclose(ours(x)[:, :70], released(x)[:, :70], atol=0.1)
  assert np.abs(released(large) - released(x))[:, :70].max() > 0.3
  np.testing.assert_array_equal(ours(large)[:, :70], ours(x)[:, :70])
