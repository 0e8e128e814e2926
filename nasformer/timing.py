"""Latency on the device at hand: of one network, of a table of random ones, and predicted from such a table.

The table, latency_table.jsonl, begins with a line that says what was measured where; the others are one network each. It
grows network by network, so an interrupted measurement goes on, and it can be used by other runs on the same device.

A machine is faster at one time than at another, for minutes and by a fifth and more (so are those of HAT's published tables:
experiments/bench/latency_model.py). One and the same network, the reference, is therefore timed before and after every other
one, and what is predicted is latency on the machine as it usually was.
"""

import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import time
from typing import Any, Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from nasformer import config
from nasformer.progress import bar
from nasformer.score import counts, prices
from nasformer.score.counts import NumFlops
from nasformer.score.latency import compiled
from nasformer.search.costs import CostTable
from nasformer.space.base import Space
from nasformer.store import files
from nasformer.store.writers import JsonlWriter
from nasformer.types import UserError
from nasformer.workdir import Run, device

_BLOCK = 64  # networks drawn at once
_WORDS = {"median_ape": "median error", "mape": "mean error", "rmse_ms": "RMSE in ms", "tau": "tau"}
_NEEDED = "genes", "median_ms", "p10_ms", "p90_ms", "reference_ms"  # of every row

Genes = Int[np.ndarray, "G"]


def latency(run: Run) -> None:
  """Measures random networks of the space into the table, and says how well latency can be predicted from it."""
  setting, log = run.experiment.latency, JsonlWriter(_path(run))
  if setting.table is not None:
    raise UserError(f"--stages=latency would measure, but --config.latency.table={setting.table} names a table that exists:"
                    " leave one of them out")
  rows = _read(run) if _path(run).exists() else []
  if not _path(run).exists():
    log.write(_header(run))
  done = {tuple(row["genes"]) for row in rows}
  wanted = [genes for genes in networks(run) if tuple(genes.tolist()) not in done]
  total, began = len(done) + len(wanted), time.perf_counter()
  reference = _program(run, _middle(run))
  setting.time(reference)
  about = (time.perf_counter() - began) * len(wanted) / 60
  run.console.print(f"latency: {len(wanted)} networks to be compiled and run; as one takes, about {about:.1f} minutes",
                    highlight=False)
  with bar(run.console, "latency", total, len(done)) as show:
    for number, genes in enumerate(wanted):
      found = measure(run, genes, reference)
      log.write({"genes": genes.tolist(), **found, **_reading(run, genes, found["median_ms"]), "load": os.getloadavg()[0]})
      show(len(done) + number + 1)
  _, found = predicted(run)
  told = ", ".join(f"{word} {found[name]:.1%}" if name.endswith("ape") else f"{word} {found[name]:.3g}"
                   for name, word in _WORDS.items())
  run.console.print(f"latency of networks left out of the fit: {told}", highlight=False)


