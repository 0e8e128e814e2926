"""Least squares, the baseline of every predictor; the amount of ridge may be chosen by leave-one-out errors."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from nasformer.predict.base import Scale, filled, flat, standard
from nasformer.types import UserError


@struct.dataclass
class Model:
  """Slopes per standardised feature, in standard deviations of the targets, and the scales."""

  slopes: Float[Array, "*Q"]
  inputs: Scale
  targets: Scale


@dataclasses.dataclass(frozen=True)
class Linear:
  """Least squares with a little ridge on standardised features: the baseline.

  Attributes:
    ridges: penalties on squared slopes, relative to the sum of the weights; of several, the one with the least
      leave-one-out error is taken.
  """

  ridges: tuple[float, ...] = (1e-6,)
  jittable: ClassVar[bool] = True
  least: ClassVar[int] = 2

  def __post_init__(self):
    if not self.ridges or min(self.ridges) <= 0:
      raise UserError(f"ridges={self.ridges}: at least one is needed, and they must be above 0")

  def fit(
      self, key: Array, inputs: Float[Array, "E T Q"], targets: Float[Array, "E"], weights: Float[Array, "E"]
  ) -> Model:
    scale, scale_targets = standard(flat(inputs), weights), standard(targets, weights)
    x, y = filled(scale(flat(inputs)), weights), filled(scale_targets(targets), weights)
    return Model(ridge(x, y, weights, self.ridges), scale, scale_targets)

  def predict(self, model: Model, inputs: Float[Array, "P T Q"]) -> Float[Array, "P"]:
    return model.targets.undo(model.inputs(flat(inputs)) @ model.slopes)


def ridge(
    x: Float[Array, "E Q"], y: Float[Array, "E"], weights: Float[Array, "E"], penalties: tuple[float, ...]
) -> Float[Array, "Q"]:
  """Slopes that minimise Σ w (y - x β)² / Σ w + λ |β|², λ being the penalty of the least leave-one-out error.

  The error of a row left out is e / (1 - h), with its share h of its own prediction (Allen 1974, Technometrics 16).

  Args:
    x: features of weighted mean 0.
    y: targets of weighted mean 0.
    weights: of the rows.
    penalties: λ, those to choose from.
  """
  share = weights / weights.sum()
  root = jnp.sqrt(share)
  left, size, right = jnp.linalg.svd(root[:, None] * x, full_matrices=False)
  along = left.T @ (root * y)

  def of(penalty):
    kept = size**2 / (size**2 + penalty)
    own = (left**2) @ kept + share  # the second part is that of the mean
    error = (root * y - left @ (kept * along)) / jnp.maximum(1 - own, 1e-3)
    return (error**2).sum(), right.T @ (size / (size**2 + penalty) * along)

  errors, slopes = jax.vmap(of)(jnp.asarray(penalties))
  return slopes[jnp.argmin(errors)]
