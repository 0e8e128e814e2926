"""Decoding: fed one token after another, every kind of the table says what it says of all tokens at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import TABLE, chunks
from nasformer.attention.base import Context, Sizes
from nasformer.attention.cosformer import CosFormer
from nasformer.attention.evolving import Evolving
from nasformer.attention.luna import Luna
from nasformer.attention.mega import Mega
from nasformer.attention.momentum import Momentum
from nasformer.attention.nprf import Nprf
from nasformer.attention.softmax_relative import SoftmaxRelative
from nasformer.attention.softmax_t5 import SoftmaxT5
from nasformer.registry import lookup

KINDS = {name: lookup(TABLE, name)() for name in TABLE} | {
    "own_length": CosFormer(angle="own_length", max_length=11), "always_causal": CosFormer(causal=True, max_length=11),
    "near": SoftmaxRelative(max_distance=2), "buckets": SoftmaxT5(num_buckets=4, max_distance=3),
    "forgetful": Nprf(features=6, max_distance=2),
    "gated": Mega(activation="laplace", average="transforms", paper_ema=True),
    "gated_chunks": Mega(activation="relu2", chunk_size=4),
    "untied": Luna(4, tied=False),
    "dilated": Evolving(0.7, 0.9, dilated=True), "adaptive": Momentum(residual="adaptive")}
WIDTH, SOURCE_WIDTH, LENGTH, KEYS = 12, 7, 9, 5
SIZES = {"self": Sizes(WIDTH, 3, 4), "cross": Sizes(WIDTH, 3, 4, SOURCE_WIDTH)}
MASK = np.arange(KEYS) < np.array([5, 2, 4])[:, None]  # real source tokens of the three examples
BOTH = np.tile(MASK, (1, 2))  # those of two copies
over_causal = pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].can.causal])
over_cross = pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].can.cross])
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling
quick = functools.partial(jax.jit, compiler_options=QUICK)


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def weights(name, use):
  return {role: 0.5 * draw(i, *tensor.shape) for i, (role, tensor) in enumerate(KINDS[name].params(SIZES[use]).items())}


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def close(got, want, rtol=1e-10):
  np.testing.assert_allclose(got, want, rtol, rtol / 10)


def below(name, use="self"):
  """What the first layer is given from below, and how many layers are run: several where something travels up."""
  carries = KINDS[name].first_carry(dataclasses.replace(SIZES[use], causal=use == "self"), 1, 1, jnp.float32, 1) is not None
  return (None, 3) if carries else ("passed on", 1)


def prefilled(name, params, x, room):
  """Self-attention of a beginning at once, with room for more; and the state of every layer."""
  (mine, layers), states = below(name), []
  for _ in range(layers):
    out, state, mine = KINDS[name].prefill(params, x, room, mine)
    x, states = x + out, [*states, state]
  assert all(leaf.shape[0] == len(x) for leaf in jax.tree.leaves(states))
  return out, states


@functools.partial(quick, static_argnums=0)
def continued(name, params, states, x, position):
  """Self-attention of one token after another."""
  first, _ = below(name)

  def turn(carry, token):
    position, states = carry
    x, mine, after = token[:, None], first, []
    for state in states:
      out, state, mine = KINDS[name].step(params, x, state, position, mine)
      x, after = x + out, [*after, state]
    assert first is None or mine == first  # kinds that have nothing to pass on leave it alone
    return (position + 1, after), out[:, 0]

  return jnp.swapaxes(jax.lax.scan(turn, (position, states), jnp.swapaxes(x, 0, 1))[1], 0, 1)


def stepwise(name, params, x, room, first=0):
  """Self-attention of the first tokens at once and of one after another behind them, with room for so many."""
  start = quick(prefilled, static_argnums=(0, 3)) if first else prefilled
  out, states = start(name, *jax.tree.map(jnp.asarray, (params, x[:, :first])), room)
  rest = continued(name, params, states, np.roll(x, -first, 1), jnp.int32(first))  # as many as ever: one program
  return np.concatenate([out, rest[:, : x.shape[1] - first]], 1)


@functools.partial(quick, static_argnums=0)
def whole(name, params, x):
  """The causal pass over all tokens."""
  mine, layers = below(name)
  for _ in range(layers):
    out, mine = KINDS[name](params, x, x, Context(causal=True, stream=True), mine)
    x = x + out
  return out


@functools.partial(quick, static_argnums=(0, 5))
def looks(name, params, x, source, mask, copies):
  """Cross-attention of one token after another."""
  first, layers = below(name, "cross")

  def turn(carry, token):
    position, memories = carry
    x, mine, after = token[:, None], first, []
    for memory in memories:
      out, memory, mine = KINDS[name].look(params, x, memory, position, mine, Context(stream=True, copies=copies))
      x, after = x + out, [*after, memory]
    assert first is None or mine == first
    return (position + 1, after), out[:, 0]

  start = [KINDS[name].read(params, source, Context(key_mask=mask, stream=True, copies=copies))] * layers
  assert all(leaf.shape[0] == len(x) for leaf in jax.tree.leaves(start))
  return jnp.swapaxes(jax.lax.scan(turn, (jnp.int32(0), start), jnp.swapaxes(x, 0, 1))[1], 0, 1)


@functools.partial(quick, static_argnums=(0, 5))
def at_once(name, params, x, source, mask, copies):
  mine, layers = below(name, "cross")
  for _ in range(layers):
    out, mine = KINDS[name](params, x, source, Context(key_mask=mask, stream=True, copies=copies), mine)
    x = x + out
  return out


# -- self-attention ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, first", [
    pytest.param(name, first, marks=pytest.mark.slow if first == 1 and name != "mega" else ())
    for name in KINDS if KINDS[name].can.causal for first in (0, 1, LENGTH // 2)])
def test_steps_are_the_causal_pass(name, first):
  params, x = weights(name, "self"), draw(50, 3, LENGTH, WIDTH)
  want = whole(name, params, x)
  assert want.dtype == jnp.float64
  close(stepwise(name, params, x, LENGTH + 2, first), want)


@pytest.mark.parametrize("name, together", [
    pytest.param(name, together, marks=() if name == "mega" and together else pytest.mark.slow)
    for name in KINDS if KINDS[name].can.causal for together in (False, True)])
def test_long_beginnings(name, together, monkeypatch):
  """Of several pieces, whether they are worked on in turn or together, and longer than what a state may hold one by one."""
  monkeypatch.setattr(chunks, "at_once", lambda: together)
  x = draw(61, 2, 200, WIDTH) / 4
  kind = dataclasses.replace(KINDS[name], max_length=203) if hasattr(KINDS[name], "max_length") else KINDS[name]
  params = {role: 0.3 * draw(i, *tensor.shape) for i, (role, tensor) in enumerate(kind.params(SIZES["self"]).items())}

  @quick
  def both(params, x):
    want, _ = kind(params, x, x, Context(causal=True, stream=True))
    out, state, _ = kind.prefill(params, x[:, :197], 203)
    outs = [out]
    for position in range(197, 200):
      out, state, _ = kind.step(params, x[:, position, None], state, jnp.int32(position))
      outs.append(out)
    return jnp.concatenate(outs, 1), want

  close(*both(params, x), 1e-9)


@over_causal
def test_steps_of_a_row_do_not_know_the_others(name):
  """Nor do those that are made at once."""
  params, x = weights(name, "self"), draw(51, 3, LENGTH, WIDTH)
  out = stepwise(name, params, x, LENGTH + 2, LENGTH // 2)
  wild = np.where(np.arange(3)[:, None, None] == 1, x, 1e4)
  np.testing.assert_array_equal(stepwise(name, params, wild, LENGTH + 2, LENGTH // 2)[1], out[1])


@pytest.mark.slow
@over_causal
def test_steps_of_a_row_alone_with_less_room_are_the_same(name):
  params, x = weights(name, "self"), draw(51, 3, LENGTH, WIDTH)
  close(stepwise(name, params, x[1:2], LENGTH), stepwise(name, params, x, LENGTH + 2)[1:2])


@pytest.mark.parametrize("name", ["linear", "cosformer", "favor", "momentum", "luna", "forgetful", "gated_chunks"])
def test_a_state_does_not_grow_with_the_room(name):
  shapes = lambda room: jax.eval_shape(lambda params: KINDS[name].begin(params, 1, room, jnp.float32), weights(name, "self"))
  assert jax.tree.map(lambda x: x.shape, shapes(LENGTH)) == jax.tree.map(lambda x: x.shape, shapes(90 * LENGTH))


# -- cross-attention ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, copies", [
    pytest.param(name, copies, marks=pytest.mark.slow if copies == 1 else ())
    for name in KINDS if KINDS[name].can.cross for copies in (1, 2)])
def test_looks_are_the_whole_pass(name, copies):
  params, x, source = weights(name, "cross"), draw(52, 3, LENGTH, WIDTH), draw(53, 3, copies * KEYS, SOURCE_WIDTH)
  mask = np.tile(MASK, (1, copies))
  want = at_once(name, params, x, source, mask, copies)
  assert want.dtype == jnp.float64
  close(looks(name, params, x, source, mask, copies), want)


PARTS = ("linear", "nprf", "evolving")  # queries by their features, by their places, by those before


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in PARTS else pytest.mark.slow) for name in KINDS if KINDS[name].can.cross])
def test_several_looks_at_once_are_the_whole_pass(name):
  params, x, source = weights(name, "cross"), draw(52, 3, LENGTH, WIDTH), draw(53, 3, 2 * KEYS, SOURCE_WIDTH)
  close(quick(looks_in_parts, static_argnums=0)(name, params, x, source, BOTH), at_once(name, params, x, source, BOTH, 2))


def looks_in_parts(name, params, x, source, mask):
  """Cross-attention of the first four tokens at once, and of the others."""
  (first, layers), outs = below(name, "cross"), []
  context = Context(stream=True, copies=2)
  memories = [KINDS[name].read(params, source, context.replace(key_mask=mask))] * layers
  for position, part in ((0, x[:, :4]), (4, x[:, 4:])):
    mine = first
    for i, memory in enumerate(memories):
      out, memories[i], mine = KINDS[name].look(params, part, memory, jnp.int32(position), mine, context)
      part = part + out
    outs.append(out)
  return jnp.concatenate(outs, 1)


@over_cross
def test_looks_do_not_know_padding(name):
  params, x, source = weights(name, "cross"), draw(54, 3, LENGTH, WIDTH), draw(55, 3, 2 * KEYS, SOURCE_WIDTH)
  out = looks(name, params, x, source, BOTH, 2)
  np.testing.assert_array_equal(looks(name, params, x, np.where(BOTH[..., None], source, 1e4), BOTH, 2), out)


@pytest.mark.slow
@over_cross
def test_looks_of_a_row_alone_are_the_same(name):
  params, x, source = weights(name, "cross"), draw(54, 3, LENGTH, WIDTH), draw(55, 3, KEYS, SOURCE_WIDTH)
  out = looks(name, params, x, source, MASK, 1)
  close(looks(name, params, x[1:2], source[1:2, :2], np.ones((1, 2), bool), 1), out[1:2])


@pytest.mark.parametrize("run", [at_once, pytest.param(looks, marks=pytest.mark.slow)])
@over_cross
def test_positions_begin_anew_in_every_copy(name, run):
  """So the order of the copies does not matter, a copy that is not seen does nothing, nor does seeing one twice."""
  params, x = weights(name, "cross"), draw(56, 3, LENGTH, WIDTH)
  one, two = draw(57, 2, 3, KEYS, SOURCE_WIDTH)
  both = lambda *parts: np.concatenate(parts, 1)
  whole, alone = run(name, params, x, both(one, two), both(MASK, MASK), 2), run(name, params, x, one, MASK, 1)
  close(run(name, params, x, both(two, one), both(MASK, MASK), 2), whole)
  close(run(name, params, x, both(one, two), both(MASK, np.zeros_like(MASK)), 2), alone)
  close(run(name, params, x, both(one, one), both(MASK, MASK), 2), alone, rtol=1e-5)  # a divisor may have an epsilon
  assert np.abs(whole - alone).max() > 1e-2


# -- types -------------------------------------------------------------------------------------------------------------


def small_weights(name, use):
  """A softmax over large logits is as sharp as their rounding."""
  return jax.tree.map(lambda value: value / 2, weights(name, use))


def half(tree):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), tree)


def close_in_half_precision(got, want):
  """By the largest entry."""
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(jnp.float64), want, 0, 2e-2 * np.abs(want).max())


@pytest.mark.parametrize("name", [name for name in TABLE if KINDS[name].can.causal])
def test_half_precision_comes_out_of_steps(name):
  params, x = small_weights(name, "self"), draw(58, 3, LENGTH, WIDTH)
  close_in_half_precision(stepwise(name, params, half(x), LENGTH + 2), stepwise(name, params, x, LENGTH + 2))


@pytest.mark.parametrize("name", [name for name in TABLE if KINDS[name].can.cross])
def test_half_precision_comes_out_of_looks(name):
  params, x, source = small_weights(name, "cross"), draw(59, 3, LENGTH, WIDTH), draw(60, 3, 2 * KEYS, SOURCE_WIDTH)
  close_in_half_precision(looks(name, params, half(x), half(source), BOTH, 2), looks(name, params, x, source, BOTH, 2))
