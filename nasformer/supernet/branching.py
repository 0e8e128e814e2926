"""Running only what an architecture needs, inside one compiled program.

A stack of layers is run as a loop with a traced number of turns; in every turn each block picks one of several branches
of static shapes by a traced index. Forward, that costs what the picked branches cost. Backward, XLA's loops and branches
would either not differentiate or store the union of what all branches need; so the gradient is written here: only the
input of every block is stored, and the backward pass picks the same branch and recomputes it (4/3 of the least work).
"""

import dataclasses
from typing import Any, Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from nasformer.supernet.slicing import Cut

State = Any  # tokens, and whatever else travels through the layers


@dataclasses.dataclass(frozen=True)
class Branch:
  """One static shape of a block.

  Attributes:
    cut: which parameters it needs.
    run: (its parameters, layer, state, aux) -> state.
  """

  cut: Cut
  run: Callable


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of each layer: `index(layer, aux)` says which of the branches it is."""

  index: Callable
  branches: tuple[Branch, ...]


def run_layers(blocks: tuple[Block, ...], depth: Int[Array, ""], max_depth: int, state: State, stacked: Any,
               aux: Any) -> State:
  """Applies `blocks` in turn for layers 0 to depth - 1; differentiable in `state` and `stacked`.

  Args:
    blocks: what a layer consists of.
    depth: number of layers to run, traced.
    max_depth: number of layers that the parameters have.
    state: carried from block to block, of one shape throughout.
    stacked: parameters with a leading axis over layers.
    aux: anything else the blocks read; not differentiated.
  """
  return _run(blocks, max_depth, state, stacked, depth, aux)


def _turn(blocks, layer, state, stacked, aux):
  """One layer; also gives the state before every block."""
  before = []
  for block in blocks:
    before.append(state)
    branches = [lambda p, s, b=branch: b.run(b.cut.take(p, layer), layer, s, aux) for branch in block.branches]
    state = jax.lax.switch(block.index(layer, aux), branches, stacked, state)
  return state, before


def _forward(blocks, max_depth, state, stacked, depth, aux):
  del max_depth
  return jax.lax.fori_loop(0, depth, lambda i, s: _turn(blocks, i, s, stacked, aux)[0], state)


_run = jax.custom_vjp(_forward, nondiff_argnums=(0, 1))


def _run_forward(blocks, max_depth, state, stacked, depth, aux):
  stored = jax.tree.map(lambda x: jnp.zeros((max_depth, len(blocks), *x.shape), x.dtype), state)

  def turn(layer, carry):
    state, stored = carry
    state, before = _turn(blocks, layer, state, stacked, aux)
    keep = lambda all_, *xs: all_.at[layer].set(jnp.stack(xs))
    return state, jax.tree.map(keep, stored, *before)

  state, stored = jax.lax.fori_loop(0, depth, turn, (state, stored))
  return state, (stored, stacked, depth, aux)


def _run_backward(blocks, max_depth, residuals, cotangent):
  del max_depth
  stored, stacked, depth, aux = residuals

  def turn(i, carry):
    cotangent, grads = carry
    layer = depth - 1 - i
    for number, block in reversed(list(enumerate(blocks))):
      state = jax.tree.map(lambda x: x[layer, number], stored)
      pulls = [_pull(branch, layer, aux) for branch in block.branches]
      cotangent, grads = jax.lax.switch(block.index(layer, aux), pulls, stacked, state, cotangent, grads)
    return cotangent, grads

  grads = jax.tree.map(jnp.zeros_like, stacked)
  cotangent, grads = jax.lax.fori_loop(0, depth, turn, (cotangent, grads))
  return cotangent, grads, None, None


def _pull(branch, layer, aux):
  """Backward pass of one branch: adds its parameters' gradient to `grads` where they were cut from."""

  def pull(stacked, state, cotangent, grads):
    small = branch.cut.take(stacked, layer)
    _, back = jax.vjp(lambda p, s: branch.run(p, layer, s, aux), small, state)
    small_grads, cotangent = back(cotangent)
    return cotangent, branch.cut.add(grads, small_grads, layer)

  return pull


_run.defvjp(_run_forward, _run_backward)
