"""The hand-written gradient of the layer loop, against an unrolled Python loop that JAX differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Tensor
from nasformer.supernet import slicing
from nasformer.supernet.branching import Block, Branch, Exact

MAX_DEPTH, DIM = 3, 4
RNG = np.random.default_rng(0)
STACKED = {name: jnp.asarray(RNG.normal(size=(MAX_DEPTH, *shape)), jnp.float32)
           for name, shape in {"w": (DIM, 6), "v": (6, DIM), "gate": (DIM,)}.items()}
STATE = (jnp.asarray(RNG.normal(size=(2, DIM)), jnp.float32), {"memory": jnp.ones((2, DIM)), "nothing": None})
AUX = {"mlp": jnp.array([1, 0, 2]), "gate": jnp.array([0, 1, 1]), "key": jax.random.key(0)}


def cut_to(**shapes):
  zeros = jax.nn.initializers.zeros
  return slicing.plain({name: Tensor(shape, (None,) * len(shape), zeros) for name, shape in shapes.items()})


def mlp(width):
  cut = cut_to(w=(DIM, width), v=(width, DIM))

  def run(p, layer, state, memory, aux):
    x, carry = state
    hidden = jnp.tanh(x @ p["w"]) * jax.random.bernoulli(jax.random.fold_in(aux["key"], layer), 0.7, (width,))
    return x + hidden @ p["v"] * (1 + layer) + memory, carry

  return Branch(cut, run)


def gate(power):
  def run(p, layer, state, memory, aux):
    x, carry = state
    x = x * jnp.abs(p["gate"]) ** power + carry["memory"]
    return x, carry | {"memory": jnp.sin(x)}

  return Branch(cut_to(gate=(DIM,)), run)


MEMORY = jnp.asarray(RNG.normal(size=(2, DIM)), jnp.float32)
BLOCKS = (Block(lambda i, aux: 0, lambda i, aux: (aux["mlp"][i],), (3,), ((mlp(1), mlp(3), mlp(6)),)),
          Block(lambda i, aux: aux["gate"][i], lambda i, aux: (), (), ((gate(1),), (gate(2),))),
          Block(lambda i, aux: 0, lambda i, aux: (), (), ((mlp(2),),)))


def unrolled(depth, state, stacked, memory, aux):
  after = []
  for layer in range(depth):
    for block in BLOCKS:
      branch = [branch for group in block.branches for branch in group][int(block.index(layer, aux))]
      state = branch.run(branch.cut.take(stacked, layer), layer, state, memory, aux)
    after.append(state)
  return state, after


def loss(state):
  x, carry = state
  return (x * jnp.arange(8.0).reshape(2, 4)).sum() + (carry["memory"] ** 2).sum()


@jax.jit
def looped(depth, state, stacked, aux):
  run = lambda *args: loss(Exact().layers(BLOCKS, depth, MAX_DEPTH, *args, aux)[0])
  return jax.value_and_grad(run, argnums=(0, 1, 2))(state, stacked, MEMORY)


@pytest.mark.parametrize("depth", range(MAX_DEPTH + 1))
def test_values_and_gradients_equal_an_unrolled_loop(depth):
  value, grads = looped(depth, STATE, STACKED, AUX)
  run = lambda *args: loss(unrolled(depth, *args, AUX)[0])
  want, want_grads = jax.value_and_grad(run, argnums=(0, 1, 2))(STATE, STACKED, MEMORY)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-4), grads, want_grads)
  assert not any(leaf[depth:].any() for leaf in jax.tree.leaves(grads[1]))  # layers that are not run
  assert looped._cache_size() == 1


@pytest.mark.parametrize("depth", range(1, MAX_DEPTH + 1))
def test_states_after_every_layer_can_be_read_and_differentiated(depth):
  def looped_loss(state, stacked, memory):
    last, after = Exact().layers(BLOCKS, depth, MAX_DEPTH, state, stacked, memory, AUX, collect=True)
    return loss(last) + sum(loss(jax.tree.map(lambda x: x[i], after)) * (2 + i) for i in range(depth))

  def unrolled_loss(state, stacked, memory):
    last, after = unrolled(depth, state, stacked, memory, AUX)
    return loss(last) + sum(loss(x) * (2 + i) for i, x in enumerate(after))

  got, want = (jax.value_and_grad(f, argnums=(0, 1, 2))(STATE, STACKED, MEMORY) for f in (looped_loss, unrolled_loss))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), got, want)


def test_without_a_gradient_it_is_the_same():
  run = jax.jit(lambda depth: Exact().layers(BLOCKS, depth, MAX_DEPTH, STATE, STACKED, MEMORY, AUX)[0])
  for depth in range(MAX_DEPTH + 1):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), run(depth),
                 unrolled(depth, STATE, STACKED, MEMORY, AUX)[0])


def test_under_vmap_every_member_has_its_own_depth_and_branches():
  depths, picks = jnp.array([0, 1, 2, 3, 2]), jnp.asarray(RNG.integers(0, 3, (5, MAX_DEPTH)))
  member = lambda depth, pick: looped(depth, STATE, STACKED, AUX | {"mlp": pick})
  values, grads = jax.jit(jax.vmap(member))(depths, picks)
  for i in range(5):
    want, want_grads = member(depths[i], picks[i])
    np.testing.assert_allclose(values[i], want, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5), grads, want_grads)


def test_what_is_not_run_is_not_read():
  """NaN in layers beyond the depth, and in what only other branches would cut out, reaches nothing."""
  poisoned = {name: leaf.at[2].set(jnp.nan) for name, leaf in STACKED.items()}
  poisoned["w"] = poisoned["w"].at[:, :, 3:].set(jnp.nan)
  poisoned["v"] = poisoned["v"].at[:, 3:].set(jnp.nan)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), looped(2, STATE, poisoned, AUX),
               looped(2, STATE, STACKED, AUX))
