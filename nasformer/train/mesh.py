"""Data parallelism: where the rows of a batch and the weights lie. The step itself is the same on any mesh."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from nasformer.types import UserError


def data_mesh() -> Mesh:
  """All devices of all processes along "data", those of a process side by side, so that its share of a batch is one piece;
  the axis "subnet", for populations, has size 1."""
  devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
  return Mesh(np.array(devices)[None], ("subnet", "data"), axis_types=(AxisType.Auto,) * 2)


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
  """Spreads the rows of a batch over the devices.

  Args:
    batch: tree of NumPy arrays, examples first; with several processes, this process's share of the rows.
    mesh: from `data_mesh`.
  """
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def check_rows(rows: int, mesh: Mesh) -> None:
  """Refuses a batch that cannot be spread evenly.

  Args:
    rows: examples of the batch, over all processes.
    mesh: from `data_mesh`.

  Raises:
    UserError: the rows do not divide over the devices.
  """
  if rows % mesh.size:
    raise UserError(f"a batch of {rows} examples does not divide over {mesh.size} devices: use a multiple of {mesh.size}")


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Puts the same values on every device.

  Args:
    tree: arrays, equal in all processes; where they already lie on a device, the result may share their memory. Random
      keys are not placed: hand them to the step as they are.
    mesh: from `data_mesh`.
  """
  sharding = NamedSharding(mesh, PartitionSpec())
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def local(tree: PyTree) -> PyTree:
  """What `replicate` placed, on the first device of this process; it shares the memory."""
  return jax.tree.map(lambda x: x.addressable_data(0), tree)
