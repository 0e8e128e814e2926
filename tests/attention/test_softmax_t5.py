import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Context, Sizes
from nasformer.attention.softmax import Softmax
from nasformer.attention.softmax_t5 import SoftmaxT5, bucket
from nasformer.types import UserError

SMALL = SoftmaxT5(8, 6)
BOTH_WAYS = {-128: 15, -127: 15, -91: 15, -90: 14, -64: 14, -32: 12, -16: 10, -8: 8, -7: 7, -1: 1, 0: 0, 1: 17, 7: 23,
             8: 24, 16: 26, 32: 28, 64: 30, 128: 31}
BACK = {-200: 31, -128: 31, -127: 31, -64: 26, -32: 21, -16: 16, -15: 15, -1: 1, 0: 0, 3: 0}


def _weights(kind):
  """The direct form: a bucket for every pair, by a one-hot product."""

  def weights(xp, params, q, k, case, length_q, length_k):
    start = case.keys - case.queries if case.causal else 0
    ahead = np.array([[j - (i + start) for j in range(case.keys)] for i in range(case.queries)])
    hot = bucket(ahead, case.causal, kind.num_buckets, kind.max_distance)[..., None] == np.arange(kind.num_buckets)
    bias = xp.einsum("tsr,nr->nts", hot.astype(float), params["distance_bias"])
    return xp.exp(xp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1]) + bias)

  return weights


def _divisor(xp, total):
  return xp.where(total > 0, total, 1)


def test_equals_dense(check_dense, case):
  check_dense(SMALL, _weights(SMALL), _divisor, case)


def test_equals_dense_in_less_precision(check_precision):
  check_precision(SMALL, _weights(SMALL), _divisor)


@pytest.mark.parametrize("causal, known", [(False, BOTH_WAYS), (True, BACK)])
def test_buckets(causal, known):
  """Worked out from the formula for 32 buckets and 128 positions."""
  np.testing.assert_array_equal(bucket(np.array(list(known)), causal, 32, 128), list(known.values()))


@pytest.mark.parametrize("causal", [False, True])
def test_every_bucket_is_used_and_grows_with_distance(causal):
  past = bucket(np.arange(0, -300, -1), causal, 32, 128)
  assert (np.diff(past) >= 0).all() and set(past) == set(range(32 if causal else 16))


def _normal(*shape):
  return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("causal", [False, True])
def test_an_empty_table_is_plain_softmax(causal):
  q, k = _normal(2, 6, 3, 4), _normal(2, 9, 3, 4)
  out = jax.jit(SMALL.attend)({"distance_bias": jnp.zeros((3, 8))}, q, k, k, Context(causal=causal))
  np.testing.assert_array_equal(out, jax.jit(Softmax().attend)({}, q, k, k, Context(causal=causal)))


def test_cross_attention_has_no_bias():
  assert SMALL.core_params(Sizes(12, 3, 4, source_dim=7)) == {} != SMALL.core_params(Sizes(12, 3, 4))
  assert SMALL.core_count(Sizes(12, 3, 4, 7), 5, 6, False) == Softmax().core_count(Sizes(12, 3, 4, 7), 5, 6, False)


def test_the_table_belongs_to_the_heads():
  (tensor,) = SoftmaxT5().core_params(Sizes(512, 8, 64)).values()
  assert tensor.shape == (8, 32) and tensor.axes == ("heads", None)


@pytest.mark.parametrize("fields, message", [({"num_buckets": 6}, "num_buckets=6: it must be a multiple of 4"),
                                             ({"max_distance": 16}, "max_distance=16: it must be above")])
def test_bad_fields(fields, message):
  with pytest.raises(UserError, match=message):
    SoftmaxT5(**fields)
