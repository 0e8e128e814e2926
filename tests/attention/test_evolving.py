import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Context, Sizes
from nasformer.attention.evolving import Evolving
from nasformer.attention.softmax import Softmax
from nasformer.types import UserError

SIZES = Sizes(6, 2, 3)


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def weights(kind, seed=0, sizes=SIZES):
  return {name: 0.5 * draw(seed + i, *tensor.shape) for i, (name, tensor) in enumerate(kind.params(sizes).items())}


def close(got, want, rtol=1e-10):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, rtol / 100 * max(1, np.abs(b).max())), got, want)


@functools.partial(jax.jit, static_argnums=0)
def stack(kind, layers, x, context=Context()):
  """Layers on top of each other: outputs of all, each the input of the next, and what the last passes on."""

  def turn(below, p):
    x, carry = below
    out, carry = kind(p, x, x, context, carry)
    return (x + out, carry), out

  first = kind.first_carry(SIZES, len(x), x.shape[1], x.dtype)
  (_, carry), outs = jax.lax.scan(turn, (x, first), jax.tree.map(lambda *each: jnp.stack(each), *layers))
  return outs, carry


@functools.partial(jax.jit, static_argnums=0)
def said(kind, p, x, context=Context(), carry=None):
  return kind(p, x, x, context, carry)


# -- the definition, of one example ------------------------------------------------------------------------------------


def heads_of(p, name, x):
  return np.stack([x @ p[name][:, n] + p[f"{name}_bias"][n] for n in range(p[name].shape[1])])


def convolved(kernel, bias, maps, causal):
  """Entry by entry: kernel[row, column] belongs to the entry (row - 1, column - 1) further on."""
  heads, rows, columns = maps.shape
  out = np.tile(bias[:, None, None], (1, rows, columns))
  for row in range(2 if causal else 3):
    for column in range(3):
      moved = np.pad(maps, ((0, 0), (1, 1), (1, 1)))[:, row : row + rows, column : column + columns]
      out = out + np.einsum("its,io->ots", moved, kernel[row, column])
  return out


def reference(kind, layers, x, causal, source=None):
  """Queries are the last of the positions."""
  below, outs = None, []
  places = np.arange(len(x)) + (0 if source is None else len(source) - len(x))
  sees = (np.arange(places[-1] + 1) <= places[:, None]) | (not causal)
  for number, p in enumerate(layers):
    y = x if source is None else source
    q, k, v = (heads_of(p, name, z) for name, z in (("query", x), ("key", y), ("value", y)))
    maps = np.einsum("nth,nsh->nts", q, k) / np.sqrt(3) * sees
    if below is not None:
      mixed = (1 - kind.carry_mix) * maps + kind.carry_mix * below
      new = convolved(p["maps"], p["maps_bias"], mixed, causal)
      new = np.where(new > 0, new, kind.slope * new)
      maps = (kind.conv_mix * new + (1 - kind.conv_mix) * mixed) * sees
    below = maps
    w = np.exp(maps) * sees
    out = np.einsum("nts,nse->nte", w / np.where(sees.any(-1), w.sum(-1), 1)[..., None], v)
    out = np.einsum("nte,ned->td", out, p["out"]) + p["out_bias"]
    if kind.dilated:
      for tap, place in enumerate((-2, -1, 0) if causal else (-1, 0, 1)):
        there = places + place * 2**number
        inside = ((there >= 0) & (there < len(y)))[:, None]
        out = out + np.where(inside, y[np.clip(there, 0, len(y) - 1)], 0) @ p["tokens"][tap]
      out = out + p["tokens_bias"]
    outs, x = [*outs, out], x + out
  return outs


MAPS, DILATED = Evolving(0.7, 0.4, 0.2), Evolving(dilated=True)


@pytest.mark.parametrize("kind, causal", [
    (MAPS, False), (DILATED, True), pytest.param(MAPS, True, marks=pytest.mark.slow),
    pytest.param(DILATED, False, marks=pytest.mark.slow)], ids=["maps", "dilated-causal", "maps-causal", "dilated"])
