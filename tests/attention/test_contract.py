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
from nasformer.registry import lookup
from nasformer.types import first_line

SIZES = Sizes(embed_dim=12, num_heads=3, head_dim=4)
CROSS = dataclasses.replace(SIZES, source_dim=7)
LENGTH = 70  # longer than a chunk of any kind
ALL = {"keep_heads": jnp.ones(3, bool), "keep_embed": jnp.ones(12, bool)}  # a masked network at its largest
ELASTIC = {"embed", "source", "heads", "head_dim", "ffn", None}


@functools.cache
def _kind(name):
  return lookup(TABLE, name)()


@functools.cache
def _run(name):
  """(params, x, source, context) -> output, jitted."""
  return jax.jit(lambda *args: _kind(name)(*args)[0])


@functools.cache
def _slopes(name):
  """((params, x, source), slope, context) -> gradients of Σ slope · output by the first, and the output."""

  def loss(inputs, slope, context):
    out = _kind(name)(*inputs, context)[0]
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
  values = {name: 0.5 * _normal(i, *tensor.shape) for i, (name, tensor) in enumerate(kind.params(sizes).items())}
  return jax.tree.map(jnp.asarray, values)


def _prefix(lengths, size):
  return jnp.arange(size) < jnp.array(lengths)[:, None]


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
  declared = _kind(name).params(sizes)
  for i, tensor in enumerate(declared.values()):
    values = tensor.init(jax.random.key(i), tensor.shape)
    assert values.shape == tensor.shape and values.dtype == jnp.float32 and np.isfinite(values).all()
    assert len(tensor.axes) == len(tensor.shape) and set(tensor.axes) <= ELASTIC
  assert _kind(name).count(sizes, 5, 5).params == sum(math.prod(t.shape) for t in declared.values())


def test_a_longest_length_is_told(name):
  """It is the field `max_length`, and who has that field has a limit somewhere."""
  kind = _kind(name)
  limits = {kind.longest(module) for module in ("encoder", "decoder", "cross")} - {None}
  assert limits == ({kind.max_length} if hasattr(kind, "max_length") else set())


def _check_count(count_products, kind, sizes, queries, keys, is_causal):
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  params = {name: shape(*tensor.shape) for name, tensor in kind.params(sizes).items()}
  call = lambda p, x, source: kind(p, x, source, Context(causal=is_causal))[0]
  done = count_products(call, params, shape(2, queries, sizes.embed_dim), shape(2, keys, sizes.key_dim))
  count = kind.count(sizes, queries, keys, is_causal)
  assert isinstance(count, Count) and 2 * count.products == done


@pytest.mark.parametrize("length", [1, 5, 64, 65, 200])
def test_count_equals_what_is_done(count_products, name, length):
  _check_count(count_products, _kind(name), SIZES, length, length, False)


@pytest.mark.parametrize("queries, keys", [(1, 1), (5, 5), (64, 64), (65, 65), (200, 200), (3, 9), (70, 75)])
def test_causal_count_equals_what_is_done(count_products, causal, queries, keys):
  _check_count(count_products, _kind(causal), SIZES, queries, keys, True)


@pytest.mark.parametrize("queries, keys", [(3, 80), (80, 3), (5, 5)])
def test_cross_count_equals_what_is_done(count_products, cross, queries, keys):
  _check_count(count_products, _kind(cross), CROSS, queries, keys, False)


# -- elastic sizes -----------------------------------------------------------------------------------------------------

ALIVE = [(12, 1), (5, 3), (7, 2)]  # embed_dim, num_heads


@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
def test_masked_equals_sliced(request, name, is_causal):
  kind = _kind(request.getfixturevalue("causal") if is_causal else name)
  params, x, slope = _params(kind), _normal(50, 2, 9, 12), _normal(51, 2, 9, 12)
  key_mask = _prefix([9, 5], 9)
  for embed_dim, num_heads in ALIVE[-1:] if is_causal else ALIVE:
    x = np.where(np.arange(12) < embed_dim, x, 0)
    context = Context(key_mask=key_mask, keep_heads=jnp.arange(3) < num_heads, keep_embed=jnp.arange(12) < embed_dim,
                      causal=is_causal)
    sliced = {role: params[role][tuple(map(slice, tensor.shape))]
              for role, tensor in kind.params(Sizes(embed_dim, num_heads, 4)).items()}
    small, narrow = x[..., :embed_dim], Context(key_mask=key_mask, causal=is_causal)
    got, out = _slopes(name)((params, x, x), slope, context)
    if (embed_dim, num_heads) != ALIVE[-1]:  # one of each is cut; gradients where both are
      _check_alive(np.asarray(out), _run(name)(sliced, small, small, narrow))
      continue
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


def test_a_population_of_masks_equals_a_loop_and_jit_equals_eager(name):
  kind = _kind(name)
  params, x, key_mask = _params(kind), _normal(52, 2, 9, 12), _prefix([9, 5], 9)
  embed, heads = (_prefix(sizes, most) for sizes, most in zip(zip(*ALIVE), (12, 3)))
  context = lambda h, e: Context(key_mask=key_mask, keep_heads=h, keep_embed=e)
  one = lambda h, e: kind(params, jnp.where(e, x, 0), jnp.where(e, x, 0), context(h, e))[0]
  together = jax.jit(jax.vmap(one))(heads, embed)
  for out, h, e in zip(together, heads, embed):
    clean = np.where(e, x, 0)
    _close(out, _slopes(name)((params, clean, clean), np.ones_like(x), context(h, e))[1])
  _close(together[-1], one(heads[-1], embed[-1]))


