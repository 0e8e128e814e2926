import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import softmax
from nasformer.attention.base import Context, Count, Sizes
from nasformer.attention.softmax import Softmax

LARGE = Sizes(embed_dim=512, num_heads=8, head_dim=64)


def _weights(xp, params, q, k, case, length_q, length_k):
  return xp.exp(xp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1]))


def _divisor(xp, total):
  return xp.where(total > 0, total, 1)


def test_equals_dense(check_dense, case):
  check_dense(Softmax(), _weights, _divisor, case)


def test_equals_dense_in_less_precision(check_precision):
  check_precision(Softmax(), _weights, _divisor)


def _normal(*shape):
  return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def test_a_sharp_logit_takes_all():
  """Logits of 1e6 do not overflow, with a mask or without: the weights become one-hot."""
  q = 1e3 * jnp.eye(4)[None, :, None]
  v = _normal(1, 4, 1, 3)
  for key_mask in (None, jnp.ones((1, 4), bool)):
    np.testing.assert_allclose(jax.jit(Softmax().attend)({}, q, q, v, Context(key_mask=key_mask)), v, rtol=1e-6)


def test_gradients_of_hidden_rows_are_zero_however_steep_the_loss():
  q = _normal(1, 3, 2, 4)
  context = Context(key_mask=jnp.zeros((1, 3), bool))
  grads = jax.jit(jax.grad(lambda i: (1e30 * Softmax().attend({}, *i, context)).sum()))((q, q, q))
  np.testing.assert_array_equal(grads, 0)


@pytest.mark.parametrize("length, products", [(128, 16_777_216), (1024, 1_073_741_824)])
def test_reference_counts(length, products):
  """H n m (d + e) at H = 8, d = e = 64; the causal form counts the full square; the queries are scaled."""
  for causal in (False, True):
    assert Softmax().core_count(LARGE, length, length, causal) == Count(0, products, 8 * length * 64)


@pytest.mark.parametrize("causal", [False, True])
def test_a_kernel_of_the_device_gives_the_same(monkeypatch, causal):
  """The library's own form in place of a GPU's kernel, which takes the same arguments."""
  q, k, v = (jnp.asarray(np.random.default_rng(i).normal(size=(2, 16, 3, 8)), jnp.float32) for i in range(3))
  monkeypatch.setattr(softmax, "LONG", 16)
  own = Softmax().attend({}, q, k, v, Context(causal=causal))
  monkeypatch.setattr(softmax, "ready", lambda *_: True)
  monkeypatch.setattr(softmax, "KERNEL", "xla")
  np.testing.assert_allclose(Softmax().attend({}, q, k, v, Context(causal=causal)), own, atol=1e-5)


def test_a_cpu_has_no_kernel():
  assert not softmax.ready(*[jnp.zeros((1, 2, 1, 8), jnp.bfloat16)] * 2)
