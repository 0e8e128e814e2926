"""The pictures of a report, each a function from a run to a matplotlib Figure."""

import io
from typing import Iterable

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nasformer.report import palette, tables
from nasformer.report.measures import Metric, yardstick
from nasformer.report.numbers import si, spread
from nasformer.report.run import BASELINE, Curve, Run

DENSE = 2000  # points from which a scatter is drawn as pixels, to keep the page small
WIDTH = 4.5  # inches: readable at the width of a phone, and two fit beside each other on a screen

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": palette.RULE,
    "axes.grid": True,
    "axes.labelcolor": palette.SOFT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.color": palette.FAINT,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "lines.linewidth": 1.6,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "svg.hashsalt": "nasformer",
    "text.color": palette.INK,
    "xtick.color": palette.SOFT,
    "ytick.color": palette.SOFT,
}
styled = matplotlib.rc_context(STYLE)  # as a decorator


@styled
def fronts(run: Run) -> Figure:
  """Every candidate that was evaluated, the front of each arm (all seeds together), the winners and the baseline."""
  figure, axes = canvas("Found by the search")
  dense = sum(len(trials.flops) for trials in run.trials) > DENSE
  rows, yard = tables.fronts(run), yardstick(run)
  for trials in run.trials:
    axes.scatter(trials.flops, trials.quality, 3 if dense else 7, palette.colour(trials.arm, run.arms), alpha=0.22,
                 linewidths=0, rasterized=dense)
  for arm in run.arms:
    _marks(run, axes, arm, [(model.flops, model.val_inherited) for model in run.of(arm)])
    pool = [row for row in rows if row["arm"] == arm]
    flops, quality = (np.array([row[name] for row in pool], np.float64) for name in ("flops", yard.inherited.name))
    best = tables.front(quality, flops, yard.maximise)
    axes.step(flops[best], quality[best], where="post", color=palette.colour(arm, run.arms),
              label=_once(axes, arm) if len(best) else None)
  shown = [row[yard.inherited.name] for row in rows] + [model.val_inherited for model in run.models]
  if shown:
    _cut(axes, shown, yard.maximise)
  _limit_line(run, axes, "flops")
  _number_axis(axes, "FLOPs")
  _metric_axis(axes.yaxis, yard.inherited)
  return legend(figure, axes)


@styled
def retrained(run: Run, cost: Metric, label: str) -> Figure:
  """The headline after retraining against a cost: a small mark per seed, the mean with its standard deviation.

  A single seed has the interval of its value, where there is one, in place of a deviation.

  Args:
    run: with results.
    cost: one of `measures.COSTS`.
    label: of its axis.
  """
  figure, axes = canvas("After retraining")
  headline = yardstick(run).test
  for arm in run.arms:
    models = [model for model in run.of(arm) if None not in (cost.of(model), headline.of(model))]
    if models:
      pairs = [(cost.of(model), headline.of(model)) for model in models]
      colour = palette.colour(arm, run.arms)
      x, y = (spread(values) for values in zip(*pairs))
      error = y.std
      if len(pairs) > 1:
        axes.scatter(*zip(*pairs), 14, colour, marker=palette.marker(arm, run.arms), alpha=0.45, linewidths=0)
      elif headline.interval(models[0]):
        low, high = headline.interval(models[0])
        error = [[y.mean - low], [high - y.mean]]
      axes.errorbar(x.mean, y.mean, error, x.std, color=colour, capsize=2, lw=1)
      _marks(run, axes, arm, [(x.mean, y.mean)])
  _limit_line(run, axes, cost.name)
  _number_axis(axes, label)
  _metric_axis(axes.yaxis, headline)
  axes.margins(0.12)
  return legend(figure, axes)


