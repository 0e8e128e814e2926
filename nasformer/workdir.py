"""A run and its work directory: the experiment, what is built from it, and where everything lies."""

import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import zlib
from typing import Any, Iterator, Mapping

import jax
from jaxtyping import Array
from rich.console import Console

import nasformer
from nasformer import config, processes, supernet
from nasformer.data.base import Splits
from nasformer.data.parallel import TextInfo
from nasformer.data.texts import TextsInfo
from nasformer.experiment import Experiment
from nasformer.registry import lookup
from nasformer.store import files
from nasformer.store.checkpoint import Checkpoints
from nasformer.store.writers import JsonlWriter
from nasformer.types import UserError

_GROWS = "config.latency.networks"  # a longer table of latencies begins as a shorter one does
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Run:
  """One experiment in one work directory.

  Attributes:
    experiment: what is to be done.
    path: the work directory.
    data_dir: where data sets lie, if one was named.
    console: where people look.
    command: the command line.
    repair: set damaged files aside instead of refusing them.
  """

  experiment: Experiment
  path: pathlib.Path
  data_dir: pathlib.Path | None = None
  console: Console = dataclasses.field(default_factory=Console)
  command: tuple[str, ...] = ()
  repair: bool = False

  @functools.cached_property
  def splits(self) -> Splits:
    splits, about = self.experiment.data.load(self.data_dir, self.path), self.path / "experiment.json"
    if isinstance(splits.info, (TextInfo, TextsInfo)) and about.exists():
      theirs = files.read_json(about)["dataset"]["fingerprint"]
      if theirs != splits.info.fingerprint:
        raise UserError(f"--workdir={self.path}: its networks were trained with another vocabulary (fingerprint {theirs[:12]},"
                        f" now {splits.info.fingerprint[:12]}): bring back {self.path / 'vocabulary'}, or choose another"
                        " directory")
    return splits

  @functools.cached_property
  def supernet(self) -> Any:
    experiment = self.experiment
    net = experiment.task.build(self.splits.info, experiment.space, experiment.kinds)
    return lookup(supernet.BY_NETWORK, type(net).__name__, "network family")(experiment.space, net,
                                                                                  experiment.share_projections)

  def key(self, seed: int, purpose: str) -> Array:
    """The random key of one purpose; purposes do not share randomness."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()) >> 1)

  # -- where things lie ---------------------------------------------------------------------------------------------

  @property
  def trials(self) -> pathlib.Path:
    return self.path / "trials.jsonl"

  @property
  def winner(self) -> pathlib.Path:
    return self.path / "winner.json"

  @property
  def results(self) -> pathlib.Path:
    return self.path / "results.json"

  @property
  def latency(self) -> pathlib.Path:
    return self.path / "latency.json"

  @property
  def trust(self) -> pathlib.Path:
    return self.path / "trust.json"

  def supernet_dir(self, seed: int) -> pathlib.Path:
    return self.path / "supernet" / f"seed{seed}"

  def model_dir(self, stage: str, arm: str, seed: int) -> pathlib.Path:
    """Folder of one network: "derived" with inherited weights, "retrain" and "trust" with its own."""
    return self.path / stage / arm / f"seed{seed}"

  def outputs(self, arm: str, seed: int) -> pathlib.Path:
    """What a retrained winner made of the test part, one line per example, where that is text."""
    return self.path / "outputs" / arm / f"seed{seed}.txt"

  def winners(self, stage: str) -> list[dict]:
    """What the search found.

    Raises:
      UserError: it has not ended yet.
    """
    if not self.winner.exists():
      raise UserError(f"--stages={stage} needs {self.winner}, which is not there: run --stages=search first")
    return files.read_json(self.winner)["winners"]

  def note_timing(self, stage: str, **numbers: Any) -> None:
    """Adds a line to timings.jsonl: the only place, with latency.json, for numbers that differ from run to run."""
    if processes.first():
      JsonlWriter(self.path / "timings.jsonl").write({"stage": stage, **numbers})

  def checkpoints(self, folder: pathlib.Path, keep: int = 2) -> Checkpoints:
    """Checkpoints of a folder, after damaged ones were set aside if that was asked for."""
    checkpoints = Checkpoints(folder, keep)
    if self.repair:
      for broken in checkpoints.repair():
        self.console.print(f"set aside {broken}", soft_wrap=True, highlight=False)
    return checkpoints

  # -- experiment.json ----------------------------------------------------------------------------------------------

  def begin(self) -> None:
    """Checks that the work directory is this experiment's, and describes the run in experiment.json if it is new.

    How many networks the table of latencies holds may change until a search has learned from it and ended.

    Raises:
      UserError: the directory holds another experiment.
    """
    path, mine = self.path / "experiment.json", json.loads(json.dumps(config.to_json(self.experiment)))
    if path.exists():
      theirs = files.read_json(path)
      if not isinstance(theirs, Mapping) or "config" not in theirs:
        raise UserError(f"{path}: it does not describe an experiment; move it away or choose another --workdir")
      changed = dict(differences(_completed(type(self.experiment), theirs["config"]), mine, "config"))
      learned = self.winner.exists() and self.experiment.search.latency == "predicted"
      if changed.keys() == {_GROWS} and not learned:
        files.write_json(path, {**theirs, "config": mine})
      elif changed:
        raise UserError(f"--workdir={self.path} holds another experiment ({next(iter(changed.values()))}): choose another"
                        " directory, or go back to the config that it was made with")
      return
    if any(self.path.glob("[!.]*.json*")):  # but for what a kill left of experiment.json
      raise UserError(f"--workdir={self.path} holds results but no experiment.json: choose an empty directory")
    files.write_json(path, self.description(mine))

  def description(self, experiment: dict) -> dict:
    info, sizes = self.splits.info, self.splits.sizes
    dataset = dataclasses.asdict(info) | {f"num_{name}": size for name, size in sizes.items()}
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    return {
        "config": experiment, "command": list(self.command),
        "versions": {"nasformer": nasformer.__version__, "python": platform.python_version(), **versions},
        "device": device(), "commit": commit(), "counting": self.supernet.net.counting, "dataset": dataset,
        "headline": self.experiment.task.headline,
    }


def device() -> str:
  """The devices in words, such as "cpu: AMD EPYC, 2 cores"."""
  found = jax.devices()
  if found[0].platform != "cpu":
    return f"{found[0].platform}: {found[0].device_kind} x{len(found)}"
  name, cores = platform.processor() or platform.machine(), len(os.sched_getaffinity(0))
  info = pathlib.Path("/proc/cpuinfo")
  if info.exists():
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    name = names[0] if names else name
  return f"cpu: {name}, {cores} core{'s' if cores > 1 else ''}"


def commit() -> str | None:
  """The commit of the source tree, with a plus if it was changed since; None outside a checkout."""
  where = pathlib.Path(__file__).parent
  ask = lambda *words: subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, check=True)
  try:
    changed = ask("status", "--porcelain", "--untracked-files=no", ".").stdout.strip()
    return ask("rev-parse", "--short", "HEAD").stdout.strip() + ("+" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return None


def _completed(cls: type, theirs: Any) -> Any:
  """A stored configuration with what was not yet a field when it was written; as it is, if it cannot be read any more."""
  try:
    return json.loads(json.dumps(config.to_json(config.from_json(cls, theirs))))
  except UserError:
    return theirs


def differences(theirs: Any, mine: Any, where: str) -> Iterator[tuple[str, str]]:
  """The fields in which two JSON trees differ, named from `where` on, and a sentence for each."""
  if isinstance(theirs, dict) and isinstance(mine, dict):
    for name in {**theirs, **mine}:
      yield from differences(theirs[name] if name in theirs else None, mine[name] if name in mine else None,
                              f"{where}.{name}")
  elif theirs != mine:
    yield where, f"{where} is {json.dumps(theirs)} there and {json.dumps(mine)} here"


def command_line() -> tuple[str, ...]:
  """This process's command, as a person would type it."""
  return ("python", "-m", "nasformer.main", *sys.argv[1:])
