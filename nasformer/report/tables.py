"""The numbers of a run as rows (a list of dicts, what the CSV files hold) and as the table that a run ends with."""

import csv
import dataclasses
import io
from typing import Any, Callable, Iterator

import numpy as np
import rich.box
import rich.table
import rich.text
from jaxtyping import Float, Int, Num

from nasformer.ops import stats
from nasformer.report.load import Model, Run, Trials
from nasformer.report.numbers import Spread, milliseconds, percent2, si, spread

Rows = list[dict[str, Any]]

NARROW = 0.1  # rank agreement is also given among networks within ±10% of the median size


@dataclasses.dataclass(frozen=True)
class Metric:
  """A column of the comparison.

  Attributes:
    label: column heading.
    show: writes a value, or a mean and a deviation.
    best: `max` or `min`, whichever wins.
    of: takes the value out of a model; None while it is not measured.
  """

  name: str
  label: str
  show: Callable[..., str]
  best: Callable
  of: Callable[[Model], float | None]


METRICS = (
    Metric("test_retrained", "Test accuracy, retrained", percent2, max, lambda model: model.test_retrained),
    Metric("val_retrained", "Validation accuracy, retrained", percent2, max, lambda model: model.val_retrained),
    Metric("val_inherited", "Validation accuracy, inherited", percent2, max, lambda model: model.val_inherited),
    Metric("params", "Parameters", si, min, lambda model: model.params),
    Metric("flops", "FLOPs", si, min, lambda model: model.flops),
    Metric("latency_ms", "Latency, median", milliseconds, min,
           lambda model: model.latency_ms["median_ms"] if model.latency_ms else None),
)
METRIC = {metric.name: metric for metric in METRICS}


def results(run: Run) -> Rows:
  """One row per arm and seed, every number as it was measured."""
  rows = []
  for model in (model for arm in run.arms for model in run.of(arm)):
    row = {"arm": model.arm, "seed": model.seed, "depth": model.spec.depth, "embed_dim": model.spec.embed_dim}
    row |= {metric.name: metric.of(model) for metric in METRICS}
    for name in ("p10_ms", "p90_ms"):
      row[f"latency_{name}"] = model.latency_ms[name] if model.latency_ms else None
    rows.append(row)
  return rows


def spreads(run: Run, arm: str) -> dict[str, Spread | None]:
  """Mean and deviation over seeds of every metric of an arm, by metric name."""
  return {metric.name: spread(metric.of(model) for model in run.of(arm)) for metric in METRICS}


def summary(run: Run) -> Rows:
  """One row per arm: mean and sample standard deviation over seeds."""
  rows = []
  for arm in (arm for arm in run.arms if run.of(arm)):
    row = {"arm": arm, "seeds": len(run.of(arm))}
    for name, value in spreads(run, arm).items():
      row |= {f"{name}_mean": value and value.mean, f"{name}_std": value and value.std}
    rows.append(row)
  return rows


def effort(run: Run) -> Rows:
  """One row per search: proposals asked for, those evaluated or met before, and those that a limit turned away."""
  names = dict.fromkeys(cost for model in run.models for cost in model.rejected)
  return [{"arm": model.arm, "seed": model.seed, **model.search}
          | {f"rejected_{name}": model.rejected[name] if name in model.rejected else None for name in names}
          for arm in run.arms for model in run.of(arm) if model.search]


def front(accuracy: Float[np.ndarray, "E"], flops: Num[np.ndarray, "E"]) -> Int[np.ndarray, "F"]:
  """Positions of the candidates that none beats in both accuracy and FLOPs, cheapest first; one of equals."""
  keep = np.flatnonzero(stats.pareto_mask(np.stack([accuracy, flops], 1), (True, False)))
  return keep[np.unique(flops[keep], return_index=True)[1]]


def fronts(run: Run) -> Rows:
  """The front of every search, cheapest first, with inherited accuracy."""
  rows = []
  for trials in run.trials:
    for i in front(trials.accuracy, trials.flops):
      rows.append({"arm": trials.arm, "seed": trials.seed, "generation": int(trials.generation[i]),
                   "val_inherited": float(trials.accuracy[i]), "params": int(trials.params[i]),
                   "flops": int(trials.flops[i])})
  return rows


