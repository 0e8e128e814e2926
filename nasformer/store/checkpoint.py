"""Checkpoints of a training run, saved by orbax, by one process.

A checkpoint is the folder `<directory>/<step>`: the arrays as orbax lays them out in `state/`, and `contents.json`,
which lists every array with its type and shape and every file with its size and checksum. That list is written last, so
a folder without it is a save that was cut short and does not count; with it, damage is found before anything is loaded
(orbax returns wrong numbers for a changed byte) and told in words.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import pathlib
import re
import shutil
import zlib
from typing import Any, Iterator

from absl import logging as absl_logging
import jax
import orbax.checkpoint as ocp

from nasformer.store import files
from nasformer.types import UserError

_CONTENTS = "contents.json"
_OVERHEAD_BYTES = 1 << 20  # generous: what a checkpoint takes beside its arrays


@dataclasses.dataclass(frozen=True)
class Checkpoints:
  """The latest checkpoints of one training run.

  Attributes:
    directory: where their folders are; made by the first save.
    keep: how many are kept.
  """

  directory: pathlib.Path | str
  keep: int = 2

  def steps(self) -> list[int]:
    """Steps that can be restored, in order."""
    root = pathlib.Path(self.directory)
    folders = [path for path in root.iterdir() if path.name.isdecimal()] if root.is_dir() else []
    return sorted(int(path.name) for path in folders if (path / _CONTENTS).exists())

  def latest_step(self) -> int | None:
    """The last step that was saved; None if there is none."""
    return max(self.steps(), default=None)

  def save(self, step: int, state: Any) -> None:
    """Saves a tree of arrays and returns when it is on the disk; a step that is there already is left as it is.

    Args:
      step: the number of updates that made `state`.
      state: any tree of arrays, none of them empty.

    Raises:
      UserError: the disk is full or the directory is not writable; earlier checkpoints are untouched.
    """
    if step in self.steps():
      return
    folder = self._folder(step)
    with _orbax(folder):
      folder.parent.mkdir(parents=True, exist_ok=True)
      if shutil.disk_usage(folder.parent).free < _OVERHEAD_BYTES + sum(leaf.nbytes for leaf in jax.tree.leaves(state)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # before orbax fills the disk
      for path in folder.parent.glob("[0-9]*"):
        if path.name.isdecimal() and not (path / _CONTENTS).exists():
          shutil.rmtree(path)
      options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, cleanup_tmp_directories=True, create=False,
                                             multiprocessing_options=_alone())
      with ocp.CheckpointManager(folder.parent, options=options) as manager:
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(jax.device_get(state))), force=True)
      files.write_json(folder / _CONTENTS, {"arrays": _arrays(state), "files": _files(folder)})
      for old in self.steps()[:-self.keep]:
        (self._folder(old) / _CONTENTS).unlink()
        shutil.rmtree(self._folder(old))

  def restore(self, target: Any, step: int | None = None) -> Any:
    """Loads a checkpoint.

    Args:
      target: the tree to fill, of arrays or `jax.ShapeDtypeStruct`; each array is placed by its `sharding`, or on the
        first device if it has none.
      step: which one; the latest if None.

    Raises:
      UserError: there is none, it is damaged, or its arrays are not those of `target`.
    """
    step = self.latest_step() if step is None else step
    if step not in self.steps():
      which = "no checkpoint" if step is None else f"no checkpoint of step {step} (there are: {self.steps()})"
      raise UserError(f"{self.directory}: there is {which}; run the stage that trains first")
    folder = self._folder(step)
    damage = self._damage(step)
    if damage:
      intact = [other for other in self.steps() if other < step and not self._damage(other)]
      start = f"step {intact[-1]}" if intact else "the start"
      raise UserError(f"{folder}: the checkpoint is damaged ({damage}); run the same command with --repair"
                      f" to set it aside and go on from {start}")
    mismatch = _mismatch(files.read_json(folder / _CONTENTS)["arrays"], _arrays(target))
    if mismatch:
      raise UserError(f"{folder}: the checkpoint is of another network ({mismatch}); choose another work directory,"
                      " or go back to the config that it was made with")
    with _orbax(folder), ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
      return checkpointer.restore(folder / "state", jax.tree.map(_placed, target))

  def repair(self) -> list[pathlib.Path]:
    """Sets damaged checkpoints aside as `<step>.broken`.

    Returns:
      The folders that were set aside.
    """
    aside = []
    for step in self.steps():
      if self._damage(step):
        aside.append(self._folder(step).with_name(f"{step}.broken"))
        with files.explained(aside[-1]):
          shutil.rmtree(aside[-1], ignore_errors=True)
          os.replace(self._folder(step), aside[-1])
    return aside

  def _folder(self, step: int) -> pathlib.Path:
    return pathlib.Path(self.directory).absolute() / str(step)

  def _damage(self, step: int) -> str | None:
    folder = self._folder(step)
    try:
      listed = files.read_json(folder / _CONTENTS)["files"]
    except (UserError, KeyError, TypeError):
      return f"{_CONTENTS} is not readable"
    found = _files(folder)
    for name, facts in listed.items():
      if name not in found:
        return f"{name} is missing"
      if found[name]["bytes"] != facts["bytes"]:
        return f"{name} has {found[name]['bytes']} bytes instead of {facts['bytes']}"
      if found[name] != facts:
        return f"{name} has changed since it was written"
    return None


def _arrays(tree: Any) -> dict[str, str]:
  """Type and shape of every array by its place in the tree, such as {"params.bias": "float32[64]"}."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
      jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves
  }


def _files(folder: pathlib.Path) -> dict[str, dict[str, int]]:
  """Size and CRC-32 of every file that holds state, by its path in the folder."""
  facts = {}
  with files.explained(folder):
    for path in sorted(path for path in (folder / "state").rglob("*") if path.is_file()):
      crc = 0
      with open(path, "rb") as file:
        while block := file.read(1 << 20):
          crc = zlib.crc32(block, crc)
      facts[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "crc32": crc}
  return facts


def _mismatch(saved: dict[str, str], wanted: dict[str, str]) -> str:
  def told(arrays, name):
    return arrays[name] if name in arrays else "absent"

  names = [name for name in {**wanted, **saved} if told(saved, name) != told(wanted, name)]
  more = f", and {len(names) - 1} more" if len(names) > 1 else ""
  return f"{names[0]} is {told(saved, names[0])} there and {told(wanted, names[0])} here{more}" if names else ""


def _alone() -> ocp.options.MultiprocessingOptions:
  """Of several processes, the one that calls saves and restores, and waits for no other."""
  me = jax.process_index()
  return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


@contextlib.contextmanager
def _orbax(folder: pathlib.Path) -> Iterator[None]:
  """Runs orbax without its log, which repeats its exceptions, and tells what the system told it."""
  logger = absl_logging.get_absl_logger()
  logger.addFilter(_not_orbax)
  try:
    with files.explained(folder):
      try:
        yield
      except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))  # how tensorstore reports, for instance, a full disk
        if code is None:
          raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
  finally:
    logger.removeFilter(_not_orbax)


def _not_orbax(record: logging.LogRecord) -> bool:
  return "orbax" not in pathlib.Path(record.pathname).parts
