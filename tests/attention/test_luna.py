import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Context, Sizes
from nasformer.attention.luna import Luna
from nasformer.types import UserError

SELF, CROSS = Sizes(6, 2, 3), Sizes(6, 2, 3, source_dim=5)
SMALL = Luna(memory_length=4)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick = functools.partial(jax.jit, compiler_options=QUICK)


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def draw(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def weights(kind, sizes=SELF):
  return {name: 0.7 * draw(i, *tensor.shape) for i, (name, tensor) in enumerate(kind.params(sizes).items())}


def close(got, want, rtol=1e-9):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, rtol * max(1, np.abs(b).max())), got, want)


def ours(kind, p, x, source, context, carry=None):
  return quick(lambda p, x, source, context, carry: kind(p, x, source, context, carry))(p, x, source, context, carry)


# -- the definition, of one example ------------------------------------------------------------------------------------


def mapped(p, name, x):
  """Every head's own projection."""
  return [x @ p[name][:, n] + p[f"{name}_bias"][n] for n in range(p[name].shape[1])]


def softmax(logits, mask):
  w = jnp.exp(logits) * mask
  return w / w.sum(-1, keepdims=True)


def joined(p, name, heads):
  return sum(head @ p[name][n] for n, head in enumerate(heads))


def reference(p, x, source, carry):
  """Two softmax attentions; also gives the memory that travels on."""
  memory = p["memory"] * math.sqrt(x.shape[1]) + carry
  asks, keys = mapped(p, "memory_query", memory), mapped(p, "pack", source)
  found = joined(p, "memory_out", [softmax(a @ k.T / math.sqrt(3), 1.0) @ k for a, k in zip(asks, keys)])
  slots, there = mapped(p, "unpack", found), np.arange(len(memory)) < len(source)
  out = [softmax(q @ k.T / math.sqrt(3), there) @ k for q, k in zip(mapped(p, "query", x), slots)]
  sums = memory + found
  centred = sums - sums.mean(-1, keepdims=True)
  normed = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
  after = normed * p["memory_norm_scale"] + p["memory_norm_bias"] if "memory_norm_scale" in p else None
  return joined(p, "out", out) + p["out_bias"], after


def causal_reference(p, x):
  """Position by position, with sums of outer products."""
  asks = mapped(p, "memory_query", p["memory"] * math.sqrt(x.shape[1]))
  heads = []
  for ask, packed, key, query in zip(asks, *(mapped(p, name, x) for name in ("pack", "unpack", "query"))):
    w = jnp.log2(1 + 2 ** (packed @ ask.T / math.sqrt(3)))
    keys = jnp.cumsum(key[:, :, None] * w[:, None, :], 0) / np.arange(1, len(x) + 1)[:, None, None]
    read = softmax(jnp.einsum("th,thl->tl", query, keys) / math.sqrt(3), 1.0)
    heads.append(jnp.einsum("tl,thl->th", read, keys))
  return joined(p, "out", heads) + p["out_bias"]


@pytest.mark.parametrize("lengths", [(7, 5), (3, 7)], ids=["long", "shorter than the memory"])
def test_equals_the_definition(lengths):
  """Values, the memory that travels on, and gradients by everything."""
  p, x, carry, mask = weights(SMALL), draw(50, 2, 7, 6), draw(51, 2, 4, 6), np.arange(7) < np.array(lengths)[:, None]
  context = Context(jnp.asarray(mask), jnp.asarray(mask))
  slope = draw(52, 2, 7, 6), draw(53, 2, 4, 6)

  def dense(p, x, carry):
    rows = [reference(p, row[:n], row[:n], below) for row, below, n in zip(x, carry, lengths)]
    return jnp.stack([jnp.pad(out, ((0, 7 - len(out)), (0, 0))) for out, _ in rows]), jnp.stack([after for _, after in rows])

  def loss(*args, run):
    outs = run(*args)
    return sum((out * s).sum() for out, s in zip(outs, slope)), outs

  ours = lambda p, x, carry: SMALL(p, x, x, context, carry)
  close(*(quick(jax.grad(functools.partial(loss, run=run), argnums=(0, 1, 2), has_aux=True))(p, x, carry)
          for run in (ours, dense)))


def test_cross_attention_equals_the_definition():
  p, x, source, mask = weights(SMALL, CROSS), draw(50, 2, 4, 6), draw(51, 2, 7, 5), np.arange(7) < np.array([[7], [3]])
  got, carry = ours(SMALL, p, x, source, Context(key_mask=jnp.asarray(mask)))
  rows = quick(lambda p, x, source: (reference(p, x[0], source[0], 0)[0], reference(p, x[1], source[1, :3], 0)[0]))
  close(got, jnp.stack(rows(p, x, source)))
  assert carry is None


@pytest.mark.parametrize("length", [
    1, 150, *(pytest.param(length, marks=pytest.mark.slow) for length in (64, 65))])
def test_the_causal_form_equals_its_definition(length):
  p, x = weights(SMALL), draw(50, 2, length, 6)
  close(ours(SMALL, p, x, x, Context(causal=True))[0], quick(jax.vmap(causal_reference, (None, 0)))(p, x))