def reference(run: Run) -> Float[np.ndarray, "2"]:
  """The corner that hypervolume is measured from: accuracy of guessing, 1.1 times the FLOPs of the costliest trial."""
  classes = run.experiment["dataset"]["class_names"]
  guess = 1 / len(classes) if len(classes) > 1 else 0.0
  return np.array([guess, 1.1 * max(trials.flops.max() for trials in run.trials)])


def progress(run: Run) -> Rows:
  """After each generation of each search: the best fitness, and the share of the box that its front dominates.

  The box reaches from `reference` to an accuracy of 1 at no cost, so the share lies in [0, 1].
  """
  rows = []
  for trials in run.trials:
    corner = reference(run)
    box = (1 - corner[0]) * corner[1]
    best = np.fmax.accumulate(trials.fitness)
    for end in _ends(trials):
      points = np.stack([trials.accuracy, trials.flops], 1)[:end]
      volume = stats.hypervolume_2d(points, corner, (True, False))
      rows.append({"arm": trials.arm, "seed": trials.seed, "generation": int(trials.generation[end - 1]),
                   "evaluations": int(end), "best_fitness": float(best[end - 1]), "hypervolume": volume / box})
  return rows


def agreement(run: Run) -> Rows:
  """Kendall's τ of two predictors with retrained validation accuracy, over all networks and over those of like size."""
  models = [model for model in run.models if model.val_retrained is not None]
  if len(models) < 2:
    return []
  params = np.array([model.params for model in models])
  narrow = np.abs(params / np.median(params) - 1) <= NARROW
  measured = np.array([model.val_retrained for model in models])
  rows = []
  inherited = [model.val_inherited for model in models]
  for name, values in (("inherited accuracy", inherited), ("number of parameters", params)):
    row = {"predictor": name}
    for where, keep in (("all", np.ones(len(models), bool)), ("narrow", narrow)):
      tau = stats.kendall_tau(np.asarray(values)[keep], measured[keep]) if keep.sum() > 1 else float("nan")
      row |= {f"tau_{where}": None if np.isnan(tau) else tau, f"num_{where}": int(keep.sum())}
    rows.append(row)
  return rows


def cells(run: Run) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
  """The comparison as text: arm, and per metric (text, whether its mean is the best of the column)."""
  values = {arm: spreads(run, arm) for arm in run.arms if run.of(arm)}
  best = {}
  for metric in METRICS:
    means = {row[metric.name].mean for row in values.values() if row[metric.name]}
    best[metric.name] = metric.best(means) if len(means) > 1 else None
  for arm, row in values.items():
    yield arm, [(_cell(row[metric.name], metric, len(run.of(arm))),
                 bool(row[metric.name]) and row[metric.name].mean == best[metric.name]) for metric in METRICS]


def basis(run: Run) -> str:
  """What the numbers of the comparison stand on, for its heading."""
  num = max((len(run.of(arm)) for arm in run.arms), default=0)
  return f"mean ± standard deviation over {num} seeds" if num > 1 else "one seed, so no spread"


def pareto_table(run: Run) -> rich.table.Table:
  """The comparison for the terminal: one row per arm, mean ± standard deviation over seeds, the best in bold."""
  title = rich.text.Text(f"{run.experiment['dataset']['name']}: {basis(run)}")
  table = rich.table.Table(title=title, caption=rich.text.Text(run.experiment["counting"]), box=rich.box.SIMPLE_HEAD,
                           padding=(0, 1, 0, 0))
  table.add_column("arm")
  for metric in METRICS:
    table.add_column(metric.label.replace(", ", "\n"), justify="right", min_width=max(map(len, metric.label.split())))
  for arm, row in cells(run):
    table.add_row(arm, *(rich.text.Text(text, "bold" if best else "") for text, best in row))
  return table


def to_csv(rows: Rows) -> str:
  """Rows as CSV text with every digit; what is not known is left empty."""
  out = io.StringIO()
  writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return out.getvalue()


def _cell(value: Spread | None, metric: Metric, seeds: int) -> str:
  if value is None:
    return "–"
  return value.show(metric.show) + (f" (n={value.num})" if value.num != seeds else "")


def _ends(trials: Trials) -> Int[np.ndarray, "_"]:
  """Number of evaluations at the end of each generation."""
  return np.flatnonzero(np.diff(trials.generation, append=trials.generation[-1] + 1)) + 1