def test_equals_the_definition(check_slopes, kind, causal):
  """Three layers, examples of two lengths: values, and gradients by everything."""
  inputs, slope, lengths = ([weights(kind, i) for i in range(3)], draw(50, 2, 7, 6)), draw(51, 3, 2, 7, 6), (7, 4)
  mask = jnp.asarray(np.arange(7) < np.array(lengths)[:, None])

  def dense(inputs):
    rows = [np.stack(reference(kind, inputs[0], row[:n], causal)) for row, n in zip(inputs[1], lengths)]
    return np.stack([np.pad(out, ((0, 0), (0, 7 - out.shape[1]), (0, 0))) for out in rows], axis=1)

  def loss(inputs):
    outs, _ = stack(kind, *inputs, Context(mask, mask, causal=causal))
    return (outs * slope).sum(), outs

  grads, outs = jax.jit(jax.grad(loss, has_aux=True))(inputs)
  close(outs, dense(inputs))
  check_slopes(grads, dense, inputs, slope)


@pytest.mark.parametrize("queries, keys", [(3, 7), (7, 3)])
def test_the_last_queries_equal_the_definition(queries, keys):
  """What lies before the first query or the first key is a border of the picture."""
  layers, x, source = [weights(DILATED, i) for i in range(2)], draw(50, 1, queries, 6), draw(51, 1, keys, 6)

  @jax.jit
  def run(layers, x, source):
    outs, carry = [], None
    for p in layers:
      out, carry = DILATED(p, x, source, Context(causal=True), carry)
      outs, x = [*outs, out], x + out
    return jnp.stack(outs)

  close(run(layers, x, source)[:, 0], np.stack(reference(DILATED, layers, x[0], True, source[0])))


# -- cross-attention, to more and fewer encoder layers -------------------------------------------------------------------


CROSS, SPANS = Sizes(6, 2, 3, 4), (2, 3, 1, 3)


def cross_reference(kind, layers, x, sources):
  """Each encoder layer is a picture, which a layer of the decoder sees or not; what was not seen below does not mix."""
  below, outs = {}, []
  for p, span in zip(layers, SPANS):
    q, pictures, values = heads_of(p, "query", x), {}, []
    for number, source in enumerate(sources[:span]):
      k = heads_of(p, "key", source)
      maps = np.einsum("nth,nsh->nts", q, k) / np.sqrt(3)
      if outs:
        mixed = (1 - kind.carry_mix) * maps + kind.carry_mix * below[number] if number in below else maps
        new = convolved(p["maps"], p["maps_bias"], mixed, True)
        maps = kind.conv_mix * np.where(new > 0, new, kind.slope * new) + (1 - kind.conv_mix) * mixed
      pictures[number] = maps
      values.append(heads_of(p, "value", source))
    below, w = pictures, np.exp(np.concatenate(list(pictures.values()), axis=2))
    out = np.einsum("nts,nse->nte", w / w.sum(-1, keepdims=True), np.concatenate(values, axis=1))
    out = np.einsum("nte,ned->td", out, p["out"]) + p["out_bias"]
    outs, x = [*outs, out], x + out
  return outs