def test_gradients_of_the_causal_form():
  """Across chunks, with padding on the right and between, which do not count."""
  p, x, slope = weights(SMALL), draw(50, 1, 75, 6), draw(51, 1, 75, 6)
  real = np.arange(75) < 72
  real[10:20] = False
  mask, kept = jnp.asarray(real)[None], np.flatnonzero(real)
  run = lambda p, x: SMALL(p, x, x, Context(mask, mask, causal=True))[0][:, kept]
  dense = lambda p, x: causal_reference(p, x[0, kept])[None]
  got, want = (quick(jax.grad(lambda p, x, f=f: (f(p, x) * slope[:, kept]).sum(), argnums=(0, 1)))(p, x) for f in (run, dense))
  for name in ("memory_out", "memory_norm_scale", "memory_norm_bias"):  # of the other form
    assert not got[0].pop(name).any() and not want[0].pop(name).any()
  close(got, want)


# -- properties --------------------------------------------------------------------------------------------------------


def test_the_last_queries_of_a_longer_past():
  p, x = weights(SMALL), draw(50, 2, 9, 6)
  whole = ours(SMALL, p, x, x, Context(causal=True))[0]
  close(ours(SMALL, p, x[:, 6:], x, Context(causal=True))[0], whole[:, 6:])


def test_slots_beyond_a_short_sentence_do_nothing():
  """A longer memory whose further slots are masked is a shorter one."""
  p, x = weights(SMALL), draw(50, 2, 3, 6)
  out, carry = ours(SMALL, p, x, x, Context())
  short, less = ours(Luna(3), p | {"memory": p["memory"][:3]}, x, x, Context())
  close(out, short)
  close(carry[:, :3], less)


def test_what_comes_from_below_is_added_to_the_slots():
  p, x = weights(SMALL), draw(50, 2, 5, 6)
  carry = jnp.ones((2, 4, 6))
  close(ours(SMALL, p, x, x, Context(), carry), ours(SMALL, p | {"memory": p["memory"] + 1 / math.sqrt(6)}, x, x, Context()))
  first = SMALL.first_carry(SELF, 2, 5, x.dtype)
  close(ours(SMALL, p, x, x, Context(), first), ours(SMALL, p, x, x, Context()))


def test_order_means_nothing():
  p, x, order = weights(SMALL), draw(50, 2, 7, 6), np.random.default_rng(0).permutation(7)
  close(ours(SMALL, p, x, x[:, order], Context()), ours(SMALL, p, x, x, Context()))


def test_dead_channels_of_the_memory_stay_dead():
  p, x = weights(SMALL), draw(50, 2, 5, 6)
  keep = jnp.arange(6) < 4
  x = jnp.where(keep, x, 0)
  carry = jnp.where(keep, draw(51, 2, 4, 6), 0)
  out, after = ours(SMALL, p, x, x, Context(keep_embed=keep), carry)
  cut = {name: p[name][tuple(map(slice, tensor.shape))] for name, tensor in SMALL.params(Sizes(4, 2, 3)).items()}
  small, less = ours(SMALL, cut, x[..., :4], x[..., :4], Context(), carry[..., :4])
  close((out[..., :4], after[..., :4]), (small, less))
  assert not out[..., 4:].any() and not after[..., 4:].any()


def test_dropout_of_weights():
  """Half of them are dropped, and the mean over many draws is what it is without."""
  p, x = weights(SMALL), draw(50, 1, 6, 6) * 0.3
  p = {name: value * 0.3 for name, value in p.items()}
  for causal in (False, True):
    run = lambda key: SMALL(p, x, x, Context(dropout_key=key, dropout=jnp.float32(0.1), causal=causal))[0]
    outs = quick(jax.vmap(run))(jax.random.split(jax.random.key(0), 400))
    plain = SMALL(p, x, x, Context(causal=causal))[0]
    assert outs.std(0).max() > 1e-4 and np.abs(outs.mean(0) - plain).max() < 0.3 * np.abs(plain).max()


# -- what there is ------------------------------------------------------------------------------------------------------


def test_a_decoder_has_what_it_needs():
  both, causal, cross = (set(Luna().params(sizes)) for sizes in (SELF, dataclasses.replace(SELF, causal=True), CROSS))
  assert both - causal == {"memory_out", "memory_norm_scale", "memory_norm_bias"}
  assert both - cross == {"memory_norm_scale", "memory_norm_bias"}
  assert Luna().first_carry(dataclasses.replace(SELF, causal=True), 1, 5, jnp.float32) is None


@pytest.mark.parametrize("length, products", [(128, 8_388_608), (1024, 67_108_864)])
def test_reference_counts(length, products):
  """The two products of l = 32 slots; around them C² (2 n + m + 3 l): five maps and the one that the memory goes through."""
  maps = 512**2 * (3 * length + 3 * 32)
  assert Luna(32).count(Sizes(512, 8, 64), length, length).products == products + maps


def test_parameters_by_hand():
  """Six maps of 6 x 6 with biases (but for one), four slots and their norm."""
  assert SMALL.count(SELF, 1, 1).params == 6 * 36 + 5 * 6 + 4 * 6 + 2 * 6


def test_a_memory_needs_a_slot():
  with pytest.raises(UserError, match="luna.memory_length=0: it must be at least 1"):
    Luna(0)


@pytest.mark.parametrize("length, products", [(128, 10_485_760), (1024, 83_886_080)])
def test_reference_counts_of_the_causal_form(length, products):
  """5 n l C in all sums over l = 32 slots, and the squares inside chunks of 64: H n c 2 (d + l)."""
  maps = 512**2 * (4 * length + 32)
  inside = 8 * length * 64 * 2 * (64 + 32)
  assert Luna(32).count(Sizes(512, 8, 64, causal=True), length, length, True).products == products + maps + inside
