import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Context, Sizes
from nasformer.attention.eit import Eit
from nasformer.attention.softmax import Softmax
from nasformer.types import UserError

DIRECT, FOLDED = Eit(inner_units=5, cross_units=3), Eit(inner_units=2, cross_units=4)  # of three heads


class _Calm(Eit):
  """With logits a hundred times smaller: those of random weights would make every softmax a maximum."""

  def _maps(self, *args):
    return super()._maps(*args) / 100


def _weights(xp, params, q, k, case, length_q, length_k):
  """All H² maps, one query head after another, then the layers as they are defined."""
  relu, maps = lambda x: xp.maximum(x, 0), []
  for i in range(q.shape[2]):
    meet = xp.einsum("bth,bsmh->btsm", q[:, :, i], k) / np.sqrt(q.shape[-1])
    hidden = relu(meet @ params["inner_in"][i] + params["inner_in_bias"][i])
    maps.append(hidden @ params["inner_out"][i] + params["inner_out_bias"][i])
  maps = xp.stack(maps, -1)
  heads, units = params["cross_in_bias"].shape
  hidden = relu(maps @ params["cross_in"].reshape(heads, heads * units) + params["cross_in_bias"].reshape(-1))
  logits = hidden @ params["cross_out"].reshape(heads * units, heads) + params["cross_out_bias"]
  return xp.exp(xp.moveaxis(logits, -1, 1) / 100)


def _divisor(xp, total):
  return xp.where(total > 0, total, 1)


@pytest.mark.parametrize("units", [(5, 3), (2, 4)], ids=["direct", "folded"])
def test_equals_dense(check_dense, case, units):
  check_dense(_Calm(*units), _weights, _divisor, case)


def test_equals_dense_in_less_precision(check_precision):
  check_precision(_Calm(2, 4), _weights, _divisor)


def _draw(kind, seed=0):
  """As it starts: (parameters of the core, q, k) of three heads."""
  rng, declared = np.random.default_rng(seed), kind.core_params(Sizes(12, 3, 4))
  params = {name: tensor.init(jax.random.key(i), tensor.shape) for i, (name, tensor) in enumerate(declared.items())}
  return params, *(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 6, 3, 4), (2, 9, 3, 4)))


@pytest.mark.parametrize("kind", [pytest.param(Eit(), marks=pytest.mark.slow), DIRECT, FOLDED])
@pytest.mark.parametrize("causal", [False, True])
def test_it_starts_as_softmax_attention(kind, causal):
  params, q, k = _draw(kind)
  out, want = jax.jit(lambda context: (kind.attend(params, q, k, k, context), Softmax().attend({}, q, k, k, context)))(
      Context(causal=causal))
  np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)


def test_heads_do_not_meet_in_a_diagonal_cross_layer():
  """Without the inner map of a head, only that head's output changes."""
  params, q, k = _draw(Eit())
  attend = jax.jit(lambda params: Eit().attend(params, q, k, k, Context()))
  before, after = attend(params), attend(params | {"inner_out": params["inner_out"].at[1].set(0)})
  changed = np.abs(after - before).max((0, 1, 3))
  assert changed[1] > 1e-2 and not changed[[0, 2]].any()


def test_dead_heads_with_biases_stay_dead():
  """The living heads are those of a layer that has no others."""
  params, q, k = _draw(Eit())
  params = {name: value + 0.3 for name, value in params.items()}
  attend = jax.jit(lambda params, q, k, context: Eit().attend(params, q, k, k, context))
  out = attend(params, q, k, Context(keep_heads=jnp.arange(3) < 2))
  cut = {name: params[name][tuple(map(slice, tensor.shape))] for name, tensor in Eit().core_params(Sizes(8, 2, 4)).items()}
  want = attend(cut, q[:, :, :2], k[:, :, :2], Context())
  np.testing.assert_allclose(out[:, :, :2], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length, folded, direct", [(128, 52_953_088, 88_604_672), (1024, 3_271_557_120, 5_670_699_008)])
def test_reference_counts(monkeypatch, length, folded, direct):
  """H = 8, d = 64, U = S = 4: keys mixed instead of maps, and the H² maps themselves."""
  count = lambda: Eit().core_count(Sizes(512, 8, 64), length, length, False).products
  assert count() == folded
  monkeypatch.setattr(Eit, "_folds", lambda *_: False)
  assert count() == direct


@pytest.mark.parametrize("field", ["inner_units", "cross_units"])
def test_two_units_are_needed_to_start_as_the_identity(field):
  with pytest.raises(UserError, match=f"eit.{field}=1: it must be at least 2"):
    Eit(**{field: 1})
