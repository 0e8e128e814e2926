import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from nasformer.attention.base import Context, Sizes
from nasformer.attention.cosformer import CosFormer
from nasformer.types import UserError

LARGE = Sizes(embed_dim=512, num_heads=8, head_dim=64)


def _weights(max_length=4096, own_length=False):
  """ReLU(q_i) · ReLU(k_j) cos(π/2 (i / M - j / M')), with positions from 1 and the M of each example."""

  def weights(xp, params, q, k, case, length_q, length_k):
    queries, keys = 1.0 + np.arange(case.queries), 1.0 + np.arange(case.keys)
    if case.causal:
      angle = np.subtract.outer(queries + case.keys - case.queries, keys) / max_length * np.ones((len(q), 1, 1))
    else:
      m_q, m_k = np.maximum(length_q, 1), np.maximum(length_k, 1)
      m_q, m_k = (m_q, m_k) if own_length else (np.maximum(m_q, m_k),) * 2
      angle = np.stack([np.subtract.outer(queries / a, keys / b) for a, b in zip(m_q, m_k)])
    relu = lambda x: xp.maximum(x, 0)
    return xp.einsum("btnh,bsnh->bnts", relu(q), relu(k)) * np.cos(np.pi / 2 * angle)[:, None]

  return weights


def _divisor(xp, total):
  return xp.maximum(total, 1e-6)


def test_equals_dense(check_dense, case):
  check_dense(CosFormer(max_length=11), _weights(11), _divisor, case)


def test_own_lengths_equal_dense(check_dense, case):
  if case.causal:
    pytest.skip("causal layers have one M for both sides")
  check_dense(CosFormer(angle="own_length"), _weights(own_length=True), _divisor, case)


def test_equals_dense_in_less_precision(check_precision):
  check_precision(CosFormer(max_length=11), _weights(11), _divisor)


def _normal(*shape):
  return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def test_a_query_without_positive_entries_gets_zero():
  x = jnp.abs(_normal(1, 5, 2, 4))
  assert not jax.jit(CosFormer().attend)({}, -x, x, x, Context()).any()


def test_own_causal_flag_hides_later_positions_of_a_bidirectional_network():
  x = _normal(2, 6, 3, 4)
  own = jax.jit(CosFormer(causal=True).attend)({}, x, x, x, Context())
  np.testing.assert_array_equal(own, jax.jit(CosFormer().attend)({}, x, x, x, Context(causal=True)))
  short = jax.jit(CosFormer(causal=True).attend)({}, *[x[:, :4]] * 3, Context())
  np.testing.assert_allclose(own[:, :4], short, rtol=1e-5, atol=1e-6)


def test_causal_count_follows_the_own_flag():
  both = [kind.core_count(LARGE, 65, 65, causal) for kind, causal in ((CosFormer(True), False), (CosFormer(), True))]
  assert both[0] == both[1] != CosFormer().core_count(LARGE, 65, 65, False)


def test_a_very_long_maximum_is_plain_relu_attention():
  q, k, v = _normal(1, 5, 2, 4), _normal(1, 5, 2, 4) + 1, _normal(1, 5, 2, 3)
  w = np.einsum("btnh,bsnh->bnts", np.maximum(q, 0), np.maximum(k, 0)) * np.tri(5)
  want = np.einsum("bnts,bsne->btne", w / np.maximum(w.sum(-1, keepdims=True), 1e-6), v)
  out = jax.jit(CosFormer(max_length=10**6).attend)({}, q, k, v, Context(causal=True))
  np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length, products", [(128, 17_301_504), (1024, 138_412_032)])
def test_reference_counts(length, products):
  """H (n + m) 2d (e + 1), and 2 H (n + m) d multiplications by the angles; H = 8, d = e = 64."""
  count = CosFormer().core_count(LARGE, length, length, False)
  assert (count.params, count.products + count.elementwise) == (0, products)
  assert count.elementwise == 2 * 8 * 2 * length * 64


def test_input_beyond_the_maximum_is_refused():
  """Where M cannot be the real length: in cross-attention either side may be too long, in decoding the room for tokens."""
  kind, x = CosFormer(max_length=4), jnp.ones((1, 5, 1, 2))
  near, cross = x[:, :4], Context(stream=True)
  refused = lambda: pytest.raises(UserError, match="max_length=4 is shorter than the input of 5 positions: raise it to 5")
  for q, k, context in ((x, x, Context(causal=True)), (x, near, cross), (near, x, cross)):
    with refused():
      jax.eval_shape(kind.attend, {}, q, k, k, context)
  with refused():
    kind.start(1, 5, 1, 2, 2, jnp.float32)
  for q, context in ((x, Context()), (near, Context(causal=True)), (near, cross)):
    jax.eval_shape(kind.attend, {}, q, q, q, context)
  jax.eval_shape(lambda: kind.start(1, 4, 1, 2, 2, jnp.float32))


def test_unknown_angle_is_refused():
  with pytest.raises((UserError, jaxtyping.TypeCheckError), match="'own_length'"):  # the annotation may come first
    CosFormer(angle="own")


@pytest.mark.parametrize("causal", [False, True])
def test_no_weight_is_negative(causal):
  """As long as positions stay below the maximum: a one-hot value shows the weight of its key."""
  q, k = (np.abs(np.random.default_rng(seed).normal(size=(1, 9, 2, 4))) for seed in range(2))
  v = np.tile(np.eye(9)[None, :, None], (1, 1, 2, 1))
  with jax.enable_x64(True):
    weights = np.asarray(jax.jit(CosFormer(max_length=9).attend)({}, q, k, v, Context(causal=causal)))
  assert (weights >= 0).all() and (weights > 0).any((0, 2)).sum() == (45 if causal else 81)