@pytest.mark.parametrize("kind", [MAPS, DILATED], ids=["maps", "dilated"])
def test_cross_attention_equals_the_definition(check_slopes, kind):
  """Sliced, and with all encoder layers there but some of them not seen; of two lengths; gradients of that by everything."""
  layers, lengths = [weights(kind, i, CROSS) for i in SPANS], (4, 3)
  inputs, slope, real = (layers, draw(50, 2, 5, 6), draw(51, 3, 2, 4, 4)), draw(52, 4, 2, 5, 6), np.arange(4) < [[4], [3]]
  assert "tokens" not in layers[0]

  def loss(inputs, masked):
    layers, x, memory = inputs
    outs, carry = [], kind.first_carry(CROSS, 2, 5, x.dtype, 12) if masked else None
    for p, span in zip(layers, SPANS):
      copies = 3 if masked else span
      source = jnp.concatenate(list(memory[:copies]), axis=1)
      seen = jnp.tile(real, (1, copies)) & (jnp.arange(4 * copies) < 4 * span)
      out, carry = kind(p, x, source, Context(key_mask=seen, stream=True, copies=copies), carry)
      outs, x = [*outs, out], x + out
    return (jnp.stack(outs) * slope).sum(), jnp.stack(outs)

  def dense(inputs):
    layers, x, memory = inputs
    rows = [np.stack(cross_reference(kind, layers, row, [source[i][:n] for source in memory]))
            for i, (row, n) in enumerate(zip(x, lengths))]
    return np.stack(rows, axis=1)

  for masked, steep in ((False, False), (True, kind is MAPS)):
    found, outs = jax.jit(jax.grad(loss, has_aux=True) if steep else loss, static_argnums=1)(inputs, masked)
    close(outs, dense(inputs))
    if steep:
      check_slopes(found, dense, inputs, slope)


def test_cross_attention_does_not_see_later_queries():
  p, x, source, context = weights(MAPS, 0, CROSS), draw(50, 1, 5, 6), draw(51, 1, 4, 4), Context(stream=True)
  run = jax.jit(lambda p, x, source: MAPS(p, x, source, context, MAPS(p, x, source, context)[1])[0])
  wild = np.where(np.arange(5)[:, None] == 3, 1e4, x)
  np.testing.assert_array_equal(run(p, wild, source)[:, :3], run(p, x, source)[:, :3])


# -- properties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_without_mixing_it_is_softmax_attention(causal):
  kind = Evolving(0.0, 0.0)
  layers, x = [weights(kind, i) for i in range(2)], draw(50, 2, 5, 6)
  close(*jax.jit(lambda *inputs: [stack(each, *inputs, Context(causal=causal))[0] for each in (kind, Softmax())])(layers, x))


def test_an_identity_without_bend_is_a_running_mean():
  """Of the maps of all layers, in the shares 0.3 and 0.7."""
  kind = Evolving(0.3, 1.0, 1.0)
  identity = {"maps": np.zeros((3, 3, 2, 2)), "maps_bias": np.zeros(2)}
  identity["maps"][1, 1] = np.eye(2)
  x, first, second = draw(50, 2, 5, 6), weights(kind) | identity, weights(kind, 1) | identity
  _, below = said(kind, first, x)
  _, own = said(kind, second, x)
  _, after = said(kind, second, x, Context(), below)
  close(after["maps"], 0.7 * own["maps"] + 0.3 * below["maps"])
  assert np.abs(own["maps"] - below["maps"]).max() > 0.1


def test_it_starts_near_the_identity():
  tensor = Evolving().params(Sizes(64, 8, 8))["maps"]
  rest = np.array(jax.jit(lambda key: tensor.init(key, tensor.shape))(jax.random.key(0)))
  rest[1, 1] -= np.eye(8)
  assert np.abs(rest).max() < 0.1 and 0.015 < rest.std() < 0.025


def test_nothing_leaks_through_many_layers():
  kind = Evolving(dilated=True)
  layers, x = [weights(kind, i) for i in range(4)], draw(50, 1, 9, 6)
  run = lambda x: stack(kind, layers, x, Context(causal=True))[0]
  for first in (1, 5, 8):
    wild = np.where(np.arange(9)[:, None] == first, 1e4, x)
    np.testing.assert_array_equal(run(wild)[:, :, :first], run(x)[:, :, :first])


def test_a_head_that_was_dead_below_takes_its_own_map():
  """Then it is as if carry_mix were zero for it; the network of two heads that had one below says the same."""
  kind = Evolving(0.8, 0.0)
  p, x, none = weights(kind), draw(50, 2, 5, 6), kind.first_carry(SIZES, 2, 5, np.float64)
  of_heads = lambda *alive: Context(keep_heads=jnp.array(alive))
  _, carry = said(kind, p, x, of_heads(True, False), none)
  _, after = said(kind, p, x, of_heads(True, True), carry)
  close(after["maps"][:, 1], said(kind, p, x, of_heads(True, True), none)[1]["maps"][:, 1])
  assert not carry["maps"][:, 1].any() and carry["alive"].tolist() == [1, 0]
  cut = {name: p[name][tuple(map(slice, tensor.shape))] for name, tensor in kind.params(Sizes(6, 1, 3)).items()}
  _, small = said(kind, cut, x)
  assert small["maps"].shape == (2, 1, 5, 5)
  close(said(kind, p, x, of_heads(True, True), small)[1], after)


