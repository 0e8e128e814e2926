"""Metrics of one network over one part of the data, weighted by example."""

from typing import Callable, Iterable, Mapping

import jax
import numpy as np
from jaxtyping import Array

from nasformer.types import Params

Metrics = Callable[[Array, Mapping[str, Array]], Mapping[str, Array]]


def mean_metrics(apply: Callable, params: Params, metrics: Metrics,
                 batches: Iterable[Mapping[str, Array]]) -> dict[str, float]:
  """Means over all real examples.

  Args:
    apply: (params, images) -> logits.
    params: of the network.
    metrics: (logits, batch) -> numbers per example, zero for padding, with "count" among them.
    batches: of one shape.
  """
  step = jax.jit(lambda p, b: {name: value.sum() for name, value in metrics(apply(p, b["image"]), b).items()})
  totals: dict[str, float] = {}
  for batch in batches:
    for name, value in jax.device_get(step(params, batch)).items():
      totals[name] = totals[name] + float(value) if name in totals else float(value)
  return means(totals)


def means(totals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Sums over examples to means: everything divided by "count"."""
  return {name: value / totals["count"] for name, value in totals.items() if name != "count"}
