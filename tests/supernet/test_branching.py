"""The three forms of the layer loop, and the hand-written gradient of one, against an unrolled loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Tensor
from nasformer.supernet import slicing
from nasformer.supernet.branching import Block, Branch, Exact, Masked, Shared

MAX_DEPTH, DIM = 3, 4
RNG = np.random.default_rng(0)
STACKED = {name: RNG.normal(size=(MAX_DEPTH, *shape)).astype(np.float32)
           for name, shape in {"w": (DIM, 6), "v": (6, DIM), "gate": (DIM,)}.items()}
STATE = (RNG.normal(size=(2, DIM)).astype(np.float32), {"memory": np.ones((2, DIM), np.float32), "nothing": None})
AUX = {"mlp": np.array([1, 0, 2]), "gate": np.array([0, 1, 1]), "key": jax.random.key(0)}


def cut_to(**shapes):
  zeros = jax.nn.initializers.zeros
  return slicing.plain({name: Tensor(shape, (None,) * len(shape), zeros) for name, shape in shapes.items()})


WIDTHS = (1, 3, 6)


def mlp(width, chosen=True):
  """Of one width, or of the one that the network chooses if it is masked."""
  cut = cut_to(w=(DIM, width), v=(width, DIM))

  def run(p, layer, state, memory, aux):
    x, carry = state
    hidden = jnp.tanh(x @ p["w"]) * jax.random.bernoulli(jax.random.fold_in(aux["key"], layer), 0.7, (6,))[:width]
    if "masked" in aux and chosen:
      hidden = jnp.where(jnp.arange(width) < jnp.array(WIDTHS)[aux["mlp"][layer]], hidden, 0)
    return x + hidden @ p["v"] * (1 + layer) + memory, carry

  return Branch(cut, run)


def gate(power):
  def run(p, layer, state, memory, aux):
    x, carry = state
    x = x * jnp.abs(p["gate"]) ** power + carry["memory"]
    return x, carry | {"memory": jnp.sin(x)}

  return Branch(cut_to(gate=(DIM,)), run)


MEMORY = RNG.normal(size=(2, DIM)).astype(np.float32)
BLOCKS = (Block(lambda i, aux: 0, lambda i, aux: (aux["mlp"][i],), (3,), (tuple(map(mlp, WIDTHS)),)),
          Block(lambda i, aux: aux["gate"][i], lambda i, aux: (), (), ((gate(1),), (gate(2),))),
          Block(lambda i, aux: 0, lambda i, aux: (), (), ((mlp(2, False),),)))


def unrolled(depth, state, stacked, memory, aux):
  """The states before the first layer and after every layer."""
  states = [state]
  for layer in range(depth):
    for block in BLOCKS:
      runs = [functools.partial(branch.run, branch.cut.take(stacked, layer)) for group in block.branches for branch in group]
      index = block.index(layer, aux)
      if isinstance(index, jax.Array):  # traced: all are run
        state = jax.tree.map(lambda *all_: jnp.stack(all_)[index], *(run(layer, state, memory, aux) for run in runs))
      else:
        state = runs[index](layer, state, memory, aux)
    states.append(state)
  return states


def loss(state):
  x, carry = state
  return (x * jnp.arange(8.0).reshape(2, 4)).sum() + (carry["memory"] ** 2).sum()


def both(last, after, depth):
  """A number that the last state and those after every layer matter to."""
  rows = [loss(jax.tree.map(lambda x: x[i], after)) * (2 + i) for i in range(MAX_DEPTH)]
  return loss(last) + jnp.where(jnp.arange(MAX_DEPTH) < depth, jnp.stack(rows), 0).sum()


@functools.cache
def from_all_depths():
  """States of the unrolled loop, by depth; and of their losses, values and gradients by (state, stacked, memory)."""

  def run(*args):
    states = unrolled(MAX_DEPTH, *args, AUX)
    return jnp.stack([loss(each) for each in states]), states

  def both(*args):
    values, pull, states = jax.vjp(run, *args, has_aux=True)
    return states, values, jax.vmap(pull)(jnp.eye(MAX_DEPTH + 1))

  return jax.device_get(jax.jit(both)(STATE, STACKED, MEMORY))


def by_hand(weights):
  """The value and gradients of a sum of the losses at all depths."""
  _, values, grads = from_all_depths()
  return values @ weights, jax.tree.map(lambda rows: np.tensordot(weights, rows, 1), grads)


def last(depth):
  """Weights of the loss of the last state."""
  return np.eye(MAX_DEPTH + 1)[depth]


def every(depth):
  """Weights of the losses of the last state and, as in `both`, of those after every layer."""
  after = np.array([0, *range(2, 2 + MAX_DEPTH)])
  return last(depth) + after * (np.arange(MAX_DEPTH + 1) <= depth)


@jax.jit
def looped(depth, state, stacked, aux):
  run = lambda *args: loss(Exact().layers(BLOCKS, depth, MAX_DEPTH, *args, aux)[0])
  return jax.value_and_grad(run, argnums=(0, 1, 2))(state, stacked, MEMORY)


@pytest.mark.parametrize("depth", range(MAX_DEPTH + 1))
def test_values_and_gradients_equal_an_unrolled_loop(depth):
  value, grads = jax.device_get(looped(np.int32(depth), STATE, STACKED, AUX))
  want, want_grads = by_hand(last(depth))
  np.testing.assert_allclose(value, want, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-4), grads, want_grads)
  assert not any(leaf[depth:].any() for leaf in jax.tree.leaves(grads[1]))  # layers that are not run
  assert looped._cache_size() == 1


@functools.partial(jax.jit, static_argnums=0)
def collected(form, depth, aux, *args):
  """The value and gradients of a form, of the states after every layer."""
  run = lambda *args: both(*form.layers(BLOCKS, depth, MAX_DEPTH, *args, aux, collect=True), depth)
  return jax.value_and_grad(run, argnums=(0, 1, 2))(*args)


EXACT, MASKED = Exact(), Masked()


@pytest.mark.parametrize("depth", range(1, MAX_DEPTH + 1))
def test_states_after_every_layer_can_be_read_and_differentiated(depth):
  got = collected(EXACT, depth, AUX, STATE, STACKED, MEMORY)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), got, by_hand(every(depth)))


def test_without_a_gradient_it_is_the_same():
  run = jax.jit(lambda depth, *args: Exact().layers(BLOCKS, depth, MAX_DEPTH, *args, AUX)[0])
  for depth, want in enumerate(from_all_depths()[0]):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                 run(depth, STATE, STACKED, MEMORY), want)


def test_under_vmap_every_member_has_its_own_depth_and_branches():
  depths, picks = np.array([0, 1, 2, 3, 2], np.int32), RNG.integers(0, 3, (5, MAX_DEPTH))
  member = lambda depth, pick: looped(depth, STATE, STACKED, AUX | {"mlp": pick})
  values, grads = jax.device_get(jax.jit(jax.vmap(member))(depths, picks))
  for i in range(5):
    want, want_grads = member(depths[i], picks[i])
    np.testing.assert_allclose(values[i], want, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5), grads, want_grads)


def poison():
  """The parameters with NaN in the last layer, and in what only the widest branch cuts out."""
  poisoned = jax.tree.map(np.copy, STACKED)
  for part in (*(leaf[2] for leaf in poisoned.values()), poisoned["w"][:, :, 3:], poisoned["v"][:, 3:]):
    part[...] = np.nan
  return poisoned


def test_what_is_not_run_is_not_read():
  """NaN in layers beyond the depth, and in what only other branches would cut out, reaches nothing."""
  poisoned = poison()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), looped(np.int32(2), STATE, poisoned, AUX),
               looped(np.int32(2), STATE, STACKED, AUX))


# -- the masked and the shared form ------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3])
def test_masked_is_an_unrolled_loop_of_the_sizes_themselves(depth):
  got = collected(MASKED, depth, AUX | {"masked": None}, STATE, STACKED, MEMORY)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), got, by_hand(every(depth)))


@jax.jit
def shared(depths, mlps, gates, stacked):
  """Sums over the states of the members of a chunk."""

  def member(depth, mlp, gate):
    aux = AUX | {"mlp": mlp, "gate": gate, "masked": None}
    last, after = Shared("chunk").layers(BLOCKS, depth, MAX_DEPTH, STATE, stacked, MEMORY, aux, collect=True)
    return loss(last), jax.vmap(loss)(after)

  return jax.vmap(member, axis_name="chunk")(depths, mlps, gates)


def test_members_of_a_chunk_are_unrolled_loops():
  depths, mlps, gates = (RNG.integers(0, high, shape) for high, shape in (
      (MAX_DEPTH + 1, 8), (3, (8, MAX_DEPTH)), (2, (8, MAX_DEPTH))))
  depths[[0, MAX_DEPTH]] = 0, MAX_DEPTH
  last, after = jax.device_get(shared(depths, mlps, gates, STACKED))

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, 0, None))
  def losses(mlp, gate, stacked):
    states = unrolled(MAX_DEPTH, STATE, stacked, MEMORY, AUX | {"mlp": mlp, "gate": gate})
    return jnp.stack([loss(each) for each in states])

  for i, (depth, want) in enumerate(zip(depths, losses(mlps, gates, STACKED))):
    np.testing.assert_allclose(last[i], want[depth], rtol=1e-5)
    np.testing.assert_allclose(after[i, :depth], want[1: depth + 1], rtol=1e-5)


def test_a_chunk_does_not_read_what_no_member_needs():
  """Neither layers beyond the deepest, nor what only wider members would cut out."""
  poisoned = poison()
  narrow, depths = RNG.integers(0, 2, (8, MAX_DEPTH)), np.array([0, 1, 2, 2, 1, 0, 2, 1])
  (got, _), (want, _) = (shared(depths, narrow, narrow, weights) for weights in (poisoned, STACKED))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_one_of_several_widths_is_chosen():
  """The one that is asked for, the widest of a chunk, or always the widest."""
  options = [lambda x, width=width: x + width for width in (10, 20, 30)]
  assert [Exact().choose(jnp.int32(i), options, 1) for i in range(3)] == [11, 21, 31]
  assert [Masked().choose(jnp.int32(i), options, 1) for i in range(3)] == [31, 31, 31]
  choose = jax.vmap(lambda i: Shared("chunk").choose(i, options, 1), axis_name="chunk")
  assert choose(jnp.array([0, 1, 0])).tolist() == [21, 21, 21]
