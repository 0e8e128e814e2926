"""Metrics of classification, and the mean that leaves padding out."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


def correct(logits: Float[Array, "*B C"], labels: Int[Array, "*B"]) -> Bool[Array, "*B"]:
  """Whether the true class has the largest logit; a row with a NaN is never correct.

  Args:
    logits: unnormalised log-probabilities.
    labels: the true class.
  """
  return (jnp.argmax(logits, -1) == labels) & ~jnp.isnan(logits).any(-1)


def weighted_mean(
    values: Num[Array, "*P B"] | Bool[Array, "*P B"], weights: Num[Array, "B"] | Bool[Array, "B"]
) -> Float[Array, "*P"]:
  """Mean Σ w v / Σ w over the last axis: of examples under a mask, or of batches weighted by their sizes.

  Args:
    values: one per example or batch; where the weight is 0 they may be anything, NaN included.
    weights: 0 or more; their sum must be above 0.
  """
  weights = weights.astype(jnp.float32)
  return jnp.where(weights > 0, values * weights, 0.0).sum(-1) / weights.sum()
