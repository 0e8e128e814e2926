"""Reads a work directory: what is there becomes one frozen `Run`, what is not there yet is left empty."""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any, Iterator, Mapping

import numpy as np
from jaxtyping import Float, Int

from nasformer.types import EncoderSpec, UserError

BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class Model:
  """One network of the comparison: the winner of an arm under one seed, or the hand-made baseline.

  Accuracies are fractions, and None until the stage that measures them has run.

  Attributes:
    search: "asked", "evaluated" and "duplicates" candidates of the search that it won; None for the baseline.
    rejected: how many proposals each limit turned away, by cost.
    search_ms: median latency as the search measured it, where it had a latency limit.
    latency_ms: "median_ms", "p10_ms", "p90_ms" and "runs", as measured in the end.
  """

  arm: str
  seed: int
  spec: EncoderSpec
  params: int
  flops: int
  val_inherited: float
  val_retrained: float | None
  test_retrained: float | None
  search: Mapping[str, int] | None
  rejected: Mapping[str, int]
  search_ms: float | None
  latency_ms: Mapping[str, float] | None


@dataclasses.dataclass(frozen=True)
class Trials:
  """The candidates that one search evaluated, in order. A failed evaluation is NaN.

  Attributes:
    fitness: what the search maximises.
    accuracy: on the validation split, with the weights inherited from the supernet.
  """

  arm: str
  seed: int
  generation: Int[np.ndarray, "E"]
  fitness: Float[np.ndarray, "E"]
  accuracy: Float[np.ndarray, "E"]
  params: Float[np.ndarray, "E"]
  flops: Float[np.ndarray, "E"]


@dataclasses.dataclass(frozen=True)
class Curve:
  """Training loss by step of one training; `arm` is None for a supernet."""

  arm: str | None
  seed: int
  step: Float[np.ndarray, "E"]
  loss: Float[np.ndarray, "E"]


@dataclasses.dataclass(frozen=True)
class Run:
  """A work directory as the report sees it.

  Attributes:
    experiment: what was asked for and where it ran, as written in experiment.json.
    limits: hard upper limits of the search, by cost.
    latency: device and batch of the latency measurement; None before it.
    timings: a "stage" each, and what was noted of it, such as "seconds" and "compilations".
  """

  experiment: Mapping[str, Any]
  limits: Mapping[str, float]
  models: tuple[Model, ...]
  trials: tuple[Trials, ...]
  curves: tuple[Curve, ...]
  latency: Mapping[str, Any] | None
  timings: tuple[Mapping[str, Any], ...]

  @property
  def arms(self) -> tuple[str, ...]:
    """Every arm in the order of the configuration, the baseline last."""
    arms = dict.fromkeys(each.arm for each in (*self.models, *self.trials))
    return tuple(sorted(arms, key=lambda arm: arm == BASELINE))

  @property
  def seeds(self) -> tuple[int, ...]:
    return tuple(sorted({each.seed for each in (*self.models, *self.trials, *self.curves)}))

  def of(self, arm: str) -> tuple[Model, ...]:
    """The models of one arm, by seed."""
    return tuple(sorted((model for model in self.models if model.arm == arm), key=lambda model: model.seed))


def load(workdir: str | pathlib.Path) -> Run:
  """Reads everything that the stages have written so far.

  Args:
    workdir: the directory given as `--workdir`; only experiment.json must exist in it.

  Raises:
    UserError: it is no work directory, or one of its files is damaged or belongs to another search.
  """
  workdir = pathlib.Path(workdir)
  experiment = _read_json(workdir / "experiment.json")
  if experiment is None:
    raise UserError(f"{workdir} holds no experiment.json: give the --workdir of a run that has started")
  with _blame(workdir / "experiment.json"):
    for name in ("config", "command", "versions", "device", "commit", "counting", "dataset"):
      experiment[name]
  winner = _read_json(workdir / "winner.json")
  with _blame(workdir / "winner.json"):
    limits = winner["limits"] if winner is not None else {}
  latency = _read_json(workdir / "latency.json")
  with _blame(workdir / "latency.json"):
    latency = {"device": latency["device"], "batch": latency["batch"]} if latency is not None else None
  return Run(
      experiment=experiment,
      limits=limits,
      models=_models(workdir),
      trials=_trials(workdir / "trials.jsonl"),
      curves=tuple(_curves(workdir)),
      latency=latency,
      timings=tuple(_read_log(workdir / "timings.jsonl", ("stage",))),
  )


