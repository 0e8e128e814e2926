"""The numbers of a run as rows (a list of dicts, what the CSV files hold) and as the table that a run ends with."""

import csv
import io
from typing import Any, Iterator, Sequence

import numpy as np
import rich.box
import rich.table
import rich.text
from jaxtyping import Float, Int, Num

from nasformer.ops import stats
from nasformer.report.measures import Metric, yardstick
from nasformer.report.numbers import Spread, interval, spread
from nasformer.report.run import Model, Run, Trials
from nasformer.types import TranslationSpec

Rows = list[dict[str, Any]]

NARROW = 0.1  # rank agreement is also given among networks within ±10% of the median size


def results(run: Run) -> Rows:
  """One row per arm and seed, every number as it was measured."""
  yard, rows = yardstick(run), []
  for model in (model for arm in run.arms for model in run.of(arm)):
    row = {"arm": model.arm, "seed": model.seed, **_sizes(model)}
    row |= {metric.name: metric.of(model) for metric in (*yard.metrics, *yard.more)}
    counted = model.flops_by_length
    row |= {f"flops_{length}_tokens": counted[length] if length in counted else None for length in lengths(run)}
    for name in ("p10_ms", "p90_ms"):
      row[f"latency_{name}"] = model.latency_ms[name] if model.latency_ms else None
    if yard.paired:
      row |= dict(zip((f"{yard.test.name}_low", f"{yard.test.name}_high"), yard.test.interval(model) or (None, None)))
      for name in ("difference", "low", "high", "p_value"):
        row[f"against_baseline_{name}"] = model.against_baseline[name] if model.against_baseline else None
    rows.append(row)
  return rows


def _sizes(model: Model) -> dict[str, int]:
  spec = model.spec
  if isinstance(spec, TranslationSpec):
    return {"encoder_depth": len(spec.encoder), "decoder_depth": len(spec.decoder),
            "encoder_embed_dim": spec.encoder_embed_dim, "decoder_embed_dim": spec.decoder_embed_dim}
  return {"depth": spec.depth, "embed_dim": spec.embed_dim}


def spreads(run: Run, arm: str) -> dict[str, Spread | None]:
  """Mean and deviation over seeds of every metric of an arm, by metric name."""
  yard = yardstick(run)
  return {metric.name: spread(metric.of(model) for model in run.of(arm)) for metric in (*yard.metrics, *yard.more)}


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


def lengths(run: Run) -> tuple[int, ...]:
  """The sentence lengths, in tokens, that FLOPs were counted at."""
  return tuple(sorted({length for model in run.models for length in model.flops_by_length}))


def front(quality: Float[np.ndarray, "E"], flops: Num[np.ndarray, "E"], maximise: bool) -> Int[np.ndarray, "F"]:
  """Positions of the candidates that none beats in both quality and FLOPs, cheapest first; one of equals."""
  keep = np.flatnonzero(stats.pareto_mask(np.stack([quality, flops], 1), (maximise, False)))
  return keep[np.unique(flops[keep], return_index=True)[1]]


def fronts(run: Run) -> Rows:
  """The front of every search, cheapest first, with inherited accuracy or loss."""
  yard, rows = yardstick(run), []
  for trials in run.trials:
    for i in front(trials.quality, trials.flops, yard.maximise):
      rows.append({"arm": trials.arm, "seed": trials.seed, "generation": int(trials.generation[i]),
                   yard.inherited.name: float(trials.quality[i]), "params": int(trials.params[i]),
                   "flops": int(trials.flops[i])})
  return rows


def reference(run: Run) -> Float[np.ndarray, "2"]:
  """The corner that hypervolume is measured from: the quality of guessing, 1.1 times the FLOPs of the dearest trial."""
  guess = yardstick(run).guess(run.experiment["dataset"])
  return np.array([guess, 1.1 * max(trials.flops.max() for trials in run.trials)])


def progress(run: Run) -> Rows:
  """After each generation of each search: the best fitness, and the share of the box that its front dominates.

  The box reaches from `reference` to the ideal quality at no cost, so the share lies in [0, 1].
  """
  yard, rows = yardstick(run), []
  for trials in run.trials:
    corner = reference(run)
    box = abs(yard.ideal[0] - corner[0]) * corner[1]
    best = np.fmax.accumulate(trials.fitness)
    for end in _ends(trials):
      points = np.stack([trials.quality, trials.flops], 1)[:end]
      volume = stats.hypervolume_2d(points, corner, (yard.maximise, False))
      rows.append({"arm": trials.arm, "seed": trials.seed, "generation": int(trials.generation[end - 1]),
                   "evaluations": int(end), "best_fitness": float(best[end - 1]), "hypervolume": volume / box})
  return rows