@pytest.mark.parametrize("heads", [[2, 1, 2], [1, 2, 1]])
def test_masked_heads_are_sliced_heads_all_the_way_up(heads):
  kind = Evolving()
  layers, x = [weights(kind, i) for i in range(3)], draw(50, 2, 5, 6)
  carry = masked = kind.first_carry(SIZES, 2, 5, x.dtype)
  for p, number in zip(layers, heads):
    out, masked = said(kind, p, x, Context(keep_heads=jnp.arange(2) < number), masked)
    cut = {name: p[name][tuple(map(slice, tensor.shape))] for name, tensor in kind.params(Sizes(6, number, 3)).items()}
    want, carry = said(kind, cut, x, Context(), carry)
    close((out, masked), (want, carry))
    x = x + out


def test_maps_of_another_shape_are_forgotten():
  kind = Evolving()
  one = lambda p, x, carry=None: kind(p, x, x, Context(), carry)
  both = jax.jit(lambda p, x: (one(p, x, one(p, x[:, :3])[1]), one(p, x)))
  close(*both(weights(kind), draw(50, 2, 5, 6)))


def test_a_decoder_needs_two_rows_of_the_kernel():
  causal = dataclasses.replace(SIZES, causal=True)
  assert Evolving().params(SIZES)["maps"].shape == (3, 3, 2, 2) and Evolving().params(causal)["maps"].shape == (2, 3, 2, 2)


@pytest.mark.parametrize("length, products", [(128, 26_214_400), (1024, 1_677_721_600)])
def test_reference_counts(length, products):
  """H n² (d + e) + 9 H² n² with H = 8, d = e = 64; the causal kernel has six entries."""
  sizes = Sizes(512, 8, 64)
  assert Evolving().core_count(sizes, length, length, False).products == products
  assert products - Evolving().core_count(sizes, length, length, True).products == 3 * 64 * length**2


@pytest.mark.parametrize("causal", [False, True])
def test_count_of_the_dilated_form(count_products, causal):
  kind = Evolving(dilated=True)
  shapes = {name: jax.ShapeDtypeStruct(tensor.shape, jnp.float32) for name, tensor in kind.params(SIZES).items()}
  x = jax.ShapeDtypeStruct((1, 5, 6), jnp.float32)
  done = count_products(lambda p, x: kind(p, x, x, Context(causal=causal))[0], shapes, x)
  assert kind.count(SIZES, 5, 5, causal).products == done
  assert kind.count(SIZES, 5, 5).params == sum(leaf.size for leaf in shapes.values())


@pytest.mark.parametrize("field", ["carry_mix", "conv_mix"])
def test_shares_lie_between_0_and_1(field):
  with pytest.raises(UserError, match=f"evolving.{field}=1.5: it must lie between 0 and 1"):
    Evolving(**{field: 1.5})


def test_heads_with_their_kernels_are_interchangeable():
  """In the upper of two layers, whose kernel mixes the maps of the lower one."""
  kind, turn = Evolving(0.7, 0.4, 0.2), np.array([1, 0])
  layers, x = [weights(kind, i) for i in range(2)], draw(50, 2, 5, 6)

  def shuffle(p):
    axes = {name: np.flatnonzero(np.array(tensor.axes) == "heads") for name, tensor in kind.params(SIZES).items()}
    return {name: functools.reduce(lambda a, i: a.take(turn, i), axes[name], value) for name, value in p.items()}

  close(stack(kind, [shuffle(p) for p in layers], x)[0], stack(kind, layers, x)[0])
