import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import luna
from nasformer.attention.base import Context, Sizes
from nasformer.attention.luna import Luna
from nasformer.types import UserError

SELF, CROSS = Sizes(6, 2, 3), Sizes(6, 2, 3, source_dim=5)
SMALL, UNTIED = Luna(memory_length=4), Luna(memory_length=4, tied=False)
over_both = pytest.mark.parametrize("kind", [SMALL, UNTIED], ids=["tied", "untied"])


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def weights(kind, sizes=SELF):
  return {name: 0.7 * draw(i, *tensor.shape) for i, (name, tensor) in enumerate(kind.params(sizes).items())}


def close(got, want, rtol=1e-10):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, rtol / 100 * max(1, np.abs(b).max())), got, want)


@functools.partial(jax.jit, static_argnums=0)
def ours(kind, p, x, source, context, carry=None):
  return kind(p, x, source, context, carry)


# -- the definition, of one example ------------------------------------------------------------------------------------


def mapped(p, name, x):
  """Every head's own projection."""
  return [x @ p[name][:, n] + p[f"{name}_bias"][n] for n in range(p[name].shape[1])]


def values(p, name, x):
  """The keys of that name, where values are not projected apart."""
  return mapped(p, f"{name}_value" if f"{name}_value" in p else name, x)


def softmax(logits, mask):
  w = np.exp(logits) * mask
  return w / w.sum(-1, keepdims=True)


def joined(p, name, heads):
  return sum(head @ p[name][n] for n, head in enumerate(heads))


def reference(p, x, source, carry):
  """Two softmax attentions; also gives the memory that travels on."""
  memory = p["memory"] * math.sqrt(x.shape[1]) + carry
  asks, keys = mapped(p, "memory_query", memory), mapped(p, "pack", source)
  found = [softmax(a @ k.T / math.sqrt(3), 1.0) @ v for a, k, v in zip(asks, keys, values(p, "pack", source))]
  found = joined(p, "memory_out", found)
  slots, there = mapped(p, "unpack", found), np.arange(len(memory)) < len(source)
  heads = zip(mapped(p, "query", x), slots, values(p, "unpack", found))
  out = [softmax(q @ k.T / math.sqrt(3), there) @ v for q, k, v in heads]
  sums = memory + found
  centred = sums - sums.mean(-1, keepdims=True)
  normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
  after = normed * p["memory_norm_scale"] + p["memory_norm_bias"] if "memory_norm_scale" in p else None
  return joined(p, "out", out) + p["out_bias"], after


def causal_reference(p, x, source):
  """Position by position, with sums of outer products; queries are the last positions, and may begin before the keys."""
  seen = np.maximum(np.arange(len(x)) + len(source) - len(x) + 1, 0)
  sums = lambda each: np.concatenate([0 * each[:1], np.cumsum(each, 0)])[seen] / np.maximum(seen, 1)[:, None, None]
  asks = mapped(p, "memory_query", p["memory"] * math.sqrt(x.shape[1]))
  heads = []
  roles = (mapped(p, "pack", source), mapped(p, "unpack", source), values(p, "unpack", source), mapped(p, "query", x))
  for ask, packed, key, value, query in zip(asks, *roles):
    w = np.log2(1 + 2 ** (packed @ ask.T / math.sqrt(3)))
    keys = sums(key[:, :, None] * w[:, None, :])
    read = softmax(np.einsum("th,thl->tl", query, keys) / math.sqrt(3), 1.0)
    heads.append(np.einsum("tl,thl->th", read, sums(value[:, :, None] * w[:, None, :])))
  return joined(p, "out", heads) + p["out_bias"]


@pytest.mark.parametrize("lengths, kind", [((7, 5), SMALL), ((3, 7), SMALL), ((7, 5), UNTIED)],
                         ids=["long", "shorter than the memory", "untied"])
def test_equals_the_definition(check_slopes, lengths, kind):
  """Values, the memory that travels on, and gradients by everything."""
  inputs, mask = (weights(kind), draw(50, 2, 7, 6), draw(51, 2, 4, 6)), np.arange(7) < np.array(lengths)[:, None]
  slope = draw(52, 2, 7, 6), draw(53, 2, 4, 6)

  def dense(inputs):
    p, x, carry = inputs
    rows = [reference(p, row[:n], row[:n], below) for row, below, n in zip(x, carry, lengths)]
    return np.stack([np.pad(out, ((0, 7 - len(out)), (0, 0))) for out, _ in rows]), np.stack([after for _, after in rows])

  grads, outs = self_slopes(kind, *inputs, mask, slope)
  close(outs, dense(inputs))
  check_slopes(grads, dense, inputs, slope)


