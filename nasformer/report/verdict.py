"""What a run found, in a few plain sentences, with a tie called a tie."""

import dataclasses
import math
from typing import Mapping

from nasformer.report.measures import Metric, yardstick
from nasformer.report.numbers import compared, interval, si, tenths
from nasformer.report.run import BASELINE, Run, called
from nasformer.report.tables import spreads

LEVEL = 0.05  # p-value from which a paired test tells two networks apart no longer


@dataclasses.dataclass(frozen=True)
class Verdict:
  """A headline and the sentences under it."""

  title: str
  lines: tuple[str, ...]


def verdict(run: Run) -> Verdict:
  """Says which arm won on the test split, at what cost, and against the baseline; or how far the run has come."""
  if not run.models:
    return Verdict("No winner yet", ("The search has not finished; this page shows what there is so far.",))
  headline = yardstick(run).test
  rows = {arm: spreads(run, arm) for arm in run.arms}
  tested = {arm: row for arm, row in rows.items() if row[headline.name]}
  if not tested:
    return _after_search(run)
  missing = [arm for arm in run.arms if arm not in tested]
  tied = _tied(run, tested)
  chosen = min(tied, key=lambda arm: tested[arm]["flops"].mean)
  title = f"{_called(chosen)} wins: {_score(headline, tested[chosen])}"
  if len(tied) > 1:
    title = (f"{', '.join(map(_called, tied[:-1]))} and {_called(tied[-1])} are level on {headline.noun}; the"
             f" {'cheaper' if len(tied) == 2 else 'cheapest'} is {_called(chosen)}: {_score(headline, tested[chosen])}")
  lines = [_against_baseline(run, tested, chosen), _noise_line(run, tested)]
  lines += [f"Not retrained yet: {', '.join(missing)}."] if missing else []
  return Verdict(_sentence(title), tuple(lines))


def noise(run: Run, arm: str) -> float:
  """Uncertainty of the headline of an arm: deviation over seeds or error of the split, whichever is larger."""
  yard = yardstick(run)
  models = [model for model in run.of(arm) if model.test]
  error = yard.error(models, run.experiment["dataset"]["num_test"])
  return max(spreads(run, arm)[yard.test.name].std or 0.0, error)


def paired(found: Mapping[str, float], metric: Metric) -> str:
  """The outcome of a paired test in words: "better by 0.8 BLEU [0.2, 1.4], p = 0.01"."""
  gain, chance = found["difference"], f"p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{found['p_value']:.2g}"
  if found["p_value"] >= LEVEL:
    signed = f"{gain:+.1f}".replace("-", "−")
    return f"not distinguishable ({signed} {metric.noun} {interval(found['low'], found['high'], tenths)}, {chance})"
  low, high = (found["low"], found["high"]) if gain > 0 else (-found["high"], -found["low"])
  return (f"{'better' if gain > 0 else 'worse'} by {tenths(abs(gain))} {metric.noun} {interval(low, high, tenths)},"
          f" {chance}")


def _tied(run: Run, tested: dict) -> tuple[str, ...]:
  """The best arm and those that are level with it, best first."""
  headline = yardstick(run).test.name
  best, *others = sorted(tested, key=lambda arm: -tested[arm][headline].mean)
  return (best, *(arm for arm in others if _level(run, tested, best, arm)))


def _level(run: Run, tested: dict, one: str, two: str) -> bool:
  """Whether two arms cannot be told apart: by a paired test if there is one, else by their uncertainties."""
  test, headline = _test(run, one, two), yardstick(run).test.name
  if test:
    return test["p_value"] >= LEVEL
  return abs(tested[one][headline].mean - tested[two][headline].mean) <= math.hypot(noise(run, one), noise(run, two))


def _test(run: Run, one: str, two: str) -> Mapping[str, float] | None:
  """The paired test of an arm with the baseline, where one seed is all there is."""
  models = [model for arm in (one, two) if arm != BASELINE for model in run.of(arm)]
  return models[0].against_baseline if len(models) == 1 else None


def _after_search(run: Run) -> Verdict:
  metric = yardstick(run).inherited
  rows = {arm: spreads(run, arm) for arm in run.arms if run.of(arm)}
  best = metric.best(rows, key=lambda arm: rows[arm][metric.name].mean)
  return Verdict(
      _sentence(f"{_called(best)} leads after the search: {_score(metric, rows[best])}"),
      ("These scores come from weights inherited from the supernet. Nothing has been retrained or tested yet,"
       " so this is not a result.",))


def _against_baseline(run: Run, tested: dict, arm: str) -> str:
  """One sentence on the leader, or on the best searched arm where the baseline itself leads."""
  headline = yardstick(run).test
  searched = [name for name in tested if name != BASELINE]
  if BASELINE not in tested or not searched:
    return "There is no retrained hand-made baseline to compare with."
  lead = ""
  if arm == BASELINE:
    arm = max(searched, key=lambda name: tested[name][headline.name].mean)
    lead = f"The best searched arm is {arm}, {_score(headline, tested[arm])}. "
  ours, theirs = tested[arm], tested[BASELINE]
  flops = compared(ours["flops"].mean, theirs["flops"].mean, "FLOPs")
  params = compared(ours["params"].mean, theirs["params"].mean, "parameters")
  return (f"{lead}Against the hand-made baseline ({_score(headline, theirs)}) {arm} is {_gain(run, tested, arm)}, with"
          f" {flops} and {params}.")


def _gain(run: Run, tested: dict, arm: str) -> str:
  """How an arm differs from the baseline."""
  yard, test = yardstick(run), _test(run, arm, BASELINE)
  if test:
    return paired(test, yard.test)
  gain = tested[arm][yard.test.name].mean - tested[BASELINE][yard.test.name].mean
  words = yard.gain(gain)
  return words + (" (within the uncertainty)" if _level(run, tested, arm, BASELINE) and words != yard.gain(0.0) else "")


def _noise_line(run: Run, tested: dict) -> str:
  yard = yardstick(run)
  num = min(row[yard.test.name].num for row in tested.values())
  seeds = f"over {num} seeds" if num > 1 else "over seeds (unknown here: there is one seed)"
  num_test = run.experiment["dataset"]["num_test"]
  words = ("Arms are called level when they differ by no more than their combined uncertainty: the standard deviation"
           f" {seeds} or the sampling error of {num_test:,} test {yard.examples}, whichever is larger.")
  if any(_test(run, arm, BASELINE) for arm in tested):
    words += f" With the baseline they are compared sentence by sentence (paired bootstrap): level from p = {LEVEL} on."
  return words


def _called(arm: str) -> str:
  return f"the {called(arm)}" if arm == BASELINE else arm


def _score(metric: Metric, row: dict) -> str:
  return f"{row[metric.name].show(metric.unit.brief)} {metric.noun} at {si(row['flops'].mean)} FLOPs"


def _sentence(text: str) -> str:
  return f"{text[0].upper()}{text[1:]}."
