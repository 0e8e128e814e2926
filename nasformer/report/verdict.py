"""What a run found, in a few plain sentences, with a tie called a tie."""

import dataclasses
import math

from nasformer.ops import stats
from nasformer.report.load import BASELINE, Run
from nasformer.report.numbers import Spread, compared, percent, si
from nasformer.report.tables import spreads


@dataclasses.dataclass(frozen=True)
class Verdict:
  """A headline and the sentences under it."""

  title: str
  lines: tuple[str, ...]


def verdict(run: Run) -> Verdict:
  """Says which arm won on the test split, at what cost, and against the baseline; or how far the run has come."""
  if not run.models:
    return Verdict("No winner yet", ("The search has not finished; this page shows what there is so far.",))
  rows = {arm: spreads(run, arm) for arm in run.arms}
  tested = {arm: row for arm, row in rows.items() if row["test_retrained"]}
  if not tested:
    return _after_search(run)
  missing = [arm for arm in run.arms if arm not in tested]
  tied = _tied(run, tested)
  chosen = min(tied, key=lambda arm: tested[arm]["flops"].mean)
  title = f"{_called(chosen)} wins: {_score(tested[chosen])}"
  if len(tied) > 1:
    title = (f"{', '.join(map(_called, tied[:-1]))} and {_called(tied[-1])} are level on test accuracy;"
             f" the {'cheaper' if len(tied) == 2 else 'cheapest'} is {_called(chosen)}: {_score(tested[chosen])}")
  lines = [_against_baseline(run, tested, chosen), _noise_line(run, tested)]
  lines += [f"Not retrained yet: {', '.join(missing)}."] if missing else []
  return Verdict(_sentence(title), tuple(lines))


def noise(run: Run, accuracy: Spread) -> float:
  """Uncertainty of a test accuracy: deviation over seeds or binomial error of the split, whichever is larger."""
  return max(accuracy.std or 0.0, stats.binomial_error(accuracy.mean, run.experiment["dataset"]["num_test"]))


def _tied(run: Run, tested: dict) -> tuple[str, ...]:
  """The best arm and those whose distance from it is within both their uncertainties, best first."""
  mean = {arm: row["test_retrained"].mean for arm, row in tested.items()}
  best, *others = sorted(mean, key=lambda arm: -mean[arm])
  near = [arm for arm in others if mean[best] - mean[arm] <= _uncertainty(run, tested[best], tested[arm])]
  return (best, *near)


def _uncertainty(run: Run, one: dict, two: dict) -> float:
  """Of the difference of two arms on the test split."""
  return math.hypot(noise(run, one["test_retrained"]), noise(run, two["test_retrained"]))


def _after_search(run: Run) -> Verdict:
  rows = {arm: spreads(run, arm) for arm in run.arms if run.of(arm)}
  best = max(rows, key=lambda arm: rows[arm]["val_inherited"].mean)
  score, flops = rows[best]["val_inherited"], rows[best]["flops"].mean
  return Verdict(
      _sentence(f"{_called(best)} leads after the search: {score.show(percent)} validation accuracy"
                f" at {si(flops)} FLOPs"),
      ("These scores come from weights inherited from the supernet. Nothing has been retrained or tested yet,"
       " so this is not a result.",))


def _against_baseline(run: Run, tested: dict, arm: str) -> str:
  """One sentence on the leader, or on the best searched arm where the baseline itself leads."""
  searched = [name for name in tested if name != BASELINE]
  if BASELINE not in tested or not searched:
    return "There is no retrained hand-made baseline to compare with."
  lead = ""
  if arm == BASELINE:
    arm = max(searched, key=lambda name: tested[name]["test_retrained"].mean)
    lead = f"The best searched arm is {arm}, {_score(tested[arm])}. "
  ours, theirs = tested[arm], tested[BASELINE]
  gain = ours["test_retrained"].mean - theirs["test_retrained"].mean
  how = f"{100 * abs(gain):.1f} points {'more' if gain > 0 else 'less'} accurate"
  if abs(gain) < 0.0005:
    how = "as accurate"
  elif abs(gain) <= _uncertainty(run, ours, theirs):
    how += " (within the uncertainty)"
  flops = compared(ours["flops"].mean, theirs["flops"].mean, "FLOPs")
  params = compared(ours["params"].mean, theirs["params"].mean, "parameters")
  return (f"{lead}Against the hand-made baseline ({_score(theirs)}) {arm} is {how}, with {flops}"
          f" and {params}.")


def _noise_line(run: Run, tested: dict) -> str:
  num = min(row["test_retrained"].num for row in tested.values())
  seeds = f"over {num} seeds" if num > 1 else "over seeds (unknown here: there is one seed)"
  num_test = run.experiment["dataset"]["num_test"]
  return ("Arms are called level when they differ by no more than their combined uncertainty: the standard deviation"
          f" {seeds} or the sampling error of {num_test:,} test examples, whichever is larger.")


def _called(arm: str) -> str:
  return "the hand-made baseline" if arm == BASELINE else arm


def _score(row: dict) -> str:
  return f"{row['test_retrained'].show(percent)} test accuracy at {si(row['flops'].mean)} FLOPs"


def _sentence(text: str) -> str:
  return f"{text[0].upper()}{text[1:]}."
