import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.special

from nasformer.attention.base import Context, Sizes
from nasformer.attention.mega import Mega, _laplace
from nasformer.attention.softmax_t5 import SoftmaxT5
from nasformer.ops.toeplitz import fast_length, transform_count
from nasformer.types import UserError

SIZES, CROSS = Sizes(6, 2, 3), Sizes(6, 2, 3, source_dim=5)
FORMS = {"softmax": Mega(max_length=9), "laplace": Mega(activation="laplace", max_length=11),
         "relu2": Mega(activation="relu2", ema_dim=3), "paper": Mega(paper_ema=True),
         "transforms": Mega(average="transforms"), "chunks": Mega(chunk_size=4),
         "laplace_chunks": Mega(chunk_size=3, activation="laplace"),
         "one_chunk": Mega(chunk_size=20), "narrow": Mega(query_dim=2, ema_dim=5)}


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def weights(kind, sizes=SIZES):
  return {name: 0.7 * draw(i, *tensor.shape) for i, (name, tensor) in enumerate(kind.params(sizes).items())}


def close(got, want, rtol=1e-10):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, rtol / 100 * max(1, np.abs(b).max())), got, want)


@functools.partial(jax.jit, static_argnums=0)
def said(kind, p, x, source, context):
  return kind(p, x, source, context)[0]


# -- the definition, written out ------------------------------------------------------------------------------------

sigmoid = lambda x: 1 / (1 + np.exp(-x))
silu = lambda x: x * sigmoid(x)


def averages(kind, p, x, causal):
  """Of one example, with every power of every decay; lag 0 belongs to both directions."""
  lag, total = np.arange(len(x))[:, None] - np.arange(len(x)), 0
  for way in range(1 if causal else 2):
    away = -lag if way else lag
    alpha, delta = sigmoid(p["ema_alpha"][way]), sigmoid(p["ema_delta"][way])
    powers = (1 - alpha * delta) ** np.maximum(away, 0)[..., None, None] * (away >= 0)[..., None, None]
    kernel = (p["ema_eta"][way] * alpha * p["ema_beta"][way] * powers).sum(-1)
    total += np.einsum("tsd,sd->td", kernel, x) / (1 if kind.paper_ema else math.sqrt(kind.ema_dim))
  return total


def attended(kind, q, k, v, table, sees):
  """One example; query i sees key j where sees[i, j]."""
  lag = np.where(sees, np.arange(len(k)) - np.arange(len(q))[:, None], 0)
  bias, number = table[2 * abs(lag) - (lag < 0)], np.maximum(sees.sum(1, keepdims=True), 1)
  if kind.activation == "softmax":
    w = np.exp(q @ k.T / math.sqrt(q.shape[1]) + bias) * sees
    return w @ v / np.where(sees.any(1, keepdims=True), w.sum(1, keepdims=True), 1)
  s = q @ k.T / number + bias
  deviation = math.sqrt(1 / (4 * math.pi))
  laplace = 0.5 * (1 + scipy.special.erf((s - math.sqrt(1 / 2)) / (deviation * math.sqrt(2))))
  return (laplace if kind.activation == "laplace" else np.maximum(s, 0) ** 2) * sees @ v


def flat(p, name):
  """A projection to heads as a matrix and a vector."""
  return p[name].reshape(len(p[name]), -1), p[f"{name}_bias"].reshape(-1)


def reference(kind, p, x, real, sees, causal):
  """Self-attention of one example, less the residual."""
  clean = np.where(real[:, None], x, 0)
  mixed = averages(kind, p, clean, causal)
  mixed = mixed if kind.paper_ema else silu(mixed + p["skip_scale"] * x)
  z = silu(mixed @ p["shared"] + p["shared_bias"])
  q, k = z * p["query_scale"] + p["query_bias"], z * p["key_scale"] + p["key_bias"]
  matrix, bias = flat(p, "value")
  o = attended(kind, q, k, silu(x @ matrix + bias), p["distance_bias"], sees)
  matrix, bias = flat(p, "gate")
  o = silu(mixed @ matrix + bias) * o
  hidden = silu(mixed @ p["hidden"] + o @ p["out"].reshape(-1, x.shape[1]) + p["out_bias"])
  out = sigmoid(mixed @ p["update"] + p["update_bias"]) * (hidden - x)
  return np.where(sees.any(1, keepdims=True), out, 0)


