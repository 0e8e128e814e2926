import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from nasformer.attention import kernel
from nasformer.attention.base import Context, Count, Sizes
from nasformer.attention.linear import Linear
from nasformer.attention.momentum import Momentum
from nasformer.types import UserError

LARGE = Sizes(embed_dim=512, num_heads=8, head_dim=64)
KINDS = [Momentum(mu=0.0, gamma=1.0), Momentum(mu=0.1), Momentum(mu=0.9, gamma=0.1), Momentum(mu=1.0, gamma=2.0)]


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


def _full(kind, q, k, v, mask, copies=1, causal=False):
  """Key j of L counts γ Σ_{i <= L - j} μ^i in the sum of values."""
  sees = np.tri(q.shape[1], k.shape[1], k.shape[1] - q.shape[1]) if causal else 1
  weights = np.einsum("btnr,bsnr->bnts", _phi(q), _phi(k)) * mask[:, None, None] * sees
  size, counted = k.shape[1] // copies, np.zeros(mask.shape)
  for b, length in enumerate(mask[:, :size].sum(1)):
    for j in np.flatnonzero(mask[b]):
      counted[b, j] = kind.gamma * sum(kind.mu**i for i in range(length - j % size))
  sums = np.einsum("bnts,bsne->btne", weights, v * counted[..., None, None])
  return sums / (np.moveaxis(weights.sum(-1), 1, 2) + 1e-6)[..., None]


def _attend(kinds, inputs, mask, **context):
  """Of all kinds, which are compiled together."""
  run = jax.jit(lambda mask, *x: [kind.attend({}, *x, Context(key_mask=mask, **context)) for kind in kinds])
  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, run(mask, *inputs))


