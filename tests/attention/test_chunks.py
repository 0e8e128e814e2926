import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry
from nasformer.attention import chunks, kernel, luna, nprf, online, softmax
from nasformer.attention.base import Context, Sizes
from nasformer.nets import blocks


def test_chunks_are_few_and_no_larger_than_needed():
  """65 positions are cut into 33 + 33 and not into 64 + 64, which would nearly double the work."""
  assert [chunks.pieces(length, 64) for length in (1, 64, 65, 128, 129)] == [(1, 1), (1, 64), (2, 33), (2, 64), (3, 43)]


@pytest.fixture(params=[False, True], ids=["in turn", "at once"])
def form(request, monkeypatch):
  monkeypatch.setattr(chunks, "at_once", lambda: request.param)


@pytest.mark.parametrize("length", [3, 11])
def test_a_fading_sum_in_chunks(form, length):
  """s_t = s_(t - 1) / 2 + x_t over 11 positions in chunks of at most 4, and its gradient, against the loop."""
  x = np.random.default_rng(0).normal(size=(2, length))
  size = chunks.pieces(length, 4)[1]
  halves = np.tril(0.5 ** np.subtract.outer(np.arange(length), np.arange(length)).clip(0))
  after = 0.5 ** np.arange(1, size + 1)
  add = lambda x: (x * after[::-1] * 2).sum(1)

  def read(state, x):
    out = x @ jnp.asarray(halves[:size, :size].T, x.dtype)
    return out if state is None else out + state[:, None] * after.astype(x.dtype)

  run = lambda x: chunks.running(lambda x: x, add, read, (x,), 4, lambda state, number: state * 0.5 ** (size * number))
  np.testing.assert_allclose(run(jnp.asarray(x)), x @ halves.T, rtol=1e-5)
  slope = jax.grad(lambda x: (run(x) ** 2).sum())(jnp.asarray(x))
  np.testing.assert_allclose(slope, 2 * (x @ halves.T) @ halves, rtol=1e-4)


def test_maps_and_sums_of_pieces(form):
  x = np.random.default_rng(0).normal(size=(2, 11)).astype(np.float32)
  np.testing.assert_allclose(chunks.mapped(lambda x: x**2, (jnp.asarray(x),), 4), x**2, rtol=1e-6)
  np.testing.assert_allclose(chunks.summed(lambda x: (x**2).sum(1), (jnp.asarray(x),), 4), (x**2).sum(1), rtol=1e-5)
  every, total = chunks.rows_and_sum(lambda x: (x**2, x), jnp.asarray(x))
  np.testing.assert_allclose(every, x**2, rtol=1e-6)
  np.testing.assert_allclose(total, x.sum(0), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", attention.TABLE)
def test_all_pieces_at_once_give_what_they_give_in_turn(monkeypatch, name, causal):
  """Kinds as an accelerator computes them: same values, same gradients."""
  kind = registry.lookup(attention.TABLE, name, "attention kind")()
  if causal and not kind.can.causal:
    pytest.skip("bidirectional only")
  for module, constant in ((kernel, "CHUNK"), (kernel, "BLOCK"), (luna, "CHUNK"), (nprf, "BLOCK"), (online, "BLOCK")):
    monkeypatch.setattr(module, constant, 4)
  monkeypatch.setattr(softmax, "LONG", 8)
  sizes = Sizes(12, 2, 6, causal=causal, grid=(3, 7) if kind.can.grid else None)
  params = blocks.initialise(jax.random.key(0), kind.params(sizes))
  x, weight = (jnp.asarray(np.random.default_rng(i).normal(size=(2, 21, 12)), jnp.float32) for i in range(2))
  mask = jnp.arange(21) < jnp.array([[21], [15]])
  context = Context(mask, mask, causal=causal, grid=sizes.grid)
  loss = lambda params, x: ((out := kind(params, x, x, context)[0]) * weight).sum() + (out**2).sum()
  forms = []
  for at_once in (False, True):
    monkeypatch.setattr(chunks, "at_once", lambda: at_once)
    forms.append(jax.jit(jax.value_and_grad(loss, (0, 1))).trace(params, x))
  if str(forms[0].jaxpr) == str(forms[1].jaxpr):
    pytest.skip("never goes by pieces")
  in_turn, at_once = (form.lower().compile()(params, x) for form in forms)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), at_once, in_turn)


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="this compiler merges what is computed again with what was before")
def test_pieces_at_once_are_not_kept_for_the_gradient(monkeypatch):
  """Of six layers whose features take 4 MB each; nothing is computed here."""
  monkeypatch.setattr(chunks, "at_once", lambda: True)
  wide, features = jnp.ones((8, 256)), 4096 * 256 * 4

  def loss(x):
    for _ in range(6):
      x = x + chunks.mapped(lambda x: jnp.tanh(x @ wide) @ wide.T, (x,), 512)
    return x.sum()

  plan = jax.jit(jax.grad(loss)).lower(jax.ShapeDtypeStruct((1, 4096, 8), jnp.float32)).compile().memory_analysis()
  assert plan.temp_size_in_bytes < 3 * features