ONCE = [("softmax", False), ("laplace", True), ("relu2", False), ("paper", True), ("transforms", True),
        ("chunks", True), ("one_chunk", False)]


@pytest.mark.parametrize("form, causal", [
    pytest.param(*each, marks=() if each in ONCE else pytest.mark.slow) for each in itertools.product(FORMS, (False, True))])
def test_equals_the_definition(check_slopes, form, causal):
  """Values, and gradients by all parameters and the input; examples of two lengths."""
  kind = FORMS[form]
  inputs, slope, lengths = (weights(kind), draw(50, 2, 9, 6)), draw(51, 2, 9, 6), (9, 5)
  mask = np.arange(9) < np.array(lengths)[:, None]

  def ours(p, x):
    out = kind(p, x, x, Context(jnp.asarray(mask), jnp.asarray(mask), causal=causal))[0]
    return (out * slope).sum(), out

  def dense(inputs):
    size, there = kind.chunk_size or 9, range(9)
    sees = [[[real[j] and i // size == j // size and (j <= i or not causal) for j in there] for i in there] for real in mask]
    rows = [reference(kind, inputs[0], *example, causal) for example in zip(inputs[1], mask, np.array(sees))]
    return np.where(mask[..., None], rows, 0)

  grads, out = jax.jit(jax.grad(ours, argnums=(0, 1), has_aux=True))(*inputs)
  close(out, dense(inputs))
  check_slopes(grads, dense, inputs, slope)


@pytest.mark.parametrize("activation", ["softmax", "laplace"])
def test_cross_attention_equals_the_definition(check_slopes, activation):
  """Values, and gradients by everything."""
  kind = Mega(activation=activation, chunk_size=2)  # of no meaning here
  inputs, slope = (weights(kind, CROSS), draw(50, 2, 4, 6), draw(51, 2, 7, 5)), draw(52, 2, 4, 6)
  mask = np.arange(7) < np.array([[7], [3]])

  def row(p, x, source, real):
    q, k = silu(x @ p["query"] + p["query_bias"]), silu(source @ p["key"] + p["key_bias"])
    matrix, bias = flat(p, "value")
    o = attended(kind, q, k, silu(source @ matrix + bias), p["distance_bias"], np.tile(real, (len(x), 1)))
    o = silu(x @ flat(p, "gate")[0] + flat(p, "gate")[1]) * o
    hidden = silu(o @ p["out"].reshape(-1, 6) + p["out_bias"])
    return sigmoid(x @ p["update"] + p["update_bias"]) * (hidden - x)

  def ours(inputs):
    out = kind(*inputs, Context(key_mask=jnp.asarray(mask)))[0]
    return (out * slope).sum(), out

  dense = lambda inputs: np.stack([row(inputs[0], *each) for each in zip(*inputs[1:], mask)])
  grads, out = jax.jit(jax.grad(ours, has_aux=True))(inputs)
  close(out, dense(inputs))
  check_slopes(grads, dense, inputs, slope)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [
    1, 150, *(pytest.param(length, marks=pytest.mark.slow) for length in (64, 65))])
def test_the_average_in_chunks_and_by_transforms_is_the_average(causal, length):
  p, x = weights(Mega()), draw(50, 2, length, 6)
  want = np.stack([averages(Mega(), p, row, causal) for row in x])
  forms = Mega(), Mega(average="transforms")
  for got in jax.jit(lambda p, x: [form._moving_average(p, x, causal) for form in forms])(p, x):
    close(got, want)


# -- properties --------------------------------------------------------------------------------------------------------


def test_a_token_counts_twice_in_its_own_average():
  """Once for either direction."""
  p, x = weights(Mega()), draw(50, 1, 1, 6)
  once = (sigmoid(p["ema_alpha"]) * p["ema_beta"] * p["ema_eta"] * x[0, 0, :, None]).sum(-1) / 4
  close(jax.jit(lambda p, x: Mega()._moving_average(p, x, False))(p, x)[0, 0], once.sum(0))


def test_laplace_by_hand():
  got = _laplace(jnp.array([0.0, math.sqrt(0.5), math.sqrt(2)]))
  np.testing.assert_allclose(got, [0.006094, 0.5, 0.993906], atol=1e-6)


def test_a_closed_update_gate_leaves_the_block_as_it_was():
  p, x = weights(Mega()), draw(50, 2, 5, 6)
  p["update_bias"] = np.full(6, -1e9)
  assert not said(Mega(), p, x, x, Context()).any()


def test_an_open_update_gate_replaces_what_the_block_was_given():
  """Whether or not that is what the queries are made of."""
  p, x, residual = weights(Mega()), draw(50, 2, 5, 6), draw(51, 2, 5, 6)
  p["update_bias"] = np.full(6, 1e9)
  close(said(Mega(), p, x, x, Context(residual=jnp.asarray(residual))) + residual, said(Mega(), p, x, x, Context()) + x)


def test_a_decoder_needs_one_direction_only():
  """And computes with it what a layer with both computes causally."""
  both, one = Mega().params(SIZES), Mega().params(dataclasses.replace(SIZES, causal=True))
  assert both["ema_eta"].shape == (2, 6, 16) and one["ema_eta"].shape == (1, 6, 16)
  p, x = weights(Mega()), draw(50, 2, 5, 6)
  cut = {name: p[name][tuple(map(slice, tensor.shape))] for name, tensor in one.items()}
  np.testing.assert_array_equal(*(said(Mega(), q, x, x, Context(causal=True)) for q in (p, cut)))


@pytest.mark.parametrize("form", ["laplace", "chunks"])
def test_queries_are_the_last_positions(form):
  """Fewer than there are keys, and more: the first of those see nothing, whatever they are."""
  kind, x = FORMS[form], draw(50, 2, 9, 6)
  longer = np.concatenate([draw(51, 2, 4, 6), x], axis=1)
  run = jax.jit(lambda p, x, longer: [kind(p, each, x, Context(residual=each + 1, causal=True))[0]
                                      for each in (x, x[:, 6:], longer)])
  whole, last, more = run(weights(kind), x, longer)
  close((last, more[:, 4:]), (whole[:, 6:], whole))
  assert not more[:, :4].any()


@pytest.mark.parametrize("table", [0.0, 1.0])
def test_without_averages_it_is_gated_softmax_attention(table):
  """Of one z, with a bias by distance, which T5's buckets are too as long as each is of one distance."""
  kind, length = Mega(ema_dim=1, paper_ema=True), 9
  p, x = weights(kind), draw(50, 2, length, 6)
  p |= {"ema_alpha": 30 + 0 * p["ema_alpha"], "ema_delta": 30 + 0 * p["ema_delta"], "ema_beta": 1 + 0 * p["ema_beta"],
        "ema_eta": 1 + 0 * p["ema_eta"], "distance_bias": table * p["distance_bias"]}
  z = silu(x @ p["shared"] + p["shared_bias"])
  q, k = (np.repeat((z * p[f"{role}_scale"] + p[f"{role}_bias"])[:, :, None], 2, 2) for role in ("query", "key"))
  v = silu(np.einsum("btd,dnh->btnh", x, p["value"]) + p["value_bias"])
  past = p["distance_bias"][np.append(0, 2 * np.arange(1, 16) - 1)]
  bias = {"distance_bias": np.tile(np.append(past, np.zeros(16)), (2, 1))}
  o = jax.jit(lambda *x: SoftmaxT5().attend(*x, Context(causal=True)))(bias, q, k, v)
  o = o * silu(np.einsum("btd,dnh->btnh", x, p["gate"]) + p["gate_bias"])
  hidden = silu(x @ p["hidden"] + np.einsum("btnh,nhd->btd", o, p["out"]) + p["out_bias"])
  want = sigmoid(x @ p["update"] + p["update_bias"]) * (hidden - x)
  close(said(kind, p, x, x, Context(causal=True)), want)


def test_averages_carry_over_what_chunks_keep_apart():
  p, x = weights(Mega(chunk_size=4)), draw(50, 1, 8, 6)
  run = lambda x: said(Mega(chunk_size=4), p, x, x, Context(causal=True))
  assert np.abs(run(x)[:, 4:] - run(np.where(np.arange(8)[:, None] == 2, 0, x))[:, 4:]).max() > 1e-3


# -- cost and mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length, attention, projections", [
    (128, 18_874_368, 276_824_064), (1024, 1_207_959_552, 2_214_592_512)])
