"""Latency as a sum over layers, measured on a machine whose speed drifts; ours.

The time of a layer is a sum of products of two sizes: its own, or its own and one of the whole network. Measurements that
follow one another share the state of the machine: in HAT's three Titan Xp tables whole stretches of rows are about a quarter
slower than the rest, encoder and decoder alike. The cause is not recorded; features of an architecture do not show it. So

  y_e = f(x_e) (1 + s_e + noise),

with s a first-order autoregressive process over the rows in their order, smoothed exactly (Kalman 1960; Rauch, Tung and
Striebel 1965), its memory and its share of the variance by maximum likelihood. Without order in the rows, s comes out as 0.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from nasformer.predict.base import Scale, filled, flat, standard
from nasformer.predict.linear import ridge
from nasformer.predict.products import products
from nasformer.types import UserError

_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_MEMORIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # rows
_SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)  # of the variance that is drift
_EVIDENCE = 3.0  # by how much a drift must raise the log-likelihood to be believed


@struct.dataclass
class Model:
  """A fitted surface and the drift of the rows it was fitted to.

  Attributes:
    slopes: per standardised product of sizes.
    largest: what features are divided by.
    scale: of what is made of the features.
    targets: scale of the targets.
    state: relative slowness of the machine at every row, those of weight 0 included; its mean over the others is 1.
    usual: its median over them.
  """

  slopes: Float[Array, "*Z"]
  largest: Float[Array, "*T_Q"]
  scale: Scale
  targets: Scale
  state: Float[Array, "*E"]
  usual: Float[Array, "*P"]


@dataclasses.dataclass(frozen=True)
class Additive:
  """Latency: sums over layers of products of sizes, by ridge, while the speed of the machine drifts from row to row.

  Rows are taken to be in the order of their measurement. What the machine did in between is only followed where all
  targets are above 0.

  Attributes:
    products: whether sums of products of two sizes are taken, instead of all features as they are.
    rounds: of fitting the architecture and the machine in turn.
    tail: degrees of freedom of Student's t, which weighs down what neither explains.
  """

  products: bool = True
  rounds: int = 6
  tail: float = 30.0
  jittable: ClassVar[bool] = True
  least: ClassVar[int] = 2

  def __post_init__(self):
    if self.rounds < 1 or not self.tail > 0:
      raise UserError(f"{self}: rounds must be at least 1 and tail above 0")

  def fit(
      self, key: Array, inputs: Float[Array, "E T Q"], targets: Float[Array, "E"], weights: Float[Array, "E"]
  ) -> Model:
    y, x = filled(targets, weights), filled(inputs, weights)
    largest = jnp.abs(x).max(0)
    largest = jnp.where(largest > 0, largest, 1)
    x = self._read(x, largest)
    least = jnp.where(weights > 0, targets, jnp.inf).min()

    def turn(carry, _):
      state, trust = carry
      own = weights * trust
      scale, centre = standard(x, own), standard(y / state, own)
      slopes = ridge(filled(scale(x), weights), filled(centre(y / state), weights), own, _PENALTIES)
      surface = jnp.maximum(centre.undo(scale(x) @ slopes), jnp.maximum(least, 0) / 2)
      ratio = jnp.where((least > 0) & (weights > 0), y / jnp.where(surface > 0, surface, 1) - 1, 0)
      middle = (own * ratio).sum() / own.sum()
      drift = smooth(ratio - middle, own)
      rest = (ratio - middle - drift) ** 2
      usual = jnp.sqrt((weights * rest).sum() / weights.sum())
      trust = (self.tail + 1) / (self.tail + rest / jnp.maximum(usual, 1e-6) ** 2)
      state = 1 + drift
      state = state / ((weights * state).sum() / weights.sum())
      return (jnp.clip(state, 0.2, 5), trust), (slopes, scale, centre)

    start = (jnp.ones(len(y)), jnp.ones(len(y)))
    (state, _), fits = jax.lax.scan(turn, start, None, self.rounds)
    slopes, scale, centre = jax.tree.map(lambda leaf: leaf[-1], fits)
    return Model(slopes, largest, scale, centre, state, jnp.nanmedian(jnp.where(weights > 0, state, jnp.nan)))

  def predict(self, model: Model, inputs: Float[Array, "P T Q"]) -> Float[Array, "P"]:
    """On the machine in its mean state; `model.usual` times that is the usual state, where slow stretches do not count."""
    return model.targets.undo(model.scale(self._read(inputs, model.largest)) @ model.slopes)

  def measured(self, model: Model, inputs: Float[Array, "E T Q"]) -> Float[Array, "E"]:
    """The same for rows of `fit`, those of weight 0 included, in the state that the machine was in at that time."""
    return self.predict(model, inputs) * model.state

  def _read(self, inputs: Float[Array, "P T Q"], largest: Float[Array, "T Q"]) -> Float[Array, "P Z"]:
    return products(inputs / largest) if self.products else flat(inputs / largest)


def smooth(values: Float[Array, "E"], weights: Float[Array, "E"]) -> Float[Array, "E"]:
  """The autoregressive part of a noisy series of mean 0, given all of it; memory and variances by maximum likelihood.

  Args:
    values: one per step of time.
    weights: precision of the noise of each, relative to the others; 0 where there is no value.
  """
  weights = weights / jnp.maximum((weights.sum() / (weights > 0).sum()), 1e-6)
  memory, share = (jnp.asarray(grid.ravel()) for grid in np.meshgrid(np.exp(-1 / np.array(_MEMORIES)), _SHARES))
  smoothed, fits = jax.vmap(lambda m, s: _kalman(values, weights, m, s))(memory, share)
  return smoothed[jnp.argmax(fits - _EVIDENCE * (share > 0))]


def _kalman(values, weights, memory, share):
  """Smoothed series and log-likelihood at the best total variance, of which `share` is drift."""
  noise = (1 - share) / jnp.where(weights > 0, weights, 1)

  def forward(carry, step):
    mean, var = carry
    value, noise, seen = step
    mean, var = memory * mean, memory**2 * var + (1 - memory**2) * share
    total = var + noise
    error = jnp.where(seen, value - mean, 0)
    gain = jnp.where(seen, var / total, 0)
    after = mean + gain * error, (1 - gain) * var
    return after, (mean, var, *after, error**2 / total, jnp.where(seen, jnp.log(total), 0))

  seen = weights > 0
  _, (before, var_before, after, var_after, square, log) = jax.lax.scan(forward, (0.0, share), (values, noise, seen))
  num = seen.sum()
  likelihood = -0.5 * (num * jnp.log(jnp.maximum(square.sum() / num, 1e-12)) + log.sum())

  def backward(later, step):
    next_before, next_var, mean, var = step
    mean = mean + jnp.where(next_var > 0, memory * var / jnp.where(next_var > 0, next_var, 1), 0) * (later - next_before)
    return mean, mean

  shifted = jnp.roll(before, -1).at[-1].set(after[-1]), jnp.roll(var_before, -1).at[-1].set(1.0)
  _, smoothed = jax.lax.scan(backward, after[-1], (*shifted, after, var_after), reverse=True)
  return smoothed, likelihood