def test_heads_are_interchangeable(name):
  kind, order = _kind(name), np.array([2, 0, 1])
  params, x = _params(kind), _normal(53, 2, 9, 12)
  shuffled = {role: functools.reduce(lambda a, i: a.take(order, i), np.flatnonzero(np.array(tensor.axes) == "heads"),
                                     params[role]) for role, tensor in kind.params(SIZES).items()}
  _close(_run(name)(shuffled, x, x, Context()), _run(name)(params, x, x, Context()))


# -- padding and order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
def test_padding_and_batch_mates_change_nothing(request, name, is_causal):
  kind = _kind(request.getfixturevalue("causal") if is_causal else name)
  params, x = _params(kind), _normal(54, 2, 9, 12)
  mask = _prefix([6, 9], 9)
  context = Context(mask, mask, causal=is_causal)
  out = np.asarray(_run(name)(params, x, x, context))
  wild = np.where(mask[..., None], x, 1e4)
  np.testing.assert_array_equal(_run(name)(params, wild, wild, context), out)
  assert not out[~mask].any()
  if kind.can.grid:  # the size of an image is no padding
    return
  alone = x[:1, :6]
  _close(_run(name)(params, alone, alone, Context(causal=is_causal)), out[:1, :6])


def test_padding_of_either_side_changes_nothing_in_cross_attention(cross):
  params, x, source = _params(_kind(cross), CROSS), _normal(55, 2, 6, 12), _normal(56, 2, 9, 7)
  out = _run(cross)(params, x, source, Context(_prefix([4, 6], 6), _prefix([7, 3], 9)))
  _close(_run(cross)(params, x[:1, :4], source[:1, :7], Context()), out[:1, :4])
  _close(_run(cross)(params, x[1:], source[1:, :3], Context()), out[1:])


def test_nothing_leaks_from_the_future(causal):
  params, x = _params(_kind(causal)), _normal(57, 1, LENGTH, 12)
  for first in (1, 20, 34, 35, LENGTH - 1):
    slope = np.where(np.arange(LENGTH)[:, None] < first, _normal(58, 1, LENGTH, 12), 0)
    (_, *grads), out = _slopes(causal)((params, x, x), slope, Context(causal=True))
    wild = np.where(np.arange(LENGTH)[:, None] == first, 1e4, x)
    _, other = _slopes(causal)((params, wild, wild), slope, Context(causal=True))
    np.testing.assert_array_equal(other[:, :first], out[:, :first])
    assert grads[1][:, :first].any() and not any(g[:, first:].any() for g in grads)


def test_the_past_is_seen(causal):
  params, x = _params(_kind(causal)), _normal(59, 1, LENGTH, 12)
  slope = np.where(np.arange(LENGTH)[:, None] == LENGTH - 1, _normal(60, 1, LENGTH, 12), 0)
  (_, _, source), _ = _slopes(causal)((params, x, x), slope, Context(causal=True))
  assert np.asarray(source).any(-1).mean() > 0.8  # features may be zero by chance


# -- extremes ----------------------------------------------------------------------------------------------------------


def test_a_query_that_sees_no_key_gets_zero(name):
  """With the biases at zero, as they start; gradients stay finite."""
  kind = _kind(name)
  params = {role: tensor.init(jax.random.key(i), tensor.shape)
            for i, (role, tensor) in enumerate(kind.params(SIZES).items())}
  x, context = _normal(61, 2, 9, 12), Context(key_mask=_prefix([0, 9], 9), **ALL)
  grads, out = _slopes(name)((params, x, x), np.ones_like(x), context)
  assert not out[0].any() and out[1].any()
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("scale", [0, 1e3])
def test_extreme_inputs_stay_finite(request, name, scale, is_causal):
  kind = _kind(request.getfixturevalue("causal") if is_causal else name)
  params, x = _params(kind), scale * _normal(62, 2, 9, 12)
  if scale == 0:
    params = {role: np.zeros_like(value) if role.endswith("bias") else value for role, value in params.items()}
  context = Context(key_mask=_prefix([9, 5], 9), causal=is_causal, **ALL)
  assert all(np.isfinite(v).all() for v in jax.tree.leaves(_slopes(name)((params, x, x), np.ones_like(x), context)))


def test_half_precision_comes_out_as_it_went_in(name):
  """With small weights: a softmax over large logits is as sharp as their rounding."""
  params, x = jax.tree.map(lambda v: v / 2, _params(_kind(name))), jnp.asarray(_normal(63, 2, 9, 12), jnp.bfloat16)
  out = _run(name)(params, x, x, Context())
  assert out.dtype == jnp.bfloat16
  wide = x.astype(jnp.float32)
  _close(out.astype(jnp.float32), _run(name)(params, wide, wide, Context()), 2e-2, 2e-2)