def test_reference_counts(length, attention, projections):
  """C = 512, z = 128, v = 1024, to which the average adds its chunks of 64 and two states of 16 per direction."""
  count = Mega().count(Sizes(512, 8, 128), length, length)
  assert count.products == attention + projections + length * 512 * (64 + 2 * 2 * 16)


@pytest.mark.parametrize("causal", [False, True])
def test_count_of_transforms_equals_what_is_done(count_products, causal):
  """But for the transform of the kernel, which is shared by all examples."""
  kind, shape = Mega(average="transforms"), lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  params = {name: shape(*tensor.shape) for name, tensor in kind.params(SIZES).items()}
  done = count_products(lambda p, x: kind(p, x, x, Context(causal=causal)), params, shape(1, 9, 6))
  assert kind.count(SIZES, 9, 9, causal).products == done - 6 * transform_count(fast_length(17))


def test_chunks_are_cheaper():
  sizes = Sizes(512, 8, 128)
  saved = Mega().count(sizes, 1024, 1024).products - Mega(chunk_size=128).count(sizes, 1024, 1024).products
  assert saved == 1024 * (1024 - 128) * (128 + 1024)


def test_parameters_by_hand():
  """The joint maps C (z + 2 v + 2 C) + v C, averages 2 · 4 C h, ω, κ and μ, biases, 2 Lmax - 1 distances."""
  maps = 6 * (3 + 2 * 6 + 2 * 6) + 6 * 6
  small = 2 * 4 * 6 * 16 + 6 + 4 * 3 + 3 + 2 * 6 + 2 * 6
  assert Mega().count(SIZES, 1, 1).params == maps + small + 2 * 1024 - 1


