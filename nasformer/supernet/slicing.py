"""Cutting the tensors of a small network out of those of a large one, and putting their gradients back.

Every size is nested: a small network is the leading part of a large one along each elastic axis. Axes are known by name
from the declarations of the tensors, so this is written once for all kinds and spaces, for traced and real arrays.

Which stored tensor plays which role is data: `Cut.names` says under what name each tensor of a branch is stored, so that
kinds or layers can share tensors without new code.
"""

import dataclasses
import functools
import math
from typing import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from nasformer.attention.base import Tensor, Tensors


@dataclasses.dataclass(frozen=True)
class Cut:
  """The tensors of one branch at its sizes.

  Attributes:
    declared: what the branch wants, by its own names.
    names: the name under which each is stored.
    stored: how each is stored: its leading part is taken and then brought into the declared shape.
  """

  declared: Mapping[str, Tensor]
  names: Mapping[str, str]
  stored: Mapping[str, Tensor]

  def _parts(self):
    for name, tensor in self.declared.items():
      yield name, self.names[name], self.stored[name].shape, tensor.shape

  def take(self, stored: Tensors, layer: Array | int | None = None) -> Tensors:
    """The leading parts.

    Args:
      stored: arrays by stored name, with one more leading axis, over layers, if `layer` is given. NumPy arrays are cut on the
        host, where nothing is compiled.
      layer: which layer to take, traced or not.
    """
    return {name: _lead(stored[where], part, layer).reshape(shape) for name, where, part, shape in self._parts()}

  def add(self, stored: Tensors, small: Tensors, layer: Array | int) -> Tensors:
    """`stored`, with `small` added where `take` took it from."""
    stored = dict(stored)
    for name, where, part, _ in self._parts():
      target, start = stored[where], (layer,) + (0,) * len(part)
      value = small[name].reshape(1, *part) + jax.lax.dynamic_slice(target, start, (1, *part))
      stored[where] = jax.lax.dynamic_update_slice(target, value, start)
    return stored


def common(alike: tuple[str, ...], share: str) -> tuple[str, ...]:
  """Which tensors attention kinds store once for all, of those that mean the same in each: see `Experiment.share_projections`."""
  return {"none": (), "values": tuple(name for name in alike if name.startswith(("value", "out"))), "all": alike}[share]


def plain(declared: Mapping[str, Tensor], prefix: str = "") -> Cut:
  """A cut whose tensors are stored under their own names, or those with a prefix."""
  return Cut(declared, {name: prefix + name for name in declared}, declared)


def divided(declared: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
  """The tensors as they are stored where a fixed width is divided among the heads (HAT 2.2): cut into the most heads there
  can be. Fewer and wider heads are runs of neighbouring ones, so a reshape brings them into shape. What is stored per head
  but does not depend on its width stays as it is: fewer heads take the leading ones.

  Args:
    declared: for any number of heads.
    num_heads: the largest there is.
  """

  def regroup(tensor):
    if ("heads", "head_dim") not in zip(tensor.axes, tensor.axes[1:]):
      return tensor
    i = tensor.axes.index("heads")
    width = tensor.shape[i] * tensor.shape[i + 1]
    shape = (*tensor.shape[:i], num_heads, width // num_heads, *tensor.shape[i + 2:])
    return Tensor(shape, (*tensor.axes[:i], None, None, *tensor.axes[i + 2:]), tensor.init)

  return {name: regroup(tensor) for name, tensor in declared.items()}


def union(cuts: Iterable[Cut]) -> dict[str, Tensor]:
  """Every stored tensor of some cuts, of a size that the parts of all of them fit into, and drawn like the largest part."""
  stored: dict[str, Tensor] = {}
  for cut in cuts:
    for name, tensor in cut.stored.items():
      one = stored.setdefault(cut.names[name], tensor)
      most = max(one, tensor, key=lambda each: math.prod(each.shape))
      stored[cut.names[name]] = dataclasses.replace(most, shape=tuple(map(max, one.shape, tensor.shape)))
  return stored


Users = Mapping[tuple[int, ...], list[int]]  # numbers of choices by the size of the leading part that they use


def users(cuts: Iterable[Iterable[Cut]]) -> dict[str, Users]:
  """Which of several choices use which part of each stored tensor, where every choice has these cuts."""
  found: dict[str, dict[tuple[int, ...], list[int]]] = {}
  for number, mine in enumerate(cuts):
    for name, tensor in union(mine).items():
      found.setdefault(name, {}).setdefault(tensor.shape, []).append(number)
  return found


def _lead(leaf, shape, layer):
  if layer is None or isinstance(leaf, np.ndarray):
    leaf = leaf if layer is None else leaf[layer]
    return leaf if leaf.shape == shape else leaf[tuple(slice(size) for size in shape)]
  start = (layer,) + (0,) * len(shape)  # one slice for layer and sizes together: one copy, of what is needed only
  return jax.lax.dynamic_slice(leaf, start, (1, *shape)).reshape(shape)


def used(tensor: Tensor, alive: Mapping[str, Bool[Array, "*L size"]], layers: Bool[Array, "L"] | None = None) -> Array:
  """Which entries of a stored tensor a network uses: booleans that broadcast to it.

  Args:
    tensor: its declaration at the largest size.
    alive: living entries by axis name, for each layer or for all; an axis that is not named is alive.
    layers: which layers use it, where it has a leading axis over layers.
  """
  lead = 0 if layers is None else 1
  ndim = lead + len(tensor.shape)
  mask = jnp.ones((1,) * ndim, bool) if layers is None else layers.reshape(-1, *[1] * len(tensor.shape))
  for position, axis in enumerate(tensor.axes, start=lead):
    if axis in alive:
      shape = [1] * ndim
      shape[position] = alive[axis].shape[-1]
      shape[0] = alive[axis].shape[0] if alive[axis].ndim == 2 else shape[0]
      mask = mask & alive[axis].reshape(shape)
  return mask


def used_by(users: Users, tensor: Tensor, alive: Mapping[str, Bool[Array, "*L size"]], layers: Bool[Array, "L"],
            chosen: Int[Array, "L"]) -> Array:
  """The same of a tensor that only some choices use, or use some part of.

  Args:
    users: which.
    tensor: as for `used`.
    alive: likewise.
    layers: likewise.
    chosen: number of the choice of each layer.
  """

  def part(shape, numbers):
    mask = used(tensor, alive, layers & jnp.isin(chosen, jnp.array(numbers)))
    for position, (size, whole) in enumerate(zip(shape, tensor.shape)):
      if size < whole:
        mask = mask & (np.arange(whole) < size).reshape([-1 if i == position else 1 for i in range(len(shape))])
    return mask

  return functools.reduce(jnp.logical_or, (part(shape, numbers) for shape, numbers in users.items()))
