import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

from nasformer.store.checkpoint import Checkpoints
from nasformer.types import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  step: jax.Array
  params: dict
  moments: tuple


def make(step):
  bits = jax.random.bits(jax.random.key(step), (64, 64), jnp.uint32)  # every pattern: NaN, -0.0, subnormal
  params = {"a.b/c": jax.lax.bitcast_convert_type(bits, jnp.float32), "half": jnp.full(3, step, jnp.bfloat16)}
  return State(jnp.int32(step), params, (jnp.arange(5) % 2 == 0, (), None, jnp.ones((1, 3))))


def same(one, two):
  def equal(a, b):
    return a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()

  return jax.tree.all(jax.tree.map(equal, one, two))


def files_of(folder):
  return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.fixture
def saved(tmp_path):
  checkpoints = Checkpoints(tmp_path / "ckpt")
  for step in (1, 2, 10):
    checkpoints.save(step, make(step))
  return checkpoints


def test_nothing_is_there_before_the_first_save(tmp_path):
  checkpoints = Checkpoints(tmp_path / "ckpt")
  assert checkpoints.latest_step() is None and checkpoints.repair() == []
  with pytest.raises(UserError, match="ckpt: there is no checkpoint; run the stage that trains first"):
    checkpoints.restore(make(0))
  assert not os.listdir(tmp_path)


def test_the_latest_are_kept_and_come_back_bit_for_bit(saved):
  assert saved.steps() == [2, 10] and saved.latest_step() == 10
  assert same(saved.restore(make(0)), make(10))
  assert same(saved.restore(jax.eval_shape(lambda: make(0)), step=2), make(2))
  with pytest.raises(UserError, match=r"no checkpoint of step 1 \(there are: \[2, 10\]\)"):
    saved.restore(make(0), step=1)


def test_saving_a_step_twice_changes_nothing(saved):
  saved.save(10, make(11))
  assert same(saved.restore(make(0)), make(10))


def test_arrays_are_placed_by_the_target(saved):
  mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), make(0))
  restored = saved.restore(target)
  assert same(restored, make(10))
  assert {leaf.sharding for leaf in jax.tree.leaves(restored)} == {sharding}


@pytest.mark.parametrize("change, words", [
    (lambda state: {"other": state.step}, "other is absent there and int32[] here, and"),
    (lambda state: dataclasses.replace(state, step=jnp.zeros(2, jnp.int32)), "step is int32[] there and int32[2] here"),
    (lambda state: dataclasses.replace(state, step=jnp.float32(0)), "step is int32[] there and float32[] here"),
    (lambda state: dataclasses.replace(state, moments=state.moments[1:]), "moments.2 is absent there and float32[1, 3]")
])
def test_another_network_is_told(saved, change, words):
  with pytest.raises(UserError, match=f"ckpt/10: the checkpoint is of another network .{re.escape(words)}"):
    saved.restore(change(make(0)))


@pytest.mark.parametrize("how, words", [
    ("missing", "is missing"),
    ("short", "has 5 bytes instead of [0-9]+"),
    ("changed", "has changed since it was written"),
    ("contents", "contents.json is not readable"),
])
def test_damage_is_told_and_set_aside(saved, how, words):
  folder = saved.directory / "10"
  victim = folder / "contents.json" if how == "contents" else files_of(folder / "state")[-1]
  data = victim.read_bytes()
  if how == "missing":
    victim.unlink()
  elif how == "changed":
    middle = len(data) // 2
    victim.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:])
  else:
    victim.write_bytes(data[:5])
  with pytest.raises(UserError, match=f"^{folder}: the checkpoint is damaged .*{words}.; .*--repair .* from step 2$"):
    saved.restore(make(0))
  assert saved.repair() == [saved.directory / "10.broken"]
  assert saved.latest_step() == 2 and same(saved.restore(make(0)), make(2))
  saved.save(10, make(10))
  assert saved.steps() == [2, 10] and same(saved.restore(make(0)), make(10))


def test_damage_to_the_only_checkpoint(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, make(3))
  files_of(tmp_path / "3" / "state")[0].unlink()
  with pytest.raises(UserError, match="go on from the start$"):
    checkpoints.restore(make(0))


def test_a_save_that_was_cut_short_does_not_count(saved):
  for step in ("11", "12.orbax-checkpoint-tmp"):
    (saved.directory / step / "state").mkdir(parents=True)
  assert saved.latest_step() == 10 and saved.repair() == []
  saved.save(11, make(11))
  assert sorted(os.listdir(saved.directory)) == ["10", "11"]


def test_a_kill_leaves_the_last_whole_checkpoint(tmp_path):
  program = ("import sys, jax.numpy as jnp; from nasformer.store.checkpoint import Checkpoints\n"
             "checkpoints = Checkpoints(sys.argv[1]); step = checkpoints.latest_step() or 0\n"
             "while True: step += 1; checkpoints.save(step, {'x': jnp.full(9, step)}); print(step, flush=True)")
  child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
  done = [int(child.stdout.readline()) for _ in range(3)][-1]
  child.send_signal(signal.SIGKILL)
  done = max([done, *map(int, child.communicate()[0].split())])
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest_step() >= done
  assert (checkpoints.restore({"x": jnp.zeros(9, jnp.int32)})["x"] == checkpoints.latest_step()).all()


def test_a_disk_without_room_is_told_before_anything_is_written(saved, monkeypatch):
  monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1 << 20))
  with pytest.raises(UserError, match="ckpt/11: no space is left on the disk; free some and run the same command"):
    saved.save(11, make(11))
  assert sorted(os.listdir(saved.directory)) == ["10", "2"]


def test_a_disk_that_fills_while_saving(saved, monkeypatch):
  def full(*_, **__):
    raise ValueError("RESOURCE_EXHAUSTED: Failed to write 46172 bytes: No space left on device [os_error_code='28']")

  monkeypatch.setattr(orbax.checkpoint.CheckpointManager, "save", full)
  with pytest.raises(UserError, match="ckpt/11: no space is left on the disk"):
    saved.save(11, make(11))
  assert same(saved.restore(make(0)), make(10))


def test_orbax_does_not_fill_the_log(saved, caplog):
  with caplog.at_level(0, logger="absl"):
    saved.save(11, make(11))
    saved.restore(make(0))
  assert not [record for record in caplog.records if "orbax" in record.pathname]


def test_an_unwritable_directory_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="file/ckpt/1: a file stands where a directory is wanted"):
    Checkpoints(tmp_path / "file" / "ckpt").save(1, make(1))