def _prefix(keys):
  return np.arange(keys) < np.array([keys, (keys + 1) // 2, 0])[:, None]


@pytest.mark.parametrize("queries, keys, chunk", [
    (1, 1, 64), *((queries, keys, chunk) for queries, keys in ((9, 9), (4, 9), (9, 4)) for chunk in (1, 4, 64))])
def test_chunks_are_the_recurrence(queries, keys, chunk, monkeypatch):
  """Rows after the last real key are not compared: there the state would go on without a key."""
  monkeypatch.setattr(kernel, "CHUNK", chunk)
  inputs, mask = _draw(queries, keys), _prefix(keys)
  real = np.arange(queries) + keys - queries < np.maximum(mask.sum(1), 1)[:, None]
  for kind, got in zip(KINDS, _attend(KINDS, inputs, mask, causal=True), strict=True):
    np.testing.assert_allclose(got[real], _recurrence(kind, *inputs, mask)[real], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("queries, keys, copies", [(1, 1, 1), (6, 6, 1), (2, 7, 1), (7, 6, 2)])
def test_without_causality_weights_go_by_the_real_length(queries, keys, copies):
  inputs, mask = _draw(queries, keys), np.tile(_prefix(keys // copies), (1, copies))
  for kind, got in zip(KINDS, _attend(KINDS, inputs, mask, copies=copies), strict=True):
    np.testing.assert_allclose(got, _full(kind, *inputs, mask, copies), rtol=1e-10, atol=1e-12)


def test_released_weights_by_hand():
  """One key after another of weight 1, μ = γ = 1/2 and L = 3: they count 7/8, 3/4 and 1/2 for whoever sees them."""
  kind, flat, v = Momentum(mu=0.5, gamma=0.5, release_weights=True), np.zeros((1, 3, 1, 1)), np.array([1.0, 10.0, 100.0])
  run = jax.jit(lambda q, v: [kind.attend({}, q, q, v, Context(causal=True, stream=stream)) for stream in (False, True)])
  with jax.enable_x64(True):
    out, in_a_decoder = (each[0, :, 0, 0] for each in run(flat, v[None, :, None, None]))
  np.testing.assert_allclose(out, np.array([0.875, 8.375, 58.375]) / ([1, 2, 3] + np.full(3, 1e-6)), rtol=1e-12)
  np.testing.assert_allclose(in_a_decoder, np.array([0.5, 5.75, 58.375]) / ([1, 2, 3] + np.full(3, 1e-6)), rtol=1e-12)


@pytest.mark.parametrize("queries, keys, chunk", [(9, 9, 4), (4, 9, 64), (9, 4, 64)])
def test_released_weights_go_by_the_real_length(queries, keys, chunk, monkeypatch):
  """For the keys up to each query's own, where queries are the last positions."""
  monkeypatch.setattr(kernel, "CHUNK", chunk)
  inputs, mask, kind = _draw(queries, keys), _prefix(keys), Momentum(release_weights=True)
  got, = _attend([kind], inputs, mask, causal=True)
  np.testing.assert_allclose(got, _full(kind, *inputs, mask, causal=True), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_dense_weights(check_slopes, causal, monkeypatch):
  monkeypatch.setattr(kernel, "CHUNK", 4)
  kind, inputs, slope = Momentum(), _draw(9, 9), np.random.default_rng(1).normal(size=(3, 9, 2, 5))
  lag = np.subtract.outer(np.arange(9), np.arange(9)) if causal else np.tile(8 - np.arange(9), (9, 1))
  factor = np.array([[kind.gamma * sum(kind.mu**i for i in range(l + 1)) for l in row] for row in lag])

  def dense(inputs):
    q, k, v = inputs
    weights = np.einsum("btnr,bsnr->bnts", _phi(q), _phi(k)) * ((lag >= 0) | (not causal))
    return np.einsum("bnts,bsne->btne", weights * factor, v) / (np.moveaxis(weights.sum(-1), 1, 2) + 1e-6)[..., None]

  loss = lambda inputs: (slope * kind.attend({}, *inputs, Context(causal=causal))).sum()
  with jax.enable_x64(True):
    grads = jax.jit(jax.grad(loss))(inputs)
  check_slopes(grads, dense, inputs, slope)


@pytest.mark.parametrize("causal", [False, True])
def test_without_momentum_it_is_linear_attention(causal):
  got, want = _attend((Momentum(mu=0.0, gamma=1.0), Linear()), _draw(9, 9), _prefix(9), causal=causal)
  np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_less_precision(causal):
  inputs = _draw(9, 9)
  want, = _attend((Momentum(),), inputs, None, causal=causal)
  run = jax.jit(lambda *rough: [Momentum().attend({}, *x, Context(causal=causal)) for x in rough])
  types = {jnp.float32: 1e-5, jnp.bfloat16: 2e-2}
  for out, (dtype, tolerance) in zip(run(*([jnp.asarray(x, dtype) for x in inputs] for dtype in types)), types.items()):
    assert out.dtype == dtype
    np.testing.assert_allclose(np.asarray(out, np.float64), want, tolerance, tolerance)


# -- through depth -----------------------------------------------------------------------------------------------------

SIZES = Sizes(6, 2, 3)


def _layers(kind, depth=3):
  """(function of inputs -> outputs of layers fed with them, parameters, inputs)."""
  rng = np.random.default_rng(0)
  params = [{name: rng.normal(size=tensor.shape) for name, tensor in kind.params(SIZES).items()} for _ in range(depth)]

  def run(params, x, carry=None):
    outs = []
    for p in params:
      out, carry = kind(p, x, x, Context(), carry)
      outs.append(out)
    return outs

  return run, params, rng.normal(size=(2, 5, 6))


@pytest.mark.parametrize("residual", ["fixed", "adaptive"])
def test_updates_gather_momentum_by_hand(residual):
  kind = Momentum(residual=residual, residual_mu=0.3, residual_gamma=0.7)
  run, params, x = _layers(kind)
  plain, _, _ = _layers(Momentum())
  with jax.enable_x64(True):
    zeros = kind.first_carry(SIZES, 2, 5, jnp.float64)
    got, begun, outs = jax.jit(lambda *inputs: (run(*inputs), run(*inputs, zeros), plain(*inputs)))(params, x)
  for one, two in zip(got, begun, strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-12)  # nothing below is the same as zeros
  update, before = np.zeros((2, 5, 6)), None
  for one, out in zip(got, map(np.asarray, outs), strict=True):
    mu = 0.3
    if residual == "adaptive" and before is not None:
      norm = lambda x: np.sqrt((x**2).sum(-1) + 1e-12)
      mu = np.clip((1 - np.sqrt(norm(out - before) / norm(update))) ** 2, 0, 1 - 1e-4)[..., None]
    update, before = mu * update + out, out
    np.testing.assert_allclose(one, 0.7 * update, rtol=1e-10)


def test_without_momentum_updates_are_outputs():
  run, params, x = _layers(Momentum(residual="fixed", residual_mu=0.0, residual_gamma=1.0))
  plain, _, _ = _layers(Momentum())
  with jax.enable_x64(True):
    for one, two in zip(*jax.jit(lambda *inputs: (run(*inputs), plain(*inputs)))(params, x), strict=True):
      np.testing.assert_allclose(one, two, rtol=1e-12)


def test_tokens_one_by_one_gather_the_same_momentum():
  kind = Momentum(residual="adaptive")
  _, params, x = _layers(kind)

  def whole(params, x):
    carry = None
    for p in params:
      out, carry = kind(p, x, x, Context(causal=True, stream=True), carry)
    return out

  def stepwise(params, x):
    states, outs = [kind.begin(p, 2, 3, x.dtype) for p in params], []
    for position in range(3):
      carry = None
      for number, p in enumerate(params):
        out, states[number], carry = kind.step(p, x[:, position, None], states[number], jnp.int32(position), carry)
      outs.append(out)
    return jnp.concatenate(outs, axis=1)

  with jax.enable_x64(True):
    both = jax.jit(lambda *inputs: (stepwise(*inputs), whole(*inputs)))(params, x[:, :3])
  np.testing.assert_allclose(*both, rtol=1e-10, atol=1e-12)


def test_equal_outputs_of_two_layers_have_gradients():
  run, params, x = _layers(Momentum(residual="adaptive"), 1)
  same = jax.tree.map(jnp.float32, params * 3)
  grads = jax.jit(jax.grad(lambda p, x: sum(out.sum() for out in run(p, x)), (0, 1)))(same, jnp.float32(x))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


# -- counts and mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length, products", [(128, 25_362_432), (1024, 202_899_456)])
def test_reference_counts(length, products):
  """Causal, in chunks of c = 64: H n (c (d + e + 1) + 4 d e + 2 d), of which c is by element."""
  count = Momentum().core_count(LARGE, length, length, True)
  assert (count.params, count.products + count.elementwise, count.elementwise) == (0, products, 8 * length * 64)
  full = Momentum().core_count(LARGE, length, length, False)
  assert full == Linear().core_count(LARGE, length, length, False) + Count(0, 0, 8 * length * 64)


def test_mistakes_are_told():
  with pytest.raises(UserError, match="momentum.mu=1.5: it must lie between 0 and 1"):
    Momentum(mu=1.5)
  with pytest.raises((UserError, jaxtyping.TypeCheckError), match="'adaptive'"):  # the annotation may come first
    Momentum(residual="heavy")
