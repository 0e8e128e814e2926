"""Running only what architectures need, inside one compiled program.

A stack of layers is a loop; in every turn each block runs one of several branches of static shapes. Which one is said by
the genes in two ways: a `group` (choices that exclude each other, such as attention kinds) and `ranks` (sizes, of which a
larger one can stand in for a smaller one if what is too much is masked). Three forms run the same blocks:

`Exact`   one architecture at its own sizes: each block picks its branch by a traced index.
`Shared`  one member of a vmapped chunk: bounds and picks are made common to the chunk by `pmax`, so that they stay real loop
          bounds and branches under vmap; what no member has is not run.
`Masked`  every layer at its largest sizes: valid under any transformation.

Forward, that costs what the picked branches cost. Backward, XLA's loops and branches would either not differentiate or
store the union of what all branches need; so `Exact` brings its gradient: only the input of every block is stored, and the
backward pass picks the same branch and recomputes it (4/3 of the least work). `Shared` is for scoring and has no gradient.
"""

import dataclasses
import functools
import math
from typing import Any, Callable, ClassVar, Sequence

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
    run: (its parameters, layer, state, memory, aux) -> state.
  """

  cut: Cut
  run: Callable


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of each layer.

  Attributes:
    group: (layer, aux) -> which group.
    ranks: (layer, aux) -> a place on every axis of `shape`.
    shape: number of sizes on each axis.
    branches: by group, then by place, the last axis running fastest.
  """

  group: Callable
  ranks: Callable
  shape: tuple[int, ...]
  branches: tuple[tuple[Branch, ...], ...]

  def place(self, ranks: Sequence[Any]) -> Any:
    """Position of these ranks among the branches of a group."""
    return functools.reduce(lambda total, pair: total * pair[0] + pair[1], zip(self.shape, ranks, strict=True), 0)

  def index(self, layer: Any, aux: Any) -> Any:
    """Position among all branches."""
    return self.group(layer, aux) * math.prod(self.shape) + self.place(self.ranks(layer, aux))


class Masked:
  """Every layer and every branch at its largest size."""

  masks: ClassVar[bool] = True

  def choose(self, index: Int[Array, ""], options: Sequence[Callable], *args: Any) -> Any:
    """Runs one of several networks of growing width: here the widest."""
    return options[-1](*args)

  def layers(self, blocks: Sequence[Block], depth: Int[Array, ""], max_depth: int, state: State, stacked: Any, memory: Any,
             aux: Any, collect: bool = False) -> tuple[State, State]:
    """Applies `blocks` in turn for layers 0 to depth - 1.

    Args:
      blocks: what a layer consists of.
      depth: number of layers to run, traced.
      max_depth: number of layers that the parameters have.
      state: carried from block to block, of one shape throughout.
      stacked: parameters with a leading axis over layers.
      memory: what all layers read, such as the source of cross-attention.
      aux: anything else the blocks read; not differentiated.
      collect: whether to give the state after every layer.

    Returns:
      The last state; and the state after every layer, [max_depth, ...], or None. Beyond the depth it means nothing.
    """

    def turn(state, layer):
      new = state
      for block in blocks:
        options = [functools.partial(_run, group[-1], layer, aux) for group in block.branches]
        new = jax.lax.switch(block.group(layer, aux), options, stacked, new, memory)
      state = jax.tree.map(lambda a, b: jnp.where(layer < depth, a, b), new, state)
      return state, state if collect else None

    return jax.lax.scan(turn, state, jnp.arange(max_depth))


class Exact:
  """One architecture at its own sizes; differentiable in `state`, `stacked` and `memory`."""

  masks: ClassVar[bool] = False

  def choose(self, index, options, *args):
    return jax.lax.switch(index, options, *args)

  def layers(self, blocks, depth, max_depth, state, stacked, memory, aux, collect=False):
    return _exact(tuple(blocks), max_depth, collect, state, stacked, memory, depth, aux)


