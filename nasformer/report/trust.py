"""What the page says of the supernet's trustworthiness, where networks beyond the winners were trained alone."""

from typing import Iterator, Mapping

from matplotlib.figure import Figure

from nasformer.report import figures
from nasformer.report.markup import table
from nasformer.report.run import Run

GROUPS = {"all": "all", "spread": "spread over budgets", "budget": "about one budget"}


@figures.styled
def picture(run: Run) -> Figure:
  """Validation loss of the same networks with inherited and with retrained weights."""
  figure, axes = figures.canvas("Inherited against retrained, networks at large")
  for group, marker, colour in (("spread", "o", "#4477AA"), ("budget", "s", "#EE6677")):
    rows = [row for row in run.trust["rows"] if row["group"] == group]
    if rows:
      points = [(row["inherited"]["loss"], row["retrained"]["loss"]) for row in rows]
      axes.scatter(*zip(*points), 36, colour, marker=marker, edgecolors="white", linewidths=0.7, label=GROUPS[group])
  axes.set_xlabel("validation loss, inherited")
  axes.set_ylabel("validation loss, retrained")
  return figures.legend(figure, axes)


def measured(run: Run) -> Iterator[str]:
  """Kendall's tau of every predictor, with its interval."""
  if not run.trust:
    return
  found = {(row["predictor"], row["group"]): row for row in run.trust["tau"]}
  groups = [group for group in GROUPS if any(group == shown for _, shown in found)]
  rows = [[predictor, *(_cell(found[predictor, group]) for group in groups)]
          for predictor in dict.fromkeys(name for name, _ in found)]
  heads = ["predictor", *(f"{GROUPS[group]} (n = {found['inherited loss', group]['num']})" for group in groups)]
  yield "<h3>Networks at large</h3>"
  yield table(heads, rows)
  yield (f'<p class="soft note">Kendall\'s τ with the validation loss after {run.trust["steps"]:,} steps of training alone,'
         " with its 95% bootstrap interval over networks. Sizes need no supernet: where they do as well, the range of"
         " budgets makes the order easy.</p>")


def _cell(row: Mapping) -> str:
  return f"{row['tau']:.2f} [{row['low']:.2f}, {row['high']:.2f}]".replace("-", "−")
