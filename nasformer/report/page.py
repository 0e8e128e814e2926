"""The report of a run: one HTML page that needs no network, its pictures as PNG and its numbers as CSV."""

import os
import pathlib

from matplotlib.figure import Figure

from nasformer.report import figures, layers, markup, sections, tables, trust
from nasformer.report.load import load
from nasformer.report.measures import FLOPS, LATENCY, yardstick
from nasformer.report.numbers import si
from nasformer.report.run import Run

SHEETS = {
    "results": tables.results,
    "summary": tables.summary,
    "fronts": tables.fronts,
    "progress": tables.progress,
    "effort": tables.effort,
    "agreement": tables.agreement,
}


def write(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes report/ in a work directory from what the stages have left there; the same files give the same bytes.

  Args:
    workdir: the directory given as `--workdir`; what has not run yet leaves a gap that the page names.

  Returns:
    The path of index.html.

  Raises:
    UserError: a file of the work directory is missing or damaged (see `load.load`).
  """
  run = load(workdir)
  folder = pathlib.Path(workdir) / "report"
  folder.mkdir(exist_ok=True)
  drawings = {}
  for name, (figure, caption) in pictures(run).items():
    drawings[name] = markup.drawing(name, figures.to_svg(figure), caption)
    _replace(folder / f"{name}.png", figures.to_png(figure))
  for name, rows in SHEETS.items():
    _replace(folder / f"{name}.csv", tables.to_csv(rows(run)).encode())
  title = f"nasformer report: {run.experiment['dataset']['name']}"
  parts = [part for section in sections.SECTIONS for part in section(run, drawings)]
  _replace(folder / "index.html", markup.page(title, parts).encode())
  return folder / "index.html"


def pictures(run: Run) -> dict[str, tuple[Figure, str]]:
  """Every picture that the run has data for, with its caption, by name."""
  return _of_search(run) | _of_winners(run) | _of_results(run) | _of_training(run)


def _of_search(run: Run) -> dict[str, tuple[Figure, str]]:
  if not run.trials:
    return {}
  corner, yard = tables.reference(run), yardstick(run)
  cut = "below" if yard.maximise else "above"
  together = ", all seeds together" if len(run.seeds) > 1 else ""
  return {
      "fronts": (figures.fronts(run), (
          "With weights inherited from the supernet. A dot is a candidate; a line joins those that none beats in both"
          f" {yard.searched} and FLOPs{together}. Large marks are the winners and the hand-made baseline. Dots far"
          f" {cut} the lines are cut off.")),
      "best": (figures.progress(run, "best_fitness", "Best so far", "best fitness"), (
          "Fitness is what the search maximises. One line per seed, one step per generation.")),
      "hypervolume": (figures.progress(run, "hypervolume", "Hypervolume of the front", "share of the box"), (
          f"How much of the box between {yard.ideal[1]} at no cost and the corner at"
          f" {yard.inherited.unit.full(corner[0])} (guessing) and {si(corner[1])} FLOPs the front dominates.")),
  }


def _of_winners(run: Run) -> dict[str, tuple[Figure, str]]:
  return {f"layers_{arm}": (layers.layers(run, arm), "") for arm in run.arms if run.of(arm)}


def _of_results(run: Run) -> dict[str, tuple[Figure, str]]:
  drawn, tested = {}, [model for model in run.models if model.test]
  if len(run.seeds) > 1:
    marks = "Large marks are means over seeds with standard deviations, small marks single seeds."
  elif any(yardstick(run).test.interval(model) for model in tested):
    marks = "One seed: bars are 95% intervals over test sentences, the spread over seeds is not known."
  else:
    marks = "One seed: the spread is not known."
  if tested:
    drawn["retrained"] = (figures.retrained(run, FLOPS, "FLOPs"), f"On the test split. {marks}")
    drawn["agreement"] = (figures.agreement(run), "A mark is one network; the dashed line is equality.")
  if run.trust:
    drawn["trust"] = (trust.picture(run), "A mark is one network.")
  if any(model.latency_ms for model in tested):
    figure = figures.retrained(run, LATENCY, "measured latency (ms)")
    drawn["latency"] = (figure, f"On the test split. {marks}")
  return drawn


def _of_training(run: Run) -> dict[str, tuple[Figure, str]]:
  supernets = [curve for curve in run.curves if curve.arm is None]
  winners = [curve for arm in run.arms for curve in run.curves if curve.arm == arm]
  drawn = {}
  if supernets:
    drawn["supernet_loss"] = (figures.losses(run, supernets, "Supernet"), "One line per seed.")
  if winners:
    drawn["retrain_loss"] = (figures.losses(run, winners, "Winners, retrained"), "One line per network.")
  return drawn


def _replace(path: pathlib.Path, content: bytes) -> None:
  """Writes the whole file or, if interrupted, nothing."""
  part = path.with_name(path.name + ".part")
  part.write_bytes(content)
  os.replace(part, path)