def networks(run: Run) -> list[Genes]:
  """What the table holds: the cheapest network by FLOPs, then random ones; a longer table begins as a shorter one."""
  space, num, key = run.experiment.space, run.experiment.latency.networks, run.key(0, "latency")
  drawn = [np.asarray(space.sample(jax.random.fold_in(key, block), _BLOCK)) for block in range(-(-4 * num // _BLOCK))]
  distinct = {row.tobytes(): row for row in (cheapest(run, space), *np.concatenate(drawn))}
  return list(distinct.values())[:num]


def cheapest(run: Run, space: Space) -> Genes:
  """The network of the fewest FLOPs."""
  table = CostTable(space, tuple(counts.terms(space, run.supernet.net, NumFlops())))
  return np.asarray(space.canonical(jnp.asarray(table.minimum()[1])))


def _middle(run: Run) -> Genes:
  """A network of middling FLOPs, the same for tables of any length."""
  space = run.experiment.space
  drawn = np.asarray(space.sample(run.key(0, "reference"), 65))
  flops = CostTable(space, tuple(counts.terms(space, run.supernet.net, NumFlops()))).exact(drawn)
  return drawn[np.argsort(flops, kind="stable")[32]]


def measure(run: Run, genes: Genes, reference: Callable[[], Any] | None = None) -> dict[str, float]:
  """Milliseconds of one sliced, compiled network.

  Args:
    run: says how.
    genes: which.
    reference: a compiled program that is timed beside it, for "reference_ms".
  """
  setting, program = run.experiment.latency, _program(run, genes)
  return setting.time(program) if reference is None else setting.time_beside(program, reference)


def _reading(run: Run, genes: Genes, median_ms: float) -> dict[str, float]:
  """Of a network that writes word by word: "prefill_ms", which is reading the source, and "per_token_ms"."""
  program = _program(run, genes, "prefill")
  if program is None:
    return {}
  before = run.experiment.latency.time(program)["median_ms"]
  length = run.supernet.net.config.count_length
  return {"prefill_ms": before, "per_token_ms": max(median_ms - before, 0.0) / length}


@dataclasses.dataclass(frozen=True, eq=False)
class AtUsualSpeed:
  """Milliseconds of networks as they would be on the machine as it usually was when the table was measured."""

  run: Run

  def __call__(self, genes: Genes) -> float:
    found = measure(self.run, genes, self._reference)
    return found["median_ms"] * self._usual / found["reference_ms"]

  @functools.cached_property
  def _reference(self) -> Callable[[], Any]:
    return _program(self.run, _middle(self.run))

  @functools.cached_property
  def _usual(self) -> float:
    return float(np.median([row["reference_ms"] for row in _steady(self.run, _used(self.run))]))


def _program(run: Run, genes: Genes, part: str = "timed") -> Callable[[], Any] | None:
  """A network, compiled, or the part of it that reads the source, if it has one."""
  network = run.supernet.module(run.experiment.space.decode(np.asarray(genes)))
  task = run.experiment.task
  apply, example = getattr(task, part)(network), task.example(run.supernet.net, run.experiment.latency.batch_size)
  if apply is None:
    return None
  shapes = jax.eval_shape(network.init, jax.random.key(0), example)
  return compiled(apply, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes), example)


def predicted(run: Run, space: Space | None = None) -> tuple[CostTable, Mapping[str, float]]:
  """Latency as a cost that adds up, learned from the table; and its errors on networks left out of the fit.

  Args:
    run: whose table.
    space: a narrower one with the same genes.

  Raises:
    UserError: there is no table, or it was measured on another device or for another space, or it is too small.
  """
  rows, setting = _used(run), run.experiment.latency
  steady = _steady(run, rows)
  space = space or run.experiment.space
  genes = np.array([row["genes"] for row in steady], np.int32).reshape(len(steady), space.num_genes)
  try:
    found = prices.fit(space, run.supernet.net, genes, _at_usual_speed(steady))
  except UserError as error:
    left = f" ({len(rows) - len(steady)} of {len(rows)} scattered by more than latency.spread={setting.spread:g})"
    raise UserError(f"{_path(run)}: {error}{left if len(steady) < len(rows) else ''}") from error
  return CostTable(space, found.terms, prices.UNIT_MS), found.errors


def _used(run: Run) -> list[dict]:
  """What is learned from: all of a named table; of the work directory's own one, no more networks than are asked for."""
  setting, rows = run.experiment.latency, _read(run)
  return rows if setting.table is not None else rows[: setting.networks]


def _steady(run: Run, rows: Sequence[Mapping]) -> list[Mapping]:
  spread = run.experiment.latency.spread
  return [row for row in rows if row["p90_ms"] - row["p10_ms"] <= spread * row["median_ms"]]


def _at_usual_speed(rows: Sequence[Mapping]) -> Float[np.ndarray, "E"]:
  """Milliseconds, had the reference taken its median time beside every row."""
  taken, beside = (np.array([row[name] for row in rows], float) for name in ("median_ms", "reference_ms"))
  return taken * np.median(beside) / beside if len(rows) else taken


def _path(run: Run) -> pathlib.Path:
  table = run.experiment.latency.table
  return pathlib.Path(table) if table is not None else run.path / "latency_table.jsonl"


def _header(run: Run) -> dict[str, Any]:
  """What a table must agree in with the run that uses it."""
  tree = config.to_json(run.experiment)
  space = {name: value for name, value in tree["space"].items() if name != "restrict"}
  net, setting = run.supernet.net, run.experiment.latency
  versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
  return {"device": device(), **versions, "space": space, "kinds": tree["kinds"],
          "batch_size": setting.batch_size, "dtype": net.config.dtype,
          "input": jax.tree.map(lambda x: list(x.shape[1:]), run.experiment.task.example(net, 1))}


def _read(run: Run) -> list[dict]:
  path = _path(run)
  if not path.exists():
    raise UserError(f"{path} is not there: run --stages=latency first, or name a table with --config.latency.table")
  header, *rows = JsonlWriter(path).read() or [{}]
  for name, mine in json.loads(files.encode(_header(run))).items():
    if name not in header:
      raise UserError(f"{path}: its first line does not say its {name}: it is no latency table; move it away and run"
                      " --stages=latency")
    if header[name] != mine:
      short = lambda value: text if len(text := json.dumps(value)) < 120 else text[:120] + "..."
      raise UserError(f"{path} was measured for another {name}: {short(header[name])} there, {short(mine)} here; move it away"
                      " and run --stages=latency")
  for number, row in enumerate(rows, 2):
    trouble = _trouble(run.experiment.space, row)
    if trouble:
      raise UserError(f"{path}: entry {number} {trouble}: delete it, or move the table away and run --stages=latency")
  return rows


def _trouble(space: Space, row: Mapping) -> str | None:
  """What is wrong with a row."""
  if not set(_NEEDED) <= row.keys() or None in [row[name] for name in _NEEDED]:
    return "lacks a latency"
  for name in _NEEDED[1:]:
    if not isinstance(row[name], (int, float)) or not 0 < row[name] < float("inf"):
      return f"has {name}={row[name]!r}, where a number above 0 is wanted"
  sizes, genes = [len(gene.values) for gene in space.genes], row["genes"]
  if not isinstance(genes, list) or len(genes) != len(sizes) or not all(
      isinstance(gene, int) and 0 <= gene < size for gene, size in zip(genes, sizes)):
    return "has genes that are not of this space"
  return None
