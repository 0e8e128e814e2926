"""RankNAS: ranking as binary decisions on pairs (arXiv 2109.07383), in JAX, with an ensemble.

The scoring function of the paper is a boosted tree, and that of the released code is trained by plain regression
(`nasformer.predict.boosted`). Ours is trained with the pair loss that the paper describes. Its score is linear in sums over
layers of products of two features. Hidden units beside that are off by default: they ranked worse in trials with few splits;
`experiments/bench/rankers.py` has a row for them.
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
from nasformer.predict.products import products
from nasformer.types import UserError


@struct.dataclass
class Model:
  """Parameters of all members with a leading axis, what features are divided by, and the scale of what is made of them."""

  members: dict
  largest: Float[Array, "*T_Q"]
  scale: Scale


@dataclasses.dataclass(frozen=True)
class Pairwise:
  """RankNAS: a score that is trained on which of two is better; a bootstrap ensemble.

  Attributes:
    products: whether the score sees sums over tokens of products of two features, instead of all features as they are.
    width: hidden units beside the linear score; 0 for none.
    num_members: of the ensemble; each weighs the rows anew (Bayesian bootstrap, Rubin 1981).
    penalty: on squared weights, the features being standardised.
    learning_rate: of Adam.
    steps: of Adam, over all pairs each.
  """

  products: bool = True
  width: int = 0
  num_members: int = 8
  penalty: float = 1e-3
  learning_rate: float = 0.1
  steps: int = 150
  jittable: ClassVar[bool] = True
  least: ClassVar[int] = 2

  def __post_init__(self):
    if min(self.num_members, self.steps) < 1 or self.width < 0 or not self.learning_rate > 0 or self.penalty < 0:
      raise UserError(f"{self}: num_members, steps and learning_rate must be above 0, width and penalty not below")

  def fit(
      self, key: Array, inputs: Float[Array, "E T Q"], targets: Float[Array, "E"], weights: Float[Array, "E"]
  ) -> Model:
    largest = jnp.abs(filled(inputs, weights)).max(0)
    largest = jnp.where(largest > 0, largest, 1)
    x = self._read(inputs, largest)
    scale = standard(x, weights)
    x, y = filled(scale(x), weights), filled(targets, weights)

    def member(key):
      hidden, draw, descent = jax.random.split(key, 3)
      own = weights * jax.random.exponential(draw, weights.shape)

      def loss(params, key):
        penalty = self.penalty * sum((leaf**2).sum() for leaf in jax.tree.leaves(params))
        return pairwise_logistic(_score(params, x), y, own) + penalty

      params = {"line": jnp.zeros(x.shape[1])}
      if self.width:
        params["hidden"] = networks.draw(hidden, networks.stack(x.shape[1], self.width, 1))
      return networks.descend(descent, loss, params, optax.adam(self.learning_rate), self.steps)

    return Model(jax.vmap(member)(jax.random.split(key, self.num_members)), largest, scale)

  def predict(self, model: Model, inputs: Float[Array, "P T Q"]) -> Float[Array, "P"]:
    """Mean score of the members; differences are log-odds."""
    return self.members(model, inputs).mean(0)

  def members(self, model: Model, inputs: Float[Array, "P T Q"]) -> Float[Array, "M P"]:
    """Score of every member; where they differ, the labels do not decide."""
    x = model.scale(self._read(inputs, model.largest))
    return jax.vmap(_score, in_axes=(0, None))(model.members, x)

  def _read(self, inputs: Float[Array, "P T Q"], largest: Float[Array, "T Q"]) -> Float[Array, "P Z"]:
    return products(inputs / largest) if self.products else flat(inputs / largest)


def _score(params: dict, x: Float[Array, "P Z"]) -> Float[Array, "P"]:
  score = x @ params["line"] * x.shape[1] ** -0.5
  return score + networks.apply(params["hidden"], x)[:, 0] if "hidden" in params else score