@styled
def progress(run: Run, column: str, title: str, label: str) -> Figure:
  """A column of `tables.progress` over the evaluations, one line per seed.

  Args:
    run: with trials.
    column: "best_fitness" or "hypervolume".
    title: of the picture.
    label: of the vertical axis.
  """
  figure, axes = canvas(title)
  rows = tables.progress(run)
  for trials in run.trials:
    line = [row for row in rows if (row["arm"], row["seed"]) == (trials.arm, trials.seed)]
    axes.plot([row["evaluations"] for row in line], [row[column] for row in line], drawstyle="steps-post", alpha=0.85,
              color=palette.colour(trials.arm, run.arms), marker=palette.marker(trials.arm, run.arms), markersize=3.5,
              markevery=max(len(line) // 15, 1), label=_once(axes, trials.arm))
  _number_axis(axes, "evaluated candidates")
  axes.set_ylabel(label)
  if column == "hypervolume":
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{100 * value:g}%"))
  return legend(figure, axes)


@styled
def agreement(run: Run) -> Figure:
  """What the search was followed by, of the same networks with inherited and with retrained weights."""
  figure, axes = canvas("Inherited against retrained")
  for arm in run.arms:
    models = [model for model in run.of(arm) if model.val_retrained is not None]
    _marks(run, axes, arm, [(model.val_inherited, model.val_retrained) for model in models])
  low, high = min(*axes.get_xlim(), *axes.get_ylim()), max(*axes.get_xlim(), *axes.get_ylim())
  axes.plot([low, high], [low, high], color=palette.RULE, lw=1, ls="--", zorder=1)
  _metric_axis(axes.xaxis, yardstick(run).inherited)
  _metric_axis(axes.yaxis, yardstick(run).retrained)
  return legend(figure, axes)


@styled
def losses(run: Run, curves: Iterable[Curve], title: str) -> Figure:
  """Training loss over the steps, one line per training."""
  figure, axes = canvas(title)
  for curve in curves:
    axes.plot(curve.step, curve.loss, color=palette.colour(curve.arm or BASELINE, (*run.arms, curve.arm or BASELINE)),
              alpha=0.8, lw=1.2, label=_once(axes, curve.arm or "supernet"))
  _number_axis(axes, "step")
  axes.set_ylabel("training loss")
  return legend(figure, axes)


@styled
def to_svg(figure: Figure) -> str:
  """The SVG document of a figure, the same for the same figure."""
  out = io.StringIO()
  figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
  return out.getvalue()


@styled
def to_png(figure: Figure) -> bytes:
  """The PNG file of a figure, the same for the same figure."""
  out = io.BytesIO()
  figure.savefig(out, format="png", metadata={"Software": None})
  return out.getvalue()


def canvas(title: str) -> tuple[Figure, Axes]:
  """An empty picture."""
  figure = Figure((WIDTH, 3.4))
  axes = figure.subplots()
  axes.set_title(title)
  return figure, axes


def legend(figure: Figure, axes: Axes) -> Figure:
  """Puts the legend under the axes, where it hides no data."""
  handles, labels = axes.get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4)
  return figure


def _marks(run: Run, axes: Axes, arm: str, points: list[tuple]) -> None:
  """The networks that the report is about: large, outlined, one legend entry per arm; smaller on top of another arm's."""
  if points:
    taken = {tuple(place) for drawn in axes.collections if drawn.get_label() in run.arms for place in drawn.get_offsets()}
    axes.scatter(*zip(*points), [20 if point in taken else 62 for point in points], palette.colour(arm, run.arms),
                 marker=palette.marker(arm, run.arms), edgecolors="white",
                 linewidths=1, zorder=3, label=arm)


def _limit_line(run: Run, axes: Axes, cost: str) -> None:
  if cost in run.limits:
    axes.axvline(run.limits[cost], color=palette.SOFT, lw=1, ls="--")
    axes.annotate(f"limit {si(run.limits[cost])}", (run.limits[cost], 1), (-2, 2), color=palette.SOFT, fontsize=8,
                  xycoords=("data", "axes fraction"), textcoords="offset points", ha="right")


def _number_axis(axes: Axes, label: str) -> None:
  """As many digits as the ticks have, so that near ones differ."""
  axes.set_xlabel(label)
  large = matplotlib.ticker.EngFormatter(sep="")
  axes.xaxis.set_major_formatter(
      matplotlib.ticker.FuncFormatter(lambda value, _: large.format_eng(value) if abs(value) >= 1000 else f"{value:g}"))


def _metric_axis(axis, metric: Metric) -> None:
  axis.set_label_text(metric.axis)
  axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: metric.unit.tick(value)))


def _cut(axes: Axes, shown: list[float], maximise: bool) -> None:
  """Ends the vertical axis where it gets bad, some way beyond what must be seen."""
  worst, rest = (min(shown), -1) if maximise else (max(shown), 1)
  edge = worst + rest * (0.3 * (max(shown) - min(shown)) + 0.01)
  axes.set_ylim(**{"bottom" if maximise else "top": edge})


def _once(axes: Axes, label: str) -> str | None:
  """The label, or None where the legend has it already."""
  return None if label in axes.get_legend_handles_labels()[1] else label