def agreement(run: Run) -> Rows:
  """Kendall's τ of two predictors with what retraining gave, over all networks and over those of like size."""
  yard = yardstick(run)
  sign = 1 if yard.maximise else -1
  models = [model for model in run.models if model.val_retrained is not None]
  if len(models) < 2:
    return []
  params = np.array([model.params for model in models])
  narrow = np.abs(params / np.median(params) - 1) <= NARROW
  measured = sign * np.array([model.val_retrained for model in models])
  rows = []
  inherited = sign * np.array([model.val_inherited for model in models])
  for name, values in ((f"inherited {yard.searched}", inherited), ("number of parameters", params)):
    row = {"predictor": name}
    for where, keep in (("all", np.ones(len(models), bool)), ("narrow", narrow)):
      tau = stats.kendall_tau(values[keep], measured[keep]) if keep.sum() > 1 else float("nan")
      row |= {f"tau_{where}": None if np.isnan(tau) else tau, f"num_{where}": int(keep.sum())}
    rows.append(row)
  return rows


def cells(run: Run, metrics: Sequence[Metric]) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
  """The comparison as text: arm, and per metric (text, whether its mean is the best of the column)."""
  values = {arm: spreads(run, arm) for arm in run.arms if run.of(arm)}
  best = {}
  for metric in metrics:
    means = {row[metric.name].mean for row in values.values() if row[metric.name]}
    best[metric.name] = metric.best(means) if len(means) > 1 else None
  for arm, row in values.items():
    yield arm, [(_cell(row[metric.name], metric, run.of(arm)),
                 bool(row[metric.name]) and row[metric.name].mean == best[metric.name]) for metric in metrics]


def as_text(metric: Metric, model: Model) -> str:
  """A metric of one network as text, with its interval where there is one."""
  found, ends = metric.of(model), metric.interval(model)
  if found is None:
    return "–"
  return metric.unit.table(found) + (f" {interval(*ends, metric.unit.table)}" if ends else "")


def basis(run: Run) -> str:
  """What the numbers of the comparison stand on, for its heading."""
  num = max((len(run.of(arm)) for arm in run.arms), default=0)
  if num > 1:
    return f"mean ± standard deviation over {num} seeds"
  intervals = any(yardstick(run).test.interval(model) for model in run.models)
  return "one seed, so no spread" + "; in brackets 95% intervals over test sentences" * intervals


def pareto_table(run: Run) -> rich.table.Table:
  """The comparison for the terminal: one row per arm, mean ± standard deviation over seeds, the best in bold."""
  title = rich.text.Text(f"{run.experiment['dataset']['name']}: {basis(run)}")
  metrics = yardstick(run).metrics
  rows = dict(cells(run, metrics))
  notes = [run.experiment["counting"], *(f"{metric.noun}: {run.signatures[metric.name]}" for metric in metrics
                                         if metric.name in run.signatures)]
  table = rich.table.Table(title=title, caption=rich.text.Text("\n".join(notes)), box=rich.box.SIMPLE_HEAD,
                           padding=(0, 1, 0, 0))
  table.add_column("arm")
  for i, metric in enumerate(metrics):
    table.add_column(metric.label.replace(", ", "\n"), justify="right", min_width=max(map(len, metric.label.split())),
                     no_wrap=any("[" in row[i][0] for row in rows.values()))
  for arm, row in rows.items():
    table.add_row(arm, *(rich.text.Text(text.replace(" [", "\n["), "bold" if best else "") for text, best in row))
  return table


def to_csv(rows: Rows) -> str:
  """Rows as CSV text with every digit; what is not known is left empty."""
  out = io.StringIO()
  writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return out.getvalue()


def _cell(found: Spread | None, metric: Metric, models: tuple[Model, ...]) -> str:
  measured = [model for model in models if metric.of(model) is not None]
  if len(measured) == 1:
    text = as_text(metric, measured[0])
  else:
    text = found.show(metric.unit.table) if found else "–"
  return text + (f" (n={len(measured)})" if 0 < len(measured) < len(models) else "")


def _ends(trials: Trials) -> Int[np.ndarray, "_"]:
  """Number of evaluations at the end of each generation."""
  return np.flatnonzero(np.diff(trials.generation, append=trials.generation[-1] + 1)) + 1
