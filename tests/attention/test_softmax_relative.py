import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import softmax
from nasformer.attention.base import Context, Sizes
from nasformer.attention.softmax import Softmax
from nasformer.attention.softmax_relative import SoftmaxRelative
from nasformer.types import UserError

LARGE = Sizes(embed_dim=512, num_heads=8, head_dim=64)


def _weights(max_distance):
  """The direct form: q · (k + a), with a row of the table for every pair."""

  def weights(xp, params, q, k, case, length_q, length_k):
    start = case.keys - case.queries if case.causal else 0
    ahead = [[j - (i + start) for j in range(case.keys)] for i in range(case.queries)]
    rows = [[max(-max_distance, min(max_distance, d)) + max_distance for d in row] for row in ahead]
    keys = k[:, None] + params["relative"][np.array(rows)][None, :, :, None]
    return xp.exp(xp.einsum("btnh,btsnh->bnts", q, keys) / np.sqrt(q.shape[-1]))

  return weights


def _divisor(xp, total):
  return xp.where(total > 0, total, 1)


def test_equals_dense(check_dense, case):
  check_dense(SoftmaxRelative(3), _weights(3), _divisor, case)


def test_equals_dense_in_less_precision(check_precision):
  check_precision(SoftmaxRelative(3), _weights(3), _divisor)


def _normal(*shape):
  return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def test_an_empty_table_is_plain_softmax():
  q, k = _normal(2, 6, 3, 4), _normal(2, 9, 3, 4)
  relative = jax.jit(SoftmaxRelative().attend)({"relative": jnp.zeros((29, 4))}, q, k, k, Context(causal=True))
  np.testing.assert_array_equal(relative, jax.jit(Softmax().attend)({}, q, k, k, Context(causal=True)))


def test_a_table_beyond_all_distances_is_not_clipped():
  """Its outer rows have no effect: distances of 6 positions are at most 5."""
  x, table = _normal(2, 6, 3, 4), _normal(21, 4)
  long = jax.jit(SoftmaxRelative(10).attend)({"relative": table}, x, x, x, Context())
  exact = jax.jit(SoftmaxRelative(5).attend)({"relative": table[5:16]}, x, x, x, Context())
  np.testing.assert_allclose(long, exact, rtol=1e-6)


def test_the_sign_of_a_distance():
  """A table that prizes the key right after the query makes every query copy its neighbour."""
  v = _normal(1, 5, 1, 3)
  table = jnp.zeros((3, 4)).at[2].set(1e3)
  q = jnp.ones((1, 5, 1, 4))
  out = jax.jit(SoftmaxRelative(1).attend)({"relative": table}, q, q, v, Context(key_mask=jnp.arange(5)[None] < 2))
  np.testing.assert_allclose(out[:, 0], v[:, 1], rtol=1e-6)


@pytest.mark.parametrize("length, products, direct", [(128, 2_162_688, 8_388_608), (1024, 17_301_504, 536_870_912)])
def test_reference_counts(monkeypatch, count_products, length, products, direct):
  """The table costs H n (2k + 1) d on top of softmax that is made at once, the direct form H n² d; H = 8, d = 64, k = 16."""
  monkeypatch.setattr(softmax, "LONG", 2048)
  extra = SoftmaxRelative(16).core_count(LARGE, length, length, False).products
  assert extra - Softmax().core_count(LARGE, length, length, False).products == products
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  meet = lambda q, rows: jnp.einsum("btnh,tsh->bnts", q, rows)
  assert count_products(meet, shape(1, length, 8, 64), shape(length, length, 64)) == direct


def test_the_table_is_shared_by_the_heads():
  tensor, = SoftmaxRelative().core_params(LARGE).values()
  assert tensor.shape == (29, 64) and tensor.axes == (None, "head_dim")


def test_max_distance_must_be_positive():
  with pytest.raises(UserError, match="max_distance=0: it must be at least 1"):
    SoftmaxRelative(0)
