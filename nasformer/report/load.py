"""Reads a work directory: what is there becomes one frozen `Run`, what is not there yet is left empty."""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any, Iterator, Mapping

import numpy as np

from nasformer.report.measures import YARDSTICKS, Yardstick
from nasformer.report.run import Curve, Model, Run, Texts, Trials
from nasformer.types import EncoderSpec, TranslationSpec, UserError


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
    experiment = {"headline": "accuracy", **experiment}  # older ones do not name it
    for name in ("config", "command", "versions", "device", "commit", "counting", "dataset"):
      experiment[name]
  yardstick = _yardstick(workdir, experiment)
  winner = _read_json(workdir / "winner.json")
  with _blame(workdir / "winner.json"):
    limits = winner["limits"] if winner is not None else {}
  latency = _read_json(workdir / "latency.json")
  with _blame(workdir / "latency.json"):
    latency = {"device": latency["device"], "batch": latency["batch"]} if latency is not None else None
  models = _models(workdir, yardstick)
  return Run(
      experiment=experiment,
      limits=limits,
      models=models,
      signatures=_signatures(workdir / "results.json"),
      texts=_texts(workdir / "outputs", models),
      trials=_trials(workdir / "trials.jsonl", yardstick),
      curves=tuple(_curves(workdir)),
      latency=latency,
      timings=tuple(_read_log(workdir / "timings.jsonl", ("stage",))),
      trust=_trust(workdir / "trust.json"),
  )


def _yardstick(workdir: pathlib.Path, experiment: Mapping) -> Yardstick:
  if experiment["headline"] not in YARDSTICKS:
    raise UserError(f"{workdir / 'experiment.json'}: the report knows no headline {experiment['headline']!r}"
                    f" (there are: {', '.join(YARDSTICKS)})")
  return YARDSTICKS[experiment["headline"]]


def _models(workdir: pathlib.Path, yardstick: Yardstick) -> tuple[Model, ...]:
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
      model = _model(row, searched, yardstick)
    with _blame(workdir / "results.json"):
      model = _with_result(model, results[name], yardstick) if name in results else model
    with _blame(workdir / "latency.json"):
      model = _with_latency(model, latency[name]) if name in latency else model
    models.append(model)
  return tuple(models)


def _model(row: Mapping, searched: Mapping[tuple, float], yardstick: Yardstick) -> Model:
  by_search, genes = "evaluated" in row, tuple(row["genes"])
  return Model(
      arm=row["arm"],
      seed=row["seed"],
      spec=(TranslationSpec if "encoder" in row["spec"] else EncoderSpec).from_json(row["spec"]),
      params=row["params"],
      flops=row["flops"],
      val_inherited=row["inherited"][yardstick.searched],
      val_retrained=None,
      test={},
      against_baseline=None,
      flops_by_length={},
      search={name: row[name] for name in ("asked", "evaluated", "duplicates")} if by_search else None,
      rejected=row["rejected"] if by_search else {},
      search_ms=searched[genes] if genes in searched else None,
      predicted_ms=row["predicted_ms"] if "predicted_ms" in row else None,
      latency_ms=None,
  )


def _with_result(model: Model, row: Mapping, yardstick: Yardstick) -> Model:
  model = dataclasses.replace(
      model,
      val_inherited=row["inherited"]["val"][yardstick.searched],
      val_retrained=row["retrained"]["val"][yardstick.searched],
      test=row["retrained"]["test"],
      against_baseline=row["against_baseline"] if "against_baseline" in row else None,
      flops_by_length={int(length): flops for length, flops in row["flops_by_length"].items()}
      if "flops_by_length" in row else {},
  )
  for metric in (*yardstick.metrics, *yardstick.more):  # a number that is missing shows here, where the file is known
    metric.of(model)
    metric.interval(model)
  return model


def _with_latency(model: Model, row: Mapping) -> Model:
  return dataclasses.replace(model, latency_ms={name: row[name] for name in ("median_ms", "p10_ms", "p90_ms", "runs")})


def _trials(path: pathlib.Path, yardstick: Yardstick) -> tuple[Trials, ...]:
  columns = ("generation", "fitness", yardstick.searched, "params", "flops")
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


def _signatures(path: pathlib.Path) -> Mapping[str, str]:
  results = _read_json(path)
  with _blame(path):
    return dict(results["signatures"]) if results is not None and "signatures" in results else {}


def _trust(path: pathlib.Path) -> Mapping[str, Any] | None:
  tree = _read_json(path)
  if tree is None:
    return None
  with _blame(path):
    for row in tree["rows"]:
      row["seed"], row["group"], row["params"], row["flops"], row["inherited"]["loss"], row["retrained"]["loss"]
    for row in tree["tau"]:
      row["predictor"], row["group"], row["num"], row["tau"], row["low"], row["high"]
    return {name: tree[name] for name in ("steps", "rows", "tau")}


def _texts(folder: pathlib.Path, models: tuple[Model, ...]) -> Texts | None:
  """The first seed's translations of the networks that have results; None where no text was kept."""
  tested = [model for model in models if model.test]
  if not tested or not (folder / "source.txt").exists() or not (folder / "reference.txt").exists():
    return None
  sources = _read_lines(folder / "source.txt")
  seed = min(model.seed for model in tested)
  paths = {model.arm: folder / model.arm / f"seed{seed}.txt" for model in tested if model.seed == seed}
  outputs = {arm: _read_lines(path, len(sources)) for arm, path in paths.items() if path.exists()}
  return Texts(seed, sources, _read_lines(folder / "reference.txt", len(sources)), outputs)


def _read_lines(path: pathlib.Path, num: int | None = None) -> tuple[str, ...]:
  """The lines of a text, split at line feeds alone; with `num`, it must have that many."""
  remedy = "move outputs/ and results.json away and run the stage evaluate again"
  with _blame(path, remedy=remedy):
    lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    if num is not None and len(lines) != num:
      raise ValueError(f"{len(lines):,} lines for {num:,} source sentences")
  return tuple(lines)


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