@functools.partial(jax.jit, static_argnums=0)
def self_slopes(kind, p, x, carry, mask, slope):
  """Gradients of Σ slope · outputs by everything, and the outputs."""

  def loss(p, x, carry):
    outs = kind(p, x, x, Context(mask, mask), carry)
    return sum((out * s).sum() for out, s in zip(outs, slope)), outs

  return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(p, x, carry)


@over_both
def test_cross_attention_equals_the_definition(check_slopes, kind):
  """Values, and gradients by everything."""
  inputs, slope = (weights(kind, CROSS), draw(50, 2, 4, 6), draw(51, 2, 7, 5)), draw(52, 2, 4, 6)
  mask = jnp.arange(7) < jnp.array([[7], [3]])

  def run(inputs):
    out, carry = kind(*inputs, Context(key_mask=mask))
    assert carry is None
    return (out * slope).sum(), out

  def dense(inputs):
    p, x, source = inputs
    return np.stack([reference(p, x[0], source[0], 0)[0], reference(p, x[1], source[1, :3], 0)[0]])

  grads, out = jax.jit(jax.grad(run, has_aux=True))(inputs)
  close(out, dense(inputs))
  check_slopes(grads, dense, inputs, slope)


@pytest.mark.parametrize("queries, keys, chunk", [
    (1, 1, 64), (9, 9, 1), (9, 9, 7), (4, 9, 7), (9, 4, 7), (9, 9, 9), (9, 9, 14),
    *(pytest.param(n, n, 64, marks=pytest.mark.slow) for n in (64, 65, 150))])
def test_the_causal_form_equals_its_definition(queries, keys, chunk, monkeypatch):
  """Queries are the last of the positions; before the first key there is nothing but the bias."""
  monkeypatch.setattr(luna, "CHUNK", chunk)
  p, x, source = weights(SMALL), draw(50, 2, queries, 6), draw(51, 2, keys, 6)
  out, _ = jax.jit(lambda *inputs: SMALL(*inputs, Context(causal=True)))(p, x, source)
  close(out, np.stack([causal_reference(p, *row) for row in zip(x, source)]))
  np.testing.assert_array_equal(out[:, : max(queries - keys, 0)], np.tile(p["out_bias"], (2, max(queries - keys, 0), 1)))


@over_both
def test_gradients_of_the_causal_form(check_slopes, kind):
  """Across chunks, with fewer queries than keys, and with padding on the right and between, which does not count."""
  inputs, slope = (weights(kind), draw(50, 1, 70, 6), draw(51, 1, 75, 6)), draw(52, 1, 70, 6)
  real = np.arange(75) < 72
  real[10:20] = False
  shown, kept = real[5:], np.flatnonzero(real)
  slope[:, ~shown] = 0
  mask = jnp.asarray(real)[None]

  def run(*inputs):
    out = kind(*inputs, Context(mask[:, 5:], mask, causal=True))[0]
    return (out * slope).sum(), out

  grads, out = jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))(*inputs)

  def dense(inputs):
    p, x, source = inputs
    out = np.zeros(x.shape, np.result_type(*jax.tree.leaves(inputs)))
    out[0, shown] = causal_reference(p, x[0, shown], source[0, kept])
    return out

  close(out[0, shown], dense(inputs)[0, shown])
  for name in {"memory_out", "memory_norm_scale", "memory_norm_bias", "pack_value", "pack_value_bias"} & grads[0].keys():
    assert not grads[0][name].any()  # of the other form
  check_slopes(grads, dense, inputs, slope)


@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
def test_untied_with_equal_maps_is_tied(is_causal):
  p, x = weights(SMALL), draw(50, 2, 70, 6)
  equal = p | {f"{way}_value{end}": p[f"{way}{end}"] for way in ("pack", "unpack") for end in ("", "_bias")}
  assert equal.keys() == UNTIED.params(SELF).keys()
  close(ours(UNTIED, equal, x, x, Context(causal=is_causal)), ours(SMALL, p, x, x, Context(causal=is_causal)))


# -- properties --------------------------------------------------------------------------------------------------------


def test_slots_beyond_a_short_sentence_do_nothing():
  """A longer memory whose further slots are masked is a shorter one."""
  p, x = weights(SMALL), draw(50, 2, 3, 6)
  out, carry = ours(SMALL, p, x, x, Context())
  short, less = ours(Luna(3), p | {"memory": p["memory"][:3]}, x, x, Context())
  close(out, short)
  close(carry[:, :3], less)


