"""What every attention kind must fulfil: a row added to the table is covered by these tests at once."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention import TABLE
from nasformer.attention.base import Context, Count, Kind, Sizes
from nasformer.attention.momentum import Momentum
from nasformer.attention.vvt import Vvt
from nasformer.registry import lookup
from nasformer.types import first_line

SIZES = Sizes(embed_dim=12, num_heads=3, head_dim=4)
CROSS = dataclasses.replace(SIZES, source_dim=7)
LENGTH = 70  # longer than a chunk of any kind
over_ways = pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
DOUBLE = ["vvt", "couplformer", "evolving", "luna", "mega"]  # compared with their dense forms in double precision only
ELASTIC = {"embed", "source", "heads", "head_dim", "ffn", None}


RELEASED = {"released_momentum": Momentum(release_weights=True), "released_vvt": Vvt(reference_clamps=True)}


@functools.cache
def _kind(name):
  return RELEASED[name] if name in RELEASED else lookup(TABLE, name)()


def _grid(kind, length):
  """Of so many patches, as square as can be, for kinds that need one."""
  rows = next(rows for rows in range(math.isqrt(length), 0, -1) if length % rows == 0)
  return (rows, length // rows) if kind.can.grid else None


def _said(name, params, x, source, context):
  return _kind(name)(params, x, source, context.replace(grid=_grid(_kind(name), x.shape[1])))[0]


@functools.cache
def _run(name):
  """(params, x, source, context) -> output, jitted."""
  return jax.jit(functools.partial(_said, name))


@functools.cache
def _slopes(name):
  """((params, x, source), slope, context) -> gradients of Σ slope · output by the first, and the output."""

  def loss(inputs, slope, context):
    out = _said(name, *inputs, context)
    return (slope * out).sum(), out

  return jax.jit(jax.grad(loss, has_aux=True))


@pytest.fixture(params=TABLE)
def name(request):
  return request.param


@pytest.fixture
def causal(name):
  if not _kind(name).can.causal:
    pytest.skip(f"{name} has no causal form")
  return name


@pytest.fixture
def cross(name):
  if not _kind(name).can.cross:
    pytest.skip(f"{name} has no cross attention")
  return name


def _normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _params(kind, sizes=SIZES):
  """Random parameters, biases too."""
  return {name: np.float32(0.5) * _normal(i, *tensor.shape) for i, (name, tensor) in enumerate(kind.params(sizes).items())}


def _prefix(lengths, size):
  return jnp.asarray(np.arange(size) < np.array(lengths)[:, None])


def _masked(queries=(9, 9), keys=None, embed_dim=12, num_heads=3, is_causal=False):
  """Context of a masked network, two examples of so many real tokens: one program of a kind serves all of them."""
  length, (embed,), (heads,) = _length(is_causal), _prefix([embed_dim], 12), _prefix([num_heads], 3)
  return Context(_prefix(queries, length), _prefix(keys or queries, length), keep_embed=embed, keep_heads=heads,
                 causal=is_causal)


def _length(is_causal):
  """Of the two examples: causal ones are longer than a chunk of any kind."""
  return LENGTH if is_causal else 9


def _close(got, want, rtol=1e-4, atol=1e-5):
  """Close in float32; large gradients and outputs are judged by their largest entry."""
  np.testing.assert_allclose(got, want, rtol, atol * max(1, np.abs(want).max()))


# -- what a kind declares ----------------------------------------------------------------------------------------------


def test_a_kind_is_a_described_frozen_dataclass(name):
  kind = _kind(name)
  assert isinstance(kind, Kind) and type(kind).__dataclass_params__.frozen
  assert first_line(type(kind)) != first_line(Kind) and hash(kind) == hash(type(kind)())


@pytest.mark.parametrize("sizes", [SIZES, CROSS], ids=["self", "cross"])
def test_tensors_initialise_as_declared(name, sizes):
  kind, declared = _kind(name), _kind(name).params(sizes)
  for i, tensor in enumerate(declared.values()):
    values = tensor.init(jax.random.key(i), tensor.shape)
    assert values.shape == tensor.shape and values.dtype == jnp.float32 and np.isfinite(values).all()
    assert len(tensor.axes) == len(tensor.shape) and set(tensor.axes) <= ELASTIC
  count = kind.count(dataclasses.replace(sizes, grid=_grid(kind, 5)), 5, 5)
  assert count.params == sum(math.prod(t.shape) for t in declared.values())


def test_a_longest_length_is_told(name):
  """It is the field `max_length`, and who has that field has a limit somewhere."""
  kind = _kind(name)
  limits = {kind.longest(module) for module in ("encoder", "decoder", "cross")} - {None}
  assert limits == ({kind.max_length} if hasattr(kind, "max_length") else set())


def _check_count(count_products, kind, sizes, queries, keys, is_causal):
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  params = {name: shape(*tensor.shape) for name, tensor in kind.params(sizes).items()}
  call = lambda p, x, source: kind(p, x, source, Context(causal=is_causal, grid=sizes.grid))[0]
  done = count_products(call, params, shape(2, queries, sizes.embed_dim), shape(2, keys, sizes.key_dim))
  count = kind.count(sizes, queries, keys, is_causal)
  assert isinstance(count, Count) and 2 * count.products == done


@pytest.mark.parametrize("length", [1, 5, 64, 65, 200])
def test_count_equals_what_is_done(count_products, name, length):
  sizes = dataclasses.replace(SIZES, grid=_grid(_kind(name), length))
  _check_count(count_products, _kind(name), sizes, length, length, False)


@pytest.mark.parametrize("queries, keys", [(1, 1), (5, 5), (64, 64), (65, 65), (200, 200), (3, 9), (70, 75), (9, 3)])
@pytest.mark.parametrize("name", [*TABLE, "released_momentum"])
def test_causal_count_equals_what_is_done(count_products, causal, queries, keys):
  _check_count(count_products, _kind(causal), SIZES, queries, keys, True)


@pytest.mark.parametrize("queries, keys", [(3, 80), (80, 3), (5, 5)])
def test_cross_count_equals_what_is_done(count_products, cross, queries, keys):
  _check_count(count_products, _kind(cross), CROSS, queries, keys, False)


# -- elastic sizes -----------------------------------------------------------------------------------------------------

ALIVE = [(12, 1), (5, 3), (7, 2)]  # embed_dim, num_heads


@over_ways
@pytest.mark.parametrize("alive", [*(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ALIVE[:2]), ALIVE[2]])
@pytest.mark.parametrize("name", [*TABLE, *RELEASED])
def test_masked_equals_sliced(request, name, is_causal, alive):
  """Values and gradients, in double precision: both forms round differently."""
  kind, length = _kind(request.getfixturevalue("causal") if is_causal else name), _length(is_causal)
  params, x, slope = jax.tree.map(np.float64, (_params(kind), _normal(50, 2, length, 12), _normal(51, 2, length, 12)))
  context, (embed_dim, num_heads) = _masked((9, 5), None, *alive, is_causal), alive
  x = np.where(np.arange(12) < embed_dim, x, 0)
  sliced = {role: params[role][tuple(map(slice, tensor.shape))]
            for role, tensor in kind.params(Sizes(embed_dim, num_heads, 4)).items()}
  small, narrow = x[..., :embed_dim], context.replace(keep_heads=None, keep_embed=None)
  with jax.enable_x64(True):
    got, out = _slopes(name)((params, x, x), slope, context)
    want, small_out = _slopes(name)((sliced, small, small), slope[..., :embed_dim], narrow)
  _check_alive(np.asarray(out), small_out)
  for role, gradient in want[0].items():
    _check_alive(np.asarray(got[0][role]), gradient)
  for one, two in zip(got[1:], want[1:]):
    _close(one[..., :embed_dim], two)


def _check_alive(got, want):
  """Equal where alive, and exactly zero elsewhere."""
  alive = tuple(map(slice, want.shape))
  _close(got[alive], want)
  dead = got.copy()
  dead[alive] = 0
  assert not dead.any()


def test_a_population_of_masks_equals_a_loop(name):
  kind = _kind(name)
  params, x = _params(kind), _normal(52, 2, 9, 12)
  embed, heads = (_prefix(sizes, most) for sizes, most in zip(zip(*ALIVE), (12, 3)))
  clean = lambda e: jnp.where(e, x, 0)
  one = lambda p, h, e: _said(name, p, clean(e), clean(e), _masked((9, 5)).replace(keep_heads=h, keep_embed=e))
  together = jax.jit(jax.vmap(one, (None, 0, 0)))(params, heads, embed)
  for out, alive, e in zip(together, ALIVE, np.asarray(embed)):
    inputs = params, np.where(e, x, 0), np.where(e, x, 0)
    _close(out, _slopes(name)(inputs, np.ones_like(x), _masked((9, 5), None, *alive))[1])


@pytest.mark.slow
def test_jit_equals_eager(name):
  context, x = _masked((9, 5), None, *ALIVE[-1]), np.where(np.arange(12) < ALIVE[-1][0], _normal(52, 2, 9, 12), 0)
  params, x = jax.tree.map(jnp.asarray, (_params(_kind(name)), x))
  _close(_slopes(name)((params, x, x), np.ones_like(x), context)[1], _said(name, params, x, x, context))


def test_heads_are_interchangeable(name):
  kind, order = _kind(name), np.array([2, 0, 1])
  params, x = _params(kind), _normal(53, 2, 9, 12)
  shuffled = {role: functools.reduce(lambda a, i: np.take(a, order, i), np.flatnonzero(np.array(tensor.axes) == "heads"),
                                     np.asarray(params[role])) for role, tensor in kind.params(SIZES).items()}
  run = lambda params: _slopes(name)((params, x, x), np.ones_like(x), _masked())[1]
  _close(run(shuffled), run(params))


# -- padding and order -------------------------------------------------------------------------------------------------


@over_ways
def test_padding_and_batch_mates_change_nothing(request, name, is_causal):
  kind, length = _kind(request.getfixturevalue("causal") if is_causal else name), _length(is_causal)
  params, x, context = _params(kind), _normal(54, 2, length, 12), _masked((6, 9), is_causal=is_causal)
  run = lambda x: np.asarray(_slopes(name)((params, x, x), np.ones_like(x), context)[1])
  out, mask = run(x), np.asarray(context.query_mask)
  np.testing.assert_array_equal(run(np.where(mask[..., None], x, 1e4)), out)
  assert not out[~mask].any()


@pytest.mark.parametrize("is_causal", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["full", "causal"])
def test_an_example_alone_and_without_jit_is_the_same(request, name, is_causal):
  """Without its padding too, unless that is part of an image."""
  kind, length = _kind(request.getfixturevalue("causal") if is_causal else name), _length(is_causal)
  params, x = _params(kind), _normal(54, 2, length, 12)
  out = _slopes(name)((params, x, x), np.ones_like(x), _masked((6, 9), is_causal=is_causal))[1]
  real, mask = (length, _prefix([6], length)) if kind.can.grid else (6, None)
  params, alone = jax.tree.map(jnp.asarray, (params, x[:1, :real]))
  _close(_said(name, params, alone, alone, Context(mask, mask, causal=is_causal))[:, :6], out[:1, :6])


@pytest.mark.parametrize("row, queries, keys", [(0, 4, 7), pytest.param(1, 6, 3, marks=pytest.mark.slow)])
def test_padding_of_either_side_changes_nothing_in_cross_attention(cross, row, queries, keys):
  params, x, source = _params(_kind(cross), CROSS), _normal(55, 2, 6, 12), _normal(56, 2, 9, 7)
  out = _run(cross)(params, x, source, Context(_prefix([4, 6], 6), _prefix([7, 3], 9)))
  alone = _run(cross)(params, x[row:row + 1, :queries], source[row:row + 1, :keys], Context())
  _close(alone, out[row:row + 1, :queries])


def test_nothing_leaks_from_the_future(causal):
  params, x, context = _params(_kind(causal)), _normal(57, 2, LENGTH, 12), _masked((LENGTH, LENGTH), is_causal=True)
  for first in (1, 20, 34, 35, LENGTH - 1):
    slope = np.where(np.arange(LENGTH)[:, None] < first, _normal(58, 2, LENGTH, 12), 0)
    (_, *grads), out = _slopes(causal)((params, x, x), slope, context)
    wild = np.where(np.arange(LENGTH)[:, None] == first, 1e4, x)
    _, other = _slopes(causal)((params, wild, wild), slope, context)
    np.testing.assert_array_equal(other[:, :first], out[:, :first])
    assert grads[1][:, :first].any() and not any(g[:, first:].any() for g in grads)


def test_the_past_is_seen(causal):
  params, x, context = _params(_kind(causal)), _normal(59, 2, LENGTH, 12), _masked((LENGTH, LENGTH), is_causal=True)
  slope = np.where(np.arange(LENGTH)[:, None] == LENGTH - 1, _normal(60, 2, LENGTH, 12), 0)
  (_, _, source), _ = _slopes(causal)((params, x, x), slope, context)
  assert np.asarray(source).any(-1).mean() > 0.8  # features may be zero by chance


# -- extremes ----------------------------------------------------------------------------------------------------------


def test_a_query_that_sees_no_key_gets_zero(name):
  """With the biases at zero, as they start; gradients stay finite."""
  kind = _kind(name)
  params = {role: tensor.init(jax.random.key(i), tensor.shape)
            for i, (role, tensor) in enumerate(kind.params(SIZES).items())}
  x = _normal(61, 2, 9, 12)
  grads, out = _slopes(name)((params, x, x), np.ones_like(x), _masked(keys=(0, 9)))
  assert not out[0].any() and out[1].any()
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@over_ways
@pytest.mark.parametrize("scale", [0, 1e3])
def test_extreme_inputs_stay_finite(request, name, scale, is_causal):
  kind = _kind(request.getfixturevalue("causal") if is_causal else name)
  params, x = _params(kind), scale * _normal(62, 2, _length(is_causal), 12)
  if scale == 0:
    params = {role: np.zeros_like(value) if role.endswith("bias") else value for role, value in params.items()}
  context = _masked((9, 9), (9, 5), is_causal=is_causal)
  assert all(np.isfinite(v).all() for v in jax.tree.leaves(_slopes(name)((params, x, x), np.ones_like(x), context)))


@pytest.mark.parametrize("name", [name for name in TABLE if name not in DOUBLE])
def test_half_precision_comes_out_as_it_went_in(name):
  """With small weights: a softmax over large logits is as sharp as their rounding."""
  params = {role: value / 2 for role, value in _params(_kind(name)).items()}
  x = jnp.asarray(_normal(63, 2, 9, 12), jnp.bfloat16)
  out = _run(name)(params, x, x, Context())
  assert out.dtype == jnp.bfloat16
  wide = np.asarray(x, np.float32)
  _close(np.asarray(out, np.float32), _slopes(name)((params, wide, wide), np.ones_like(wide), _masked())[1], 2e-2, 2e-2)


# -- sides, order and precision ----------------------------------------------------------------------------------------


def _answer(name, params, x, source, context):
  """By the program of its gradients, which others here use too."""
  return np.asarray(_slopes(name)((params, x, source), np.ones_like(x), context)[1])


@over_ways
def test_padding_in_front_is_like_padding_behind(request, name, is_causal):
  """Of what knows no positions but by their distances."""
  kind, length = _kind(request.getfixturevalue("causal") if is_causal else name), _length(is_causal)
  if kind.can.grid or name == "cosformer" and not is_causal:
    pytest.skip("places on a grid, or in a sequence whose length is its unit")
  context, params = _masked((length - 3, length // 2), is_causal=is_causal), _params(kind)
  x = np.where(context.query_mask[..., None], _normal(64, 2, length, 12), 1e4)
  behind = _answer(name, params, x, x, context)
  x, mask = np.roll(x, 3, 1), jnp.roll(context.query_mask, 3, 1)
  _close(_answer(name, params, x, x, context.replace(query_mask=mask, key_mask=mask)), np.roll(behind, 3, 1))


@pytest.mark.parametrize("name", ["softmax", "linear", "favor", "eit", "luna"])
def test_the_order_of_keys_means_nothing(name):
  """To kinds without positions, padding among them included."""
  x, source, order = _normal(65, 2, 9, 12), _normal(66, 2, 9, 12), np.random.default_rng(0).permutation(9)
  mask, params = np.arange(9) != np.array([[2], [5]]), _params(_kind(name))
  run = lambda order: _answer(name, params, x, source[:, order], _masked().replace(key_mask=jnp.asarray(mask[:, order])))
  _close(run(order), run(np.arange(9)))


def _turned(name, tensor):
  """A parameter with the past and the future exchanged."""
  if name == "distance_bias" and tensor.ndim == 2:  # T5's buckets: the past and no distance, then the future
    return np.concatenate([tensor[:, :1], np.roll(tensor, tensor.shape[1] // 2, 1)[:, 1:]], 1)
  if name == "distance_bias":  # Mega's: no distance, then past and future in turn
    return np.append(tensor[:1], tensor[1:].reshape(-1, 2)[:, ::-1])
  if name == "position_bias":
    return tensor[:, ::-1]
  return tensor[::-1] if name == "relative" or name.startswith("ema_") else tensor


def test_a_sequence_turned_round_gives_the_output_turned_round(name):
  """With what kinds know of the past and the future exchanged."""
  if name == "momentum":
    pytest.skip("early keys gather more than late ones")
  params, x = _params(_kind(name)), _normal(67, 2, 9, 12)
  turned = {role: _turned(role, tensor) for role, tensor in params.items()}
  _close(_answer(name, turned, *[x[:, ::-1]] * 2, _masked()), _answer(name, params, x, x, _masked())[:, ::-1])


@over_ways
@pytest.mark.parametrize("name", DOUBLE)
def test_less_precision_is_enough(request, name, is_causal):
  """On a grid with a token in front of it, where kinds need a grid, and over several chunks, where they have some."""
  kind, length = _kind(request.getfixturevalue("causal") if is_causal else name), _length(is_causal)
  params = {role: value / 2 for role, value in _params(kind).items()}
  x, context = jnp.asarray(_normal(68, 2, length, 12), jnp.bfloat16), Context(
      causal=is_causal, grid=(2, 4) if kind.can.grid else None)

  @jax.jit
  def run(params, x):
    return [kind(jax.tree.map(lambda p: p.astype(jnp.promote_types(dtype, jnp.float32)), params), *[x.astype(dtype)] * 2,
                 context)[0] for dtype in (jnp.bfloat16, jnp.float32, jnp.float64)]

  with jax.enable_x64(True):
    half, single, want = run(params, x)
    assert (half.dtype, single.dtype, want.dtype) == (jnp.bfloat16, jnp.float32, jnp.float64)
    half, want = np.asarray(half.astype(jnp.float64)), np.asarray(want)
  _close(np.asarray(single), want)
  _close(half, want, 0, 2e-2)
