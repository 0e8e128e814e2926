"""Long sequences in pieces: one after another on a CPU, all at once on an accelerator.

A CPU is quickest piece by piece, as a piece stays in its caches. An accelerator would wait for every piece anew, so there the
pieces are worked on together, and only the states at their borders follow from one another, in a number of turns that is the
logarithm of theirs. Both forms do the same matrix products. For the gradient, a piece is computed again; of what came before
it, the state at its border is all that is kept.
"""

from typing import Any, Callable

import jax
import jax.numpy as jnp

Tree = Any


def at_once() -> bool:
  """Whether this device works on all pieces together."""
  return jax.default_backend() != "cpu"


def pieces(length: int, most: int) -> tuple[int, int]:
  """In how many pieces of what size to cut: as few as there can be, and no larger than they must be."""
  number = -(-length // most)
  return number, -(-length // number)


def rows(fn: Callable, xs: Tree) -> Tree:
  """fn of every row (first axis) of some arrays."""
  return jax.vmap(fn)(xs) if at_once() else jax.lax.map(fn, xs)


def rows_and_sum(fn: Callable, xs: Tree) -> tuple[Tree, Tree]:
  """The same of an fn that gives two trees: all of the first, and the sum of the second."""
  if at_once():
    every, parts = jax.vmap(fn)(xs)
    return every, jax.tree.map(lambda x: x.sum(0), parts)

  def turn(total, x):
    out, part = fn(x)
    return jax.tree.map(jnp.add, total, part), out

  total, every = jax.lax.scan(turn, _nothing(lambda x: fn(x)[1], xs), xs)
  return every, total


def mapped(fn: Callable, xs: Tree, most: int) -> Tree:
  """fn of all positions, made of pieces of at most so many.

  Args:
    fn: piece of every x -> tree of [B, t, ...].
    xs: [B, T, ...] arrays.
    most: positions.
  """
  length = jax.tree.leaves(xs)[0].shape[1]
  number, _ = pieces(length, most)
  if number == 1:
    return fn(*xs)
  if at_once():
    return _join(jax.checkpoint(jax.vmap(lambda x: fn(*x)))(_cut(xs, number)), length)
  turn = jax.checkpoint(lambda _, x: (None, fn(*x)), prevent_cse=False)
  return _join(jax.lax.scan(turn, None, _cut(xs, number), unroll=2)[1], length)


def summed(fn: Callable, xs: Tree, most: int) -> Tree:
  """Sum over pieces of fn, which gives a tree of arrays; otherwise like `mapped`."""
  number, _ = pieces(jax.tree.leaves(xs)[0].shape[1], most)
  if number == 1:
    return fn(*xs)
  cut = _cut(xs, number)
  if at_once():
    parts = jax.checkpoint(jax.vmap(lambda x: fn(*x)))(cut)
    return jax.tree.map(lambda x: x.sum(0), parts)
  turn = jax.checkpoint(lambda total, x: (jax.tree.map(jnp.add, total, fn(*x)), None), prevent_cse=False)
  return jax.lax.scan(turn, _nothing(lambda x: fn(*x), cut), cut, unroll=2)[0]


def running(prepare: Callable, add: Callable, read: Callable, xs: Tree, most: int,
            fade: Callable = lambda state, chunks: state) -> Tree:
  """What every position finds among those up to its own: in its chunk, and in the state at the border of its chunk.

  Args:
    prepare: chunk of every x, [B, c, ...] -> what the next two need of it.
    add: of that -> what it adds to the state.
    read: (state at the chunk's start, None where nothing came before; of that) -> tree of [B, c, ...].
    xs: [B, T, ...] arrays that end at one position; the first says for which positions results are wanted.
    most: positions in a chunk.
    fade: (state, number of chunks) -> what is left of it after so many; the state may have further axes in front.
  """
  leaves = jax.tree.leaves(xs)
  length, wanted = max(x.shape[1] for x in leaves), leaves[0].shape[1]
  xs = jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (length - x.shape[1], 0)] + [(0, 0)] * (x.ndim - 2)), xs)
  number, _ = pieces(length, most)
  if number == 1:
    out = read(None, prepare(*xs))
  else:
    form = _together if at_once() else _in_turn
    out = _join(form(lambda x: prepare(*x), add, read, fade, _cut(xs, number), number), length)
  return jax.tree.map(lambda x: x[:, length - wanted :], out)


def _in_turn(prepare, add, read, fade, xs, number):

  def chunk(state, x):
    parts = prepare(x)
    return jax.tree.map(jnp.add, fade(state, 1), add(parts)), read(state, parts)

  start = _nothing(lambda x: add(prepare(x)), xs)
  return jax.lax.scan(jax.checkpoint(chunk, prevent_cse=False), start, xs, unroll=2)[1]


def _together(prepare, add, read, fade, xs, number):

  @jax.checkpoint
  def whole(xs):
    parts = jax.vmap(prepare)(xs)
    states, reach = jax.vmap(add)(parts), 1
    while reach < number:  # by now a state is what its chunk and the reach - 1 before it have added
      earlier = jax.tree.map(lambda x: x[:-reach], states)
      later = jax.tree.map(lambda x, y: x[reach:] + y, states, fade(earlier, reach))
      states = jax.tree.map(lambda x, y: jnp.concatenate([x[:reach], y]), states, later)
      reach *= 2
    before = jax.tree.map(lambda x: jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]]), states)
    return jax.vmap(read)(before, parts)

  return whole(xs)


def _nothing(fn, cut):
  """Zeros of the shapes that fn gives for one piece."""
  shapes = jax.eval_shape(fn, jax.tree.map(lambda x: x[0], cut))
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _cut(xs, number):
  """[B, T, ...] to [number, B, t, ...], with padding behind."""

  def cut(x):
    size = -(-x.shape[1] // number)
    x = jnp.pad(x, [(0, 0), (0, number * size - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(len(x), number, size, *x.shape[2:]), 1, 0)

  return jax.tree.map(cut, xs)


def _join(out, length):
  """[number, B, t, ...] back to [B, T, ...]."""
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :length]
  return jax.tree.map(join, out)
