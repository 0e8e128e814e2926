"""Cutting the tensors of a small network out of those of a large one, and putting their gradients back.

Every size is nested: a small network is the leading part of a large one along each elastic axis. Axes are known by name
from the declarations of the tensors, so this is written once for all kinds and spaces, for traced and real arrays.

Which stored tensor plays which role is data: `Cut.names` says under what name each tensor of a branch is stored, so that
kinds or layers can share tensors without new code.
"""

import dataclasses
from typing import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from nasformer.attention.base import Tensor, Tensors


@dataclasses.dataclass(frozen=True)
class Cut:
  """The tensors of one branch at its sizes.

  Attributes:
    declared: what the branch wants, by its own names.
    names: the name under which each is stored.
  """

  declared: Mapping[str, Tensor]
  names: Mapping[str, str]

  def take(self, stored: Tensors, layer: Array | int | None = None) -> Tensors:
    """The leading parts.

    Args:
      stored: arrays by stored name, with one more leading axis, over layers, if `layer` is given.
      layer: which layer to take, traced or not.
    """
    return {name: _lead(stored[self.names[name]], tensor.shape, layer) for name, tensor in self.declared.items()}

  def add(self, stored: Tensors, small: Tensors, layer: Array | int) -> Tensors:
    """`stored`, with `small` added where `take` took it from."""
    stored = dict(stored)
    for name, value in small.items():
      target, start = stored[self.names[name]], (layer,) + (0,) * value.ndim
      value = value[None] + jax.lax.dynamic_slice(target, start, (1, *value.shape))
      stored[self.names[name]] = jax.lax.dynamic_update_slice(target, value, start)
    return stored


def plain(declared: Mapping[str, Tensor], prefix: str = "") -> Cut:
  """A cut whose tensors are stored under their own names, or those with a prefix."""
  return Cut(declared, {name: prefix + name for name in declared})


def _lead(leaf, shape, layer):
  if layer is None:
    return leaf if leaf.shape == shape else leaf[tuple(slice(size) for size in shape)]
  start = (layer,) + (0,) * len(shape)  # one slice for layer and sizes together: one copy, of what is needed only
  return jax.lax.dynamic_slice(leaf, start, (1, *shape)).reshape(shape)


def used(tensor: Tensor, alive: Mapping[str, Bool[Array, "*L size"]], layers: Bool[Array, "L"] | None = None) -> Array:
  """Which entries of a stored tensor a network uses: booleans that broadcast to it.

  Args:
    tensor: its declaration at the largest size.
    alive: living entries by axis name, for each layer or for all.
    layers: which layers use it, where it has a leading axis over layers.
  """
  lead = 0 if layers is None else 1
  ndim = lead + len(tensor.shape)
  mask = jnp.ones((1,) * ndim, bool) if layers is None else layers.reshape(-1, *[1] * len(tensor.shape))
  for position, axis in enumerate(tensor.axes, start=lead):
    if axis is not None:
      shape = [1] * ndim
      shape[position] = alive[axis].shape[-1]
      shape[0] = alive[axis].shape[0] if alive[axis].ndim == 2 else shape[0]
      mask = mask & alive[axis].reshape(shape)
  return mask
