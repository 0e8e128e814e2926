import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import kernel
from nasformer.attention.base import Context, Count, Sizes
from nasformer.attention.linear import Linear
from nasformer.attention.momentum import Momentum
from nasformer.types import UserError

LARGE = Sizes(embed_dim=512, num_heads=8, head_dim=64)
KINDS = [Momentum(), Momentum(mu=0.0, gamma=1.0), Momentum(mu=0.9, gamma=0.1), Momentum(mu=1.0, gamma=2.0)]
over_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"mu={kind.mu}")


def _phi(x):
  return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def _draw(queries, keys, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=(3, length, 2, width)) for length, width in ((queries, 4), (keys, 4), (keys, 5))]


def _recurrence(kind, q, k, v, mask):
  """Step by step, with queries as the last of the positions; states see real keys only."""
  out = np.zeros((*q.shape[:3], v.shape[-1]))
  first = k.shape[1] - q.shape[1]
  for b in range(len(q)):
    momentum, total, norm = np.zeros((2, 4, 5)), np.zeros((2, 4, 5)), np.zeros((2, 4))
    for t in range(min(first, 0), k.shape[1]):
      if t >= 0 and mask[b, t]:
        momentum = kind.mu * momentum + kind.gamma * np.einsum("nr,ne->nre", _phi(k[b, t]), v[b, t])
        total, norm = total + momentum, norm + _phi(k[b, t])
      if t >= first:
        phi = _phi(q[b, t - first])
        out[b, t - first] = np.einsum("nr,nre->ne", phi, total) / (np.einsum("nr,nr->n", phi, norm) + 1e-6)[:, None]
  return out


def _full(kind, q, k, v, mask, copies=1):
  """Key j of L counts γ Σ_{i <= L - j} μ^i in the sum of values."""
  weights = np.einsum("btnr,bsnr->bnts", _phi(q), _phi(k)) * mask[:, None, None]
  size = k.shape[1] // copies
  for b, length in enumerate(mask[:, :size].sum(1)):
    for j in np.flatnonzero(mask[b]):
      v[b, j] *= kind.gamma * sum(kind.mu**i for i in range(length - j % size))
  return np.einsum("bnts,bsne->btne", weights, v) / (np.moveaxis(weights.sum(-1), 1, 2) + 1e-6)[..., None]


def _attend(kind, inputs, mask, **context):
  seen = None if mask is None else jnp.asarray(mask)
  with jax.enable_x64(True):
    return np.asarray(jax.jit(lambda *x: kind.attend({}, *x, Context(key_mask=seen, **context)))(*inputs))


def _prefix(keys):
  return np.arange(keys) < np.array([keys, (keys + 1) // 2, 0])[:, None]


@over_kinds
@pytest.mark.parametrize("queries, keys", [(1, 1), (9, 9), (4, 9), (9, 4)])
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_chunks_are_the_recurrence(kind, queries, keys, chunk, monkeypatch):
  """Rows after the last real key are not compared: there the state would go on without a key."""
  monkeypatch.setattr(kernel, "CHUNK", chunk)
  inputs, mask = _draw(queries, keys), _prefix(keys)
  got, want = _attend(kind, inputs, mask, causal=True), _recurrence(kind, *inputs, mask)
  real = np.arange(queries) + keys - queries < np.maximum(mask.sum(1), 1)[:, None]
  np.testing.assert_allclose(got[real], want[real], rtol=1e-10, atol=1e-12)


@over_kinds
@pytest.mark.parametrize("queries, keys, copies", [(1, 1, 1), (6, 6, 1), (2, 7, 1), (7, 6, 2)])
def test_without_causality_weights_go_by_the_real_length(kind, queries, keys, copies):
  inputs, mask = _draw(queries, keys), np.tile(_prefix(keys // copies), (1, copies))
  got = _attend(kind, inputs, mask, copies=copies)
  np.testing.assert_allclose(got, _full(kind, *map(np.copy, inputs), mask, copies), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_dense_weights(causal, monkeypatch):
  monkeypatch.setattr(kernel, "CHUNK", 4)
  kind, inputs = Momentum(), _draw(9, 9)
  lag = np.subtract.outer(np.arange(9), np.arange(9)) if causal else np.tile(8 - np.arange(9), (9, 1))
  seen = (lag >= 0) | (not causal)
  factor = np.array([[kind.gamma * sum(kind.mu**i for i in range(l + 1)) for l in row] for row in lag])

  def dense(q, k, v):
    phi = lambda x: jax.nn.elu(x) + 1
    weights = jnp.einsum("btnr,bsnr->bnts", phi(q), phi(k)) * seen
    return jnp.einsum("bnts,bsne->btne", weights * factor, v) / (jnp.moveaxis(weights.sum(-1), 1, 2) + 1e-6)[..., None]

  with jax.enable_x64(True):
    grads = [jax.jit(jax.grad(lambda i: jnp.sin(attend(*i)).sum()))(inputs)
             for attend in (lambda *i: kind.attend({}, *i, Context(causal=causal)), dense)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), *grads)


@pytest.mark.parametrize("causal", [False, True])
def test_without_momentum_it_is_linear_attention(causal):
  inputs, mask = _draw(9, 9), _prefix(9)
  got = _attend(Momentum(mu=0.0, gamma=1.0), inputs, mask, causal=causal)
  np.testing.assert_allclose(got, _attend(Linear(), inputs, mask, causal=causal), rtol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_less_precision(causal):
  inputs = _draw(9, 9)
  want = _attend(Momentum(), inputs, None, causal=causal)
  for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)):
    out = jax.jit(lambda *x: Momentum().attend({}, *x, Context(causal=causal)))(*(jnp.asarray(x, dtype) for x in inputs))
    assert out.dtype == dtype
    np.testing.assert_allclose(np.asarray(out, np.float64), want, tolerance, tolerance)


@pytest.mark.parametrize("length, products", [(128, 25_362_432), (1024, 202_899_456)])
def test_reference_counts(length, products):
  """Causal, in chunks of c = 64: H n (c (d + e + 1) + 4 d e + 2 d), of which c is by element."""
  count = Momentum().core_count(LARGE, length, length, True)
  assert (count.params, count.products + count.elementwise, count.elementwise) == (0, products, 8 * length * 64)
  full = Momentum().core_count(LARGE, length, length, False)
  assert full == Linear().core_count(LARGE, length, length, False) + Count(0, 0, 8 * length * 64)


def test_momentum_lies_between_0_and_1():
  with pytest.raises(UserError, match="momentum.mu=1.5: it must lie between 0 and 1"):
    Momentum(mu=1.5)
