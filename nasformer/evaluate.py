"""Metrics of one network over one part of the data, weighted by example."""

from typing import Any, Callable, Iterable, Mapping

import jax
import numpy as np
from jaxtyping import Array

from nasformer.types import Params


def evaluator(apply: Callable, task: Any) -> Callable[[Params, Iterable[Mapping[str, Array]]], dict[str, float]]:
  """A function (weights, batches) -> means over all real examples; compiled once for each shape of a batch.

  Args:
    apply: (params, inputs) -> logits.
    task: says what the network takes of a batch, and the metrics: numbers per example, zero for padding, among them "count".
  """
  step = jax.jit(lambda p, b: {name: value.sum() for name, value in task.metrics(apply(p, task.inputs(b)), b).items()})

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
