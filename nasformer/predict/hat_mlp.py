"""The latency predictor of HAT (arXiv 2005.14187, section 3.3; the released code and settings)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float

from nasformer.predict import networks
from nasformer.predict.base import filled, flat
from nasformer.types import UserError


@struct.dataclass
class Model:
  """The network, and what inputs and targets are divided by."""

  layers: list[networks.Dense]
  inputs: Float[Array, "*Q"]
  targets: Float[Array, "*P"]


@dataclasses.dataclass(frozen=True)
class HatMlp:
  """HAT's MLP: squared error, Adam at a small rate; 4 hidden layers as in the released code (the paper says three).

  HAT divides by constants per device and space (640, 6, 2048, ...; 200 or 300 ms), which are about the largest inputs
  and the mean latency; here they are exactly these.

  Attributes:
    width: of the hidden layers.
    num_hidden: how many.
    learning_rate: of Adam.
    batch: rows of a step, drawn with replacement.
    steps: of Adam.
  """

  width: int = 400
  num_hidden: int = 4
  learning_rate: float = 1e-5
  batch: int = 128
  steps: int = 5000
  jittable: ClassVar[bool] = True
  least: ClassVar[int] = 2

  def __post_init__(self):
    if min(self.width, self.num_hidden, self.batch, self.steps) < 1 or not self.learning_rate > 0:
      raise UserError(f"{self}: every setting must be above 0")

  def fit(
      self, key: Array, inputs: Float[Array, "E T Q"], targets: Float[Array, "E"], weights: Float[Array, "E"]
  ) -> Model:
    start, order = jax.random.split(key)
    x, y = filled(flat(inputs), weights), filled(targets, weights)
    largest, usual = jnp.abs(x).max(0), jnp.abs(jnp.sum(weights * y) / weights.sum())
    largest, usual = jnp.where(largest > 0, largest, 1), jnp.where(usual > 0, usual, 1)
    x, y = x / largest, y / usual
    layers = networks.draw(start, networks.stack(x.shape[1], *[self.width] * self.num_hidden, 1))

    def loss(layers, key):
      rows = jax.random.categorical(key, jnp.log(weights), shape=(self.batch,))
      return ((networks.apply(layers, x[rows])[:, 0] - y[rows]) ** 2).mean()

    layers = networks.descend(order, loss, layers, optax.adam(self.learning_rate), self.steps)
    return Model(layers, largest, usual)

  def predict(self, model: Model, inputs: Float[Array, "P T Q"]) -> Float[Array, "P"]:
    return networks.apply(model.layers, flat(inputs) / model.inputs)[:, 0] * model.targets
