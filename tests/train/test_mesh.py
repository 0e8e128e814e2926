import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from nasformer.train import mesh as meshes

ROOT = pathlib.Path(__file__).parents[2]

TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from nasformer.train import mesh as meshes, state as states
from nasformer.train.optimizer import Optimizer
from nasformer.train.step import make_step
from nasformer.types import UserError

def loss_fn(params, batch, keys):
  keep = jax.random.bernoulli(keys.step, 0.5, (8,))
  hidden = jnp.tanh(batch["x"] @ params["in"]) * keep
  loss = jnp.mean((hidden @ params["out"] - batch["y"]) ** 2)
  return loss, ({"kept": keep.mean()}, {"in": keep, "out": keep})

def train(place, put):
  optimizer = Optimizer(peak_lr=0.05).make(10)
  params = {"in": jax.random.normal(jax.random.key(1), (4, 8)), "out": jnp.ones(8)}
  state, key = place(states.init(params, optimizer, ema=True)), jax.random.key(0)
  step_fn = make_step(loss_fn, optimizer, ema_decay=0.9, accumulate=2)
  for i in range(4):
    rows = np.random.default_rng(i).normal(size=(8, 5)).astype(np.float32)
    state, metrics = step_fn(state, put({"x": rows[:, :4], "y": rows[:, 4]}), key)
  assert step_fn._cache_size() == 1
  return state, metrics

assert jax.device_count() == 2
mesh = meshes.data_mesh()
assert dict(mesh.shape) == {"subnet": 1, "data": 2}
rows = meshes.shard_batch(np.arange(8), mesh)
assert [shard.data.tolist() for shard in rows.addressable_shards] == [[0, 1, 2, 3], [4, 5, 6, 7]]
assert [(x.tolist(), len(x.devices())) for x in meshes.local([rows, meshes.replicate(jnp.arange(3), mesh)])] == [
    ([0, 1, 2, 3], 1), ([0, 1, 2], 1)]
meshes.check_rows(8, mesh)
try:
  meshes.check_rows(7, mesh)
except UserError as error:
  assert "batch of 7 examples does not divide over 2 devices: use a multiple of 2" in str(error)
else:
  raise AssertionError("a batch of 7 was accepted")

one = train(lambda tree: tree, lambda batch: batch)
two = train(lambda tree: meshes.replicate(tree, mesh), lambda batch: meshes.shard_batch(batch, mesh))
assert all(leaf.sharding.is_fully_replicated and len(leaf.devices()) == 2 for leaf in jax.tree.leaves(two))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), one, two)
"""

TWO_PROCESSES = """
import sys
import jax, jax.numpy as jnp, numpy as np
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))
from nasformer.train import mesh as meshes, state as states
from nasformer.train.optimizer import Optimizer
from nasformer.train.step import make_step
from nasformer.train import loop

mesh = meshes.data_mesh()
loss_fn = lambda params, batch, keys: (jnp.mean((params - batch) ** 2), ({}, None))
optimizer = Optimizer("sgd", "constant", peak_lr=0.5, momentum=0.0, weight_decay=0.0).make(9)
state, key = meshes.replicate(states.init(jnp.zeros(()), optimizer), mesh), jax.random.key(0)
mine = 4.0 * jax.process_index() + np.arange(4, dtype=np.float32)
batches = (meshes.shard_batch(mine, mesh) for _ in range(9))
(step, state, metrics), = loop.run(state, make_step(loss_fn, optimizer), batches, 1, key=key, report_every=1)
assert metrics["loss"] == np.mean(np.arange(8.0) ** 2) and float(state.params) == 3.5, (metrics, state.params)
"""


def _python(script, *args):
  env = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-c", script, *args]
  return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_devices_train_like_one():
  process = _python(TWO_DEVICES)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0, output


def test_two_processes_with_two_devices_each_see_the_whole_batch():
  """One step of half the gradient takes the weight to the mean of 0..7, which is 3.5."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
  processes = [_python(TWO_PROCESSES, port, str(i)) for i in range(2)]
  outputs = [process.communicate(timeout=120)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)


def test_a_batch_and_weights_on_the_mesh_keep_their_values():
  mesh = meshes.data_mesh()
  batch = {"image": np.arange(4 * jax.device_count(), dtype=np.uint8).reshape(-1, 2), "mask": None}
  placed = meshes.shard_batch(batch, mesh)
  np.testing.assert_array_equal(placed["image"], batch["image"])
  assert placed["image"].dtype == np.uint8
  np.testing.assert_array_equal(meshes.replicate(jnp.arange(3), mesh), np.arange(3))