@dataclasses.dataclass(frozen=True)
class Shared:
  """One member of a chunk mapped under `axis`, at the sizes of the chunk's largest member."""

  axis: str
  masks: ClassVar[bool] = True

  def choose(self, index, options, *args):
    return jax.lax.switch(self._largest(index), options, *args)

  def layers(self, blocks, depth, max_depth, state, stacked, memory, aux, collect=False):
    def turn(layer, carry):
      state, stored = carry
      on, new = layer < depth, state
      for block in blocks:
        new = self._block(block, layer, on, stacked, new, memory, aux)
      new = jax.tree.map(lambda a, b: jnp.where(on, a, b), new, state)
      return new, _put(stored, layer, new)

    return jax.lax.fori_loop(0, self._largest(depth), turn, (state, _buffer(max_depth, state, collect)))

  def _block(self, block, layer, on, stacked, state, memory, aux):
    new, group = state, block.group(layer, aux)
    for number, branches in enumerate(block.branches):
      mine = on & (group == number)
      ranks = [self._largest(jnp.where(mine, rank, 0)) for rank in block.ranks(layer, aux)]
      options = [functools.partial(_run, branch, layer, aux) for branch in branches]
      run = lambda s, i=block.place(ranks), o=options: jax.lax.switch(i, o, stacked, s, memory)
      out = jax.lax.cond(self._largest(mine.astype(jnp.int32)) > 0, run, lambda s: s, state)
      new = jax.tree.map(lambda a, b: jnp.where(mine, a, b), out, new)
    return new

  def _largest(self, x):
    return jax.lax.pmax(x, self.axis)


def _run(branch, layer, aux, stacked, state, memory):
  return branch.run(branch.cut.take(stacked, layer), layer, state, memory, aux)


def _buffer(max_depth, state, wanted=True):
  return jax.tree.map(lambda x: jnp.zeros((max_depth, *x.shape), x.dtype), state) if wanted else None


def _put(stored, layer, state):
  return None if stored is None else jax.tree.map(lambda all_, x: all_.at[layer].set(x), stored, state)


# -- the exact form and its gradient ----------------------------------------------------------------------------------


def _turn(blocks, layer, state, stacked, memory, aux):
  """One layer; also gives the state before every block."""
  before = []
  for block in blocks:
    before.append(state)
    options = [functools.partial(_run, branch, layer, aux) for group in block.branches for branch in group]
    state = jax.lax.switch(block.index(layer, aux), options, stacked, state, memory)
  return state, before


def _forward(blocks, max_depth, collect, state, stacked, memory, depth, aux):
  def turn(layer, carry):
    state, _ = _turn(blocks, layer, carry[0], stacked, memory, aux)
    return state, _put(carry[1], layer, state)

  return jax.lax.fori_loop(0, depth, turn, (state, _buffer(max_depth, state, collect)))


_exact = jax.custom_vjp(_forward, nondiff_argnums=(0, 1, 2))


def _exact_forward(blocks, max_depth, collect, state, stacked, memory, depth, aux):
  stored = jax.tree.map(lambda x: jnp.zeros((max_depth, len(blocks), *x.shape), x.dtype), state)

  def turn(layer, carry):
    state, stored, after = carry
    state, before = _turn(blocks, layer, state, stacked, memory, aux)
    stored = jax.tree.map(lambda all_, *xs: all_.at[layer].set(jnp.stack(xs)), stored, *before)
    return state, stored, _put(after, layer, state)

  state, stored, after = jax.lax.fori_loop(0, depth, turn, (state, stored, _buffer(max_depth, state, collect)))
  return (state, after), (stored, stacked, memory, depth, aux)


def _exact_backward(blocks, max_depth, collect, residuals, cotangents):
  del max_depth
  stored, stacked, memory, depth, aux = residuals
  cotangent, after = cotangents

  def turn(i, carry):
    cotangent, grads = carry
    layer = depth - 1 - i
    if collect:
      cotangent = jax.tree.map(lambda c, all_: c + all_[layer], cotangent, after)
    for number, block in reversed(list(enumerate(blocks))):
      state = jax.tree.map(lambda x: x[layer, number], stored)
      pulls = [_pull(branch, layer, aux) for group in block.branches for branch in group]
      cotangent, grads = jax.lax.switch(block.index(layer, aux), pulls, stacked, state, memory, cotangent, grads)
    return cotangent, grads

  grads = jax.tree.map(jnp.zeros_like, (stacked, memory))
  cotangent, grads = jax.lax.fori_loop(0, depth, turn, (cotangent, grads))
  return cotangent, *grads, None, None


def _pull(branch, layer, aux):
  """Backward pass of one branch: adds its parameters' gradient to `grads` where they were cut from."""

  def pull(stacked, state, memory, cotangent, grads):
    small = branch.cut.take(stacked, layer)
    _, back = jax.vjp(lambda p, s, m: branch.run(p, layer, s, m, aux), small, state, memory)
    small_grads, cotangent, memory_grads = back(cotangent)
    return cotangent, (branch.cut.add(grads[0], small_grads, layer), jax.tree.map(jnp.add, grads[1], memory_grads))

  return pull


_exact.defvjp(_exact_forward, _exact_backward)