def test_what_comes_from_below_is_added_to_the_slots():
  p, x = weights(SMALL), draw(50, 2, 5, 6)
  carry = np.ones((2, 4, 6))
  close(ours(SMALL, p, x, x, Context(), carry), ours(SMALL, p | {"memory": p["memory"] + 1 / math.sqrt(6)}, x, x, Context()))
  first = SMALL.first_carry(SELF, 2, 5, x.dtype)
  close(ours(SMALL, p, x, x, Context(), first), ours(SMALL, p, x, x, Context()))


@pytest.mark.parametrize("number", [2, 6])
def test_a_memory_of_another_length_comes_from_below(number):
  """Slots that a layer lacks travel on; those that are missing are zero."""
  p, x, carry = weights(SMALL), draw(50, 2, 5, 6), draw(52, 2, number, 6)
  out, after = ours(SMALL, p, x, x, Context(), carry)
  want, mine = ours(SMALL, p, x, x, Context(), np.pad(carry, ((0, 0), (0, 4), (0, 0)))[:, :4])
  close((out, after[:, :4]), (want, mine))
  np.testing.assert_array_equal(after[:, 4:], carry[:, 4:])


def test_order_means_nothing():
  p, x, order = weights(SMALL), draw(50, 2, 7, 6), np.random.default_rng(0).permutation(7)
  close(ours(SMALL, p, x, x[:, order], Context()), ours(SMALL, p, x, x, Context()))


def test_dead_channels_of_the_memory_stay_dead():
  p, x = weights(SMALL), draw(50, 2, 5, 6)
  keep = np.arange(6) < 4
  x = np.where(keep, x, 0)
  carry = np.where(keep, draw(51, 2, 4, 6), 0)
  out, after = ours(SMALL, p, x, x, Context(keep_embed=jnp.asarray(keep)), carry)
  cut = {name: p[name][tuple(map(slice, tensor.shape))] for name, tensor in SMALL.params(Sizes(4, 2, 3)).items()}
  small, less = ours(SMALL, cut, x[..., :4], x[..., :4], Context(), carry[..., :4])
  close((out[..., :4], after[..., :4]), (small, less))
  assert not out[..., 4:].any() and not after[..., 4:].any()


def test_dropout_of_weights():
  """Half of them are dropped, and the mean over many draws is what it is without."""
  p, x = jax.tree.map(lambda value: jnp.asarray(0.3 * value), (weights(SMALL), draw(50, 1, 6, 6)))
  for causal in (False, True):
    run = lambda key: SMALL(p, x, x, Context(dropout_key=key, dropout=jnp.float32(0.1), causal=causal))[0]
    outs = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 400))
    plain, _ = ours(SMALL, p, x, x, Context(causal=causal))
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


@pytest.mark.parametrize("sizes, keys", [(SELF, 9), (dataclasses.replace(SELF, causal=True), 9), (CROSS, 70)],
                         ids=["self", "causal", "cross"])
def test_counts_of_the_untied_form(count_products, sizes, keys):
  """Those of the program; 7 C² in all maps, one more the memory's, 6 C² in a decoder."""
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  params = {name: shape(*tensor.shape) for name, tensor in UNTIED.params(sizes).items()}
  call = lambda p, x, source: UNTIED(p, x, source, Context(causal=sizes.causal))[0]
  count = UNTIED.count(sizes, 9, keys, sizes.causal)
  assert 2 * count.products == count_products(call, params, shape(2, 9, 6), shape(2, keys, sizes.key_dim))
  maps = sum(math.prod(tensor.shape) for tensor in params.values() if tensor.ndim == 3)
  assert maps == {None: 6 if sizes.causal else 8, 5: 6 + 2 * 5 / 6}[sizes.source_dim] * 36


def test_a_memory_needs_a_slot():
  with pytest.raises(UserError, match="luna.memory_length=0: it must be at least 1"):
    Luna(0)


@pytest.mark.parametrize("length, products", [(128, 10_485_760), (1024, 83_886_080)])
def test_reference_counts_of_the_causal_form(length, products):
  """5 n l C in all sums over l = 32 slots, and the squares inside chunks of 64: H n c 2 (d + l). But slots go through the map
  that tokens would meet them by, l C (n H + C) + l C, which is less than n C (C + l)."""
  maps = 512**2 * (4 * length + 32)
  inside = 8 * length * 64 * 2 * (64 + 32)
  less = length * 512 * (512 + 32) - 32 * 512 * (length * 8 + 512 + 1)
  assert Luna(32).count(Sizes(512, 8, 64, causal=True), length, length, True).products == products + maps + inside - less
  assert less > 0
