"""RankNAS: ranking as binary decisions on pairs (arXiv 2109.07383), here with a small network and an ensemble.

The scoring function of the paper is a boosted tree, and that of the released code is trained by plain regression
(`nasformer.predict.boosted`); ours is trained with the pair loss that the paper describes.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float

from nasformer.ops.losses import pairwise_logistic
from nasformer.predict import networks
from nasformer.predict.base import Scale, filled, flat, standard
from nasformer.types import UserError


@struct.dataclass
class Model:
  """Networks of all members with a leading axis, and the scale of the inputs."""

  members: dict
  inputs: Scale


@dataclasses.dataclass(frozen=True)
class Pairwise:
  """RankNAS: an MLP beside a linear score, trained on which of two is better; a bootstrap ensemble.

  Attributes:
    width: hidden units of a member.
    num_members: of the ensemble; each starts elsewhere and weighs the rows anew (Rubin 1981, Bayesian bootstrap).
    learning_rate: of AdamW.
    weight_decay: of AdamW.
    steps: of AdamW, over all pairs each.
  """

  width: int = 32
  num_members: int = 8
  learning_rate: float = 1e-2
  weight_decay: float = 1e-1
  steps: int = 150
  jittable: ClassVar[bool] = True
  least: ClassVar[int] = 2

  def __post_init__(self):
    if min(self.width, self.num_members, self.steps) < 1 or not self.learning_rate > 0 or self.weight_decay < 0:
      raise UserError(f"{self}: every setting must be above 0 (weight_decay may be 0)")

  def fit(
      self, key: Array, inputs: Float[Array, "E T Q"], targets: Float[Array, "E"], weights: Float[Array, "E"]
  ) -> Model:
    scale = standard(flat(inputs), weights)
    x, y = filled(scale(flat(inputs)), weights), filled(targets, weights)
    optimizer = optax.adamw(self.learning_rate, weight_decay=self.weight_decay)

    def member(key):
      line, hidden, draw, descent = jax.random.split(key, 4)
      drawn = weights * jax.random.exponential(draw, weights.shape)
      params = {"line": networks.stack(line, (x.shape[1], 1)),
                "hidden": networks.stack(hidden, (x.shape[1], self.width, 1))}
      loss = lambda params, key: pairwise_logistic(_score(params, x), y, drawn)
      return networks.descend(descent, loss, params, optimizer, self.steps)

    return Model(jax.vmap(member)(jax.random.split(key, self.num_members)), scale)

  def predict(self, model: Model, inputs: Float[Array, "P T Q"]) -> Float[Array, "P"]:
    """Mean log-odds of the members."""
    return self.members(model, inputs).mean(0)

  def members(self, model: Model, inputs: Float[Array, "P T Q"]) -> Float[Array, "M P"]:
    """Score of every member; where they differ, the labels do not decide."""
    return jax.vmap(_score, in_axes=(0, None))(model.members, model.inputs(flat(inputs)))


def _score(params: dict, x: Float[Array, "P Q"]) -> Float[Array, "P"]:
  return (networks.apply(params["line"], x) + networks.apply(params["hidden"], x))[:, 0]