def _models(workdir: pathlib.Path) -> tuple[Model, ...]:
  winners = _read_rows(workdir / "winner.json", "winners")
  results = _read_rows(workdir / "results.json", "rows")
  latency = _read_rows(workdir / "latency.json", "rows")
  searched = {tuple(row["genes"]): row["median_ms"]
              for row in _read_log(workdir / "latency_search.jsonl", ("genes", "median_ms"))}
  with _blame(workdir / "results.json"):
    for (arm, seed), row in results.items():
      if (arm, seed) not in winners or winners[arm, seed]["spec"] != row["spec"]:
        raise UserError(f"{workdir / 'results.json'}: {arm}, seed {seed}, is not the network of winner.json;"
                        " run the stages retrain and evaluate again")
  models = []
  for name, row in winners.items():
    with _blame(workdir / "winner.json"):
      model = _model(row, searched)
    with _blame(workdir / "results.json"):
      model = _with_result(model, results[name]) if name in results else model
    with _blame(workdir / "latency.json"):
      model = _with_latency(model, latency[name]) if name in latency else model
    models.append(model)
  return tuple(models)


def _model(row: Mapping, searched: Mapping[tuple, float]) -> Model:
  by_search, genes = "evaluated" in row, tuple(row["genes"])
  return Model(
      arm=row["arm"],
      seed=row["seed"],
      spec=EncoderSpec.from_json(row["spec"]),
      params=row["params"],
      flops=row["flops"],
      val_inherited=row["inherited"]["accuracy"],
      val_retrained=None,
      test_retrained=None,
      search={name: row[name] for name in ("asked", "evaluated", "duplicates")} if by_search else None,
      rejected=row["rejected"] if by_search else {},
      search_ms=searched[genes] if genes in searched else None,
      latency_ms=None,
  )


def _with_result(model: Model, row: Mapping) -> Model:
  return dataclasses.replace(
      model,
      val_inherited=row["inherited"]["val"]["accuracy"],
      val_retrained=row["retrained"]["val"]["accuracy"],
      test_retrained=row["retrained"]["test"]["accuracy"],
  )


def _with_latency(model: Model, row: Mapping) -> Model:
  return dataclasses.replace(model, latency_ms={name: row[name] for name in ("median_ms", "p10_ms", "p90_ms", "runs")})


def _trials(path: pathlib.Path) -> tuple[Trials, ...]:
  columns = ("generation", "fitness", "accuracy", "params", "flops")
  groups: dict[tuple[str, int], list] = {}
  lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
  for number, line in enumerate(lines, 1):
    with _blame(path, number, "run the stage search again with --repair"):
      row = json.loads(line)
      groups.setdefault((row["arm"], row["seed"]), []).append([_number(row[column]) for column in columns])
  trials = []
  for (arm, seed), rows in groups.items():
    generation, *others = np.array(rows, np.float64).T
    trials.append(Trials(arm, seed, generation.astype(np.int64), *others))
  return tuple(trials)


def _curves(workdir: pathlib.Path) -> Iterator[Curve]:
  """The trainings of the supernets, then those of the winners."""
  patterns = ("supernet/seed*/metrics.jsonl", "retrain/*/seed*/metrics.jsonl")
  for path in (path for pattern in patterns for path in sorted(workdir.glob(pattern))):
    folder = path.parent
    rows = [(_number(row["step"]), _number(row["loss"])) for row in _read_log(path, ("step", "loss"))]
    if rows:
      arm = None if folder.parent.parent == workdir else folder.parent.name
      yield Curve(arm, int(folder.name.removeprefix("seed")), *np.array(rows, np.float64).T)


def _number(value) -> float:
  return float("nan") if value is None else float(value)


def _read_json(path: pathlib.Path) -> Any:
  if not path.exists():
    return None
  with _blame(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _read_rows(path: pathlib.Path, name: str) -> dict[tuple[str, int], Mapping]:
  """The rows of a results file by arm and seed; nothing where there is no file."""
  tree = _read_json(path)
  with _blame(path):
    return {(row["arm"], row["seed"]): row for row in (tree[name] if tree is not None else ())}


def _read_log(path: pathlib.Path, names: tuple[str, ...]) -> Iterator[Mapping]:
  """The lines of a log that have these entries: no result rests on it, so a line that a crash cut short is skipped."""
  for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if isinstance(row, dict) and all(name in row for name in names):
      yield row


@contextlib.contextmanager
def _blame(
    path: pathlib.Path, line: int | None = None, remedy: str = "move it away and run the stage that writes it again"
) -> Iterator[None]:
  """Turns what goes wrong inside into one sentence that names the file, the line and the remedy."""
  try:
    yield
  except UserError:
    raise
  except (KeyError, TypeError, ValueError) as error:
    line = error.lineno if line is None and isinstance(error, json.JSONDecodeError) else line
    place = str(path) if line is None else f"{path}, line {line}"
    reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
    raise UserError(f"{place}: damaged ({reason}): {remedy}") from error
