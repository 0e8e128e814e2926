"""Metrics of one network over one part of the data, weighted by example."""

from typing import Callable, Iterable, Mapping

import jax
import numpy as np
from jaxtyping import Array

from nasformer.types import Params

Metrics = Callable[[Array, Mapping[str, Array]], Mapping[str, Array]]


def evaluator(apply: Callable, metrics: Metrics) -> Callable[[Params, Iterable[Mapping[str, Array]]], dict[str, float]]:
  """A function (weights, batches of one shape) -> means over all real examples; compiled once for a network.

  Args:
    apply: (params, images) -> logits.
    metrics: (logits, batch) -> numbers per example, zero for padding, with "count" among them.
  """
  step = jax.jit(lambda p, b: {name: value.sum() for name, value in metrics(apply(p, b["image"]), b).items()})

  def evaluate(params, batches):
    totals: dict[str, float] = {}
    for batch in batches:
      for name, value in jax.device_get(step(params, batch)).items():
        totals[name] = totals[name] + float(value) if name in totals else float(value)
    return means(totals)

  return evaluate


def means(totals: Mapping[str, np.ndarray | float]) -> dict[str, np.ndarray | float]:
  """Sums over examples to means: everything divided by "count"."""
  return {name: value / totals["count"] for name, value in totals.items() if name != "count"}
