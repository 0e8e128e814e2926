import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Context, Count, Sizes
from nasformer.attention.linear import Linear

LARGE = Sizes(embed_dim=512, num_heads=8, head_dim=64)


def _weights(xp, params, q, k, case, length_q, length_k):
  phi = lambda x: xp.where(x > 0, x + 1, xp.exp(xp.minimum(x, 0)))
  return xp.einsum("btnh,bsnh->bnts", phi(q), phi(k))


def _divisor(xp, total):
  return total + 1e-6


def test_equals_dense(check_dense, case):
  check_dense(Linear(), _weights, _divisor, case)


def test_equals_dense_in_less_precision(check_precision):
  check_precision(Linear(), _weights, _divisor)


def _normal(*shape):
  return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def test_equal_keys_give_the_running_mean():
  v = _normal(1, 7, 2, 3)
  same = jnp.ones((1, 7, 2, 4))
  out = jax.jit(Linear().attend)({}, _normal(1, 7, 2, 4), same, v, Context(causal=True))
  mean = np.cumsum(v, axis=1) / np.arange(1, 8)[None, :, None, None]
  np.testing.assert_allclose(out, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length, full, causal", [(128, 8_519_680, 16_908_288), (1024, 68_157_440, 135_266_304)])
def test_reference_counts(length, full, causal):
  """H (n + m) d (e + 1), and H n (c (d + e) + 2 d e + 2 d) in chunks of c = 64; H = 8, d = e = 64."""
  assert Linear().core_count(LARGE, length, length, False) == Count(0, full, 0)
  assert Linear().core_count(LARGE, length, length, True) == Count(0, causal, 0)
