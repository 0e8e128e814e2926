"""NAR, the neural architecture ranker (arXiv 2201.12725): a Transformer that sorts networks into tiers and scores them.

The encoder reads the tokens of a network; the decoder reads the mean encoding of a tier, attends to the network, and is
run once per tier with the same weights; what comes out is summed and gives the tier, while the score comes from the encoder.
Ours is small enough for a hundred labels, takes all of them in every step, so that the means of tiers are exact instead of
running, and has no dropout.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from nasformer.ops.losses import pairwise_logistic, smoothed_cross_entropy
from nasformer.predict import networks
from nasformer.predict.base import Scale, filled, standard
from nasformer.types import UserError


@struct.dataclass
class Model:
  """Parameters, the mean encoding of every tier, and the scale of the inputs."""

  params: dict
  tiers: Float[Array, "*C_T_D"]
  inputs: Scale


@dataclasses.dataclass(frozen=True)
class Nar:
  """NAR: tiers of quality from a Transformer that compares a network with the mean of every tier, and a score.

  Attributes:
    num_tiers: equal parts of the labelled networks by rank; the best is tier 0.
    width: of the model.
    num_heads: of attention.
    ffn_dim: hidden width of the MLPs.
    num_layers: of the encoder and of the decoder.
    pair_weight: of the loss of pairs beside that of tiers (1 and 9 in the paper's two spaces).
    learning_rate: largest rate of AdamW, rising linearly and then falling as 1/√step.
    warmup: steps of the rise.
    weight_decay: of AdamW.
    steps: over all labels each.
  """

  num_tiers: int = 5
  width: int = 16
  num_heads: int = 2
  ffn_dim: int = 32
  num_layers: int = 1
  pair_weight: float = 9.0
  learning_rate: float = 1e-2
  warmup: int = 20
  weight_decay: float = 1e-2
  steps: int = 60
  jittable: ClassVar[bool] = True

  def __post_init__(self):
    if min(self.width, self.num_heads, self.ffn_dim, self.num_layers, self.warmup, self.steps, self.num_tiers - 1) < 1:
      raise UserError(f"{self}: every size must be above 0, and num_tiers above 1")
    if self.width % self.num_heads:
      raise UserError(f"width={self.width} must be a multiple of num_heads={self.num_heads}")

  @property
  def least(self) -> int:
    """One network per tier."""
    return self.num_tiers

  def fit(
      self, key: Array, inputs: Float[Array, "E T Q"], targets: Float[Array, "E"], weights: Float[Array, "E"]
  ) -> Model:
    start, descent = jax.random.split(key)
    scale = standard(inputs, weights)
    x, y = filled(scale(inputs), weights), filled(targets, weights)
    labels = tiers_of(targets, weights, self.num_tiers)
    rate = lambda step: self.learning_rate * jnp.minimum((step + 1) / self.warmup, (self.warmup / (step + 1)) ** 0.5)
    optimizer = optax.adamw(rate, 0.9, 0.982, 1e-9, weight_decay=self.weight_decay)

    def loss(params, key):
      encoded = self._encode(params, x)
      tiers = segment_means(jax.lax.stop_gradient(encoded), labels, weights, self.num_tiers)
      by_tier = smoothed_cross_entropy(self._logits(params, encoded, tiers), labels)
      return ((weights * by_tier).sum() / weights.sum()
              + self.pair_weight * pairwise_logistic(self._score(params, encoded), y, weights))

    params = networks.descend(descent, loss, self._init(start, *x.shape[1:]), optimizer, self.steps)
    return Model(params, segment_means(self._encode(params, x), labels, weights, self.num_tiers), scale)

  def predict(self, model: Model, inputs: Float[Array, "P T Q"]) -> Float[Array, "P"]:
    """The score."""
    return self._score(model.params, self._encode(model.params, model.inputs(inputs)))

  def tiers(self, model: Model, inputs: Float[Array, "P T Q"]) -> Float[Array, "P C"]:
    """Probability of every tier, the best first."""
    encoded = self._encode(model.params, model.inputs(inputs))
    return jax.nn.softmax(self._logits(model.params, encoded, model.tiers))

  # -- the network --------------------------------------------------------------------------------------------------

  def _init(self, key: Array, num_tokens: int, num_features: int) -> dict:
    flat = num_tokens * self.width
    block = lambda count: {"attend": [networks.stack(*[self.width] * 5) for _ in range(count)],
                           "mlp": networks.stack(self.width, self.ffn_dim, self.width)}
    return networks.draw(key, {
        "embed": (num_features, self.width), "tier": (self.width, self.width),
        "encoder": [block(1) for _ in range(self.num_layers)], "decoder": [block(2) for _ in range(self.num_layers)],
        "score": networks.stack(flat, 2 * self.width, 1), "logits": networks.stack(flat, 2 * self.width, self.num_tiers)})

  def _encode(self, params: dict, inputs: Float[Array, "P T Q"]) -> Float[Array, "P T D"]:
    x = networks.linear(params["embed"], inputs)
    x = x + positions(x.shape[1], self.width)

    def one(x):
      for layer in params["encoder"]:
        h = _norm(x)
        x = x + self._attend(layer["attend"][0], h, h)
        x = x + networks.apply(layer["mlp"], _norm(x))
      return _norm(x)

    return jax.vmap(one)(x)

  def _logits(
      self, params: dict, encoded: Float[Array, "P T D"], tiers: Float[Array, "C T D"]
  ) -> Float[Array, "P C"]:
    """One pass of the decoder per tier, summed."""

    def one(tier, memory):
      x = networks.linear(params["tier"], tier)
      for layer in params["decoder"]:
        h = _norm(x)
        x = x + self._attend(layer["attend"][0], h, h)
        x = x + self._attend(layer["attend"][1], _norm(x), memory)
        x = x + networks.apply(layer["mlp"], _norm(x))
      return _norm(x)

    per_tier = jax.vmap(one, in_axes=(0, None))
    total = jax.vmap(lambda memory: per_tier(tiers, memory).sum(0))(encoded)
    return networks.apply(params["logits"], total.reshape(len(total), -1)) * self.width**-0.5

  def _score(self, params: dict, encoded: Float[Array, "P T D"]) -> Float[Array, "P"]:
    return networks.apply(params["score"], encoded.reshape(len(encoded), -1))[:, 0]

  def _attend(
      self, layers: list[networks.Dense], x: Float[Array, "T D"], source: Float[Array, "S D"]
  ) -> Float[Array, "T D"]:
    heads = lambda layer, y: networks.linear(layer, y).reshape(len(y), self.num_heads, -1)
    query, key, value = heads(layers[0], x), heads(layers[1], source), heads(layers[2], source)
    near = jax.nn.softmax(jnp.einsum("tnh,snh->nts", query, key) * query.shape[-1] ** -0.5)
    return networks.linear(layers[3], jnp.einsum("nts,snh->tnh", near, value).reshape(len(x), -1))


def tiers_of(targets: Float[Array, "E"], weights: Float[Array, "E"], num: int) -> Int[Array, "E"]:
  """Tier of every labelled row by rank, 0 the best: equal counts, the remainder in the last; rows of weight 0 go there too."""
  live = weights > 0
  rank = jnp.argsort(jnp.argsort(-jnp.where(live, targets, -jnp.inf)))
  return jnp.minimum(rank // jnp.maximum(live.sum() // num, 1), num - 1)


def segment_means(
    values: Float[Array, "E T D"], labels: Int[Array, "E"], weights: Float[Array, "E"], num: int
) -> Float[Array, "C T D"]:
  """Weighted mean of the rows of every label; 0 of a label without rows."""
  member = weights * (labels == jnp.arange(num)[:, None])
  return jnp.einsum("ce,etd->ctd", member, values) / jnp.maximum(member.sum(1), 1e-6)[:, None, None]


def positions(length: int, width: int) -> Float[np.ndarray, "T D"]:
  """Sines and cosines of positions (Vaswani et al. 2017, section 3.5)."""
  rates = 1e4 ** -(np.arange(width) // 2 * 2 / width)
  angles = np.arange(length)[:, None] * rates
  return np.where(np.arange(width) % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def _norm(x: Float[Array, "*P D"]) -> Float[Array, "*P D"]:
  centred = x - x.mean(-1, keepdims=True)
  return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
