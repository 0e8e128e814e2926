"""Data parallelism: where the rows of a batch and the weights lie. The step itself is the same on any mesh."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from nasformer.types import UserError


def data_mesh() -> Mesh:
  """All devices of all processes along "data"; the axis "subnet", for populations, has size 1."""
  return jax.make_mesh((1, jax.device_count()), ("subnet", "data"), axis_types=(AxisType.Auto,) * 2)


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
  """Spreads the rows of a batch over the devices.

  Args:
    batch: tree of NumPy arrays, examples first; with several processes, this process's share of the rows.
    mesh: from `data_mesh`.

  Raises:
    UserError: the rows do not divide over the devices.
  """
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  devices = len(sharding.addressable_devices)

  def put(rows: np.ndarray) -> jax.Array:
    if len(rows) % devices:
      raise UserError(f"a batch of {len(rows)} examples does not divide over {devices} devices:"
                      f" use a multiple of {devices}")
    return jax.make_array_from_process_local_data(sharding, rows)

  return jax.tree.map(put, batch)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Puts the same values on every device.

  Args:
    tree: arrays, equal in all processes; where they already lie on a device, the result may share their memory. Random
      keys are not placed: hand them to the step as they are.
    mesh: from `data_mesh`.
  """
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