def test_initial_values():
  init = lambda key: {name: tensor.init(key, tensor.shape) for name, tensor in Mega().params(SIZES).items()}
  p = jax.jit(init)(jax.random.key(0))
  np.testing.assert_allclose(p["ema_beta"][0, 0], [1, -1] * 8, atol=0.1)
  assert 0.1 < p["ema_alpha"].std() < 0.3 and 0.7 < p["ema_eta"].std() < 1.3 and p["query_scale"].std() < 0.1
  assert not any(p[name].any() for name in p if name.endswith("_bias") and name != "distance_bias")


@pytest.mark.parametrize("fields, message", [
    ({"activation": "exp"}, "'laplace'"),
    ({"average": "fft"}, "'transforms'"),
    ({"chunk_size": 0}, "mega.chunk_size=0: it must be at least 1")])
def test_bad_fields(fields, message):
  with pytest.raises((UserError, jaxtyping.TypeCheckError), match=message):  # the annotation may come first
    Mega(**fields)


def test_longer_inputs_are_refused():
  """Unless attention stays in chunks."""
  x = jnp.zeros((1, 10, 6))
  short = Mega(max_length=9)
  for use in (lambda: short(weights(short), x, x, Context()), lambda: short.begin({}, 1, 10, jnp.float32)):
    with pytest.raises(UserError, match="mega.max_length=9 is shorter than the input of 10 positions"):
      use()
  chunks = Mega(max_length=9, chunk_size=4)
  assert jax.eval_shape(chunks, weights(chunks), x, x, Context())[0].shape == x.shape
