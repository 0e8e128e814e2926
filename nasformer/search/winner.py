"""Which of the trials wins. Search optimises; these rules choose once it is over, from all that was scored."""

from collections.abc import Mapping, Sequence

import numpy as np

from nasformer.ops.stats import binomial_error


def best(trials: Sequence[Mapping], value: str = "fitness", margin: float | int = 0, cost: str = "flops") -> Mapping:
  """The cheapest trial whose value is within a margin of the highest; of equals, the first in the order of genes.

  Args:
    trials: records of the search loop.
    value: what is compared, larger is better; a trial where it is not finite never wins.
    margin: how much lower it may be than the highest.
    cost: what decides among those.

  Raises:
    ValueError: no trial has a finite value.
  """
  finite = [trial for trial in trials if np.isfinite(trial[value]) and np.isfinite(trial["fitness"])]
  if not finite:
    raise ValueError(f"none of {len(trials)} trials has a finite {value}")
  highest = max(trial[value] for trial in finite)
  near = [trial for trial in finite if trial[value] >= highest - margin]
  return min(near, key=lambda trial: (trial[cost], -trial[value], tuple(trial["genes"])))


def within_error(
    trials: Sequence[Mapping], num_examples: int, num_errors: float | int = 1, value: str = "accuracy",
    cost: str = "flops",
) -> Mapping:
  """The cheapest trial within k standard errors of the most accurate one (the one-standard-error rule).

  Source: Breiman et al. 1984, Classification and Regression Trees, chapter 3.

  Args:
    trials: records of the search loop.
    num_examples: how many examples each accuracy was measured on.
    num_errors: k.
    value: a rate in [0, 1].
    cost: what decides among those within the error.
  """
  highest = best(trials, value, cost=cost)[value]
  return best(trials, value, num_errors * binomial_error(highest, num_examples), cost)
