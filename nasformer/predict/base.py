"""What a predictor is: it learns from labelled architectures, given as tokens of features, and predicts others.

Rows of weight 0 only fill up an archive of fixed size; what they hold, NaN included, changes nothing. Inputs and targets
are standardised inside `fit`, so features come in whatever units they have (`nasformer.predict.features`).
"""

import functools
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from nasformer.types import UserError


@runtime_checkable
class Predictor(Protocol):
  """A frozen dataclass whose fields are its settings. `fit` and `predict` are pure; valid under jit and vmap if `jittable`.

  Attributes:
    jittable: whether `fit` and `predict` are made of JAX operations, and the model is a tree of arrays.
    least: the smallest number of labels that it learns anything from.
  """

  jittable: ClassVar[bool]

  @property
  def least(self) -> int: ...

  def fit(
      self, key: Array, inputs: Float[Array, "E T Q"], targets: Float[Array, "E"], weights: Float[Array, "E"]
  ) -> Any:
    """The model of labelled rows.

    Args:
      key: of whatever is drawn at random.
      inputs: T tokens of Q features per architecture; plain feature vectors have one token.
      targets: labels; a ranker takes larger ones for better ones.
      weights: how much a row counts; 0 for rows that only fill up.
    """

  def predict(self, model: Any, inputs: Float[Array, "P T Q"]) -> Float[Array, "P"]:
    """Predictions: in the unit of the targets from a regressor, on any rising scale from a ranker."""


@struct.dataclass
class Scale:
  """Brings the columns of labelled rows to mean 0 and standard deviation 1; constant columns to 0.

  Attributes:
    mean: of the columns, weighted.
    spread: their standard deviation; 1 where it is 0.
  """

  mean: Float[Array, "*Q"]
  spread: Float[Array, "*Q"]

  def __call__(self, values: Float[Array, "*E_Q"]) -> Float[Array, "*E_Q"]:
    return (values - self.mean) / self.spread

  def undo(self, values: Float[Array, "*E_Q"]) -> Float[Array, "*E_Q"]:
    """From the standard scale back to the unit of the columns."""
    return self.mean + values * self.spread


def standard(values: Float[Array, "E *Q"], weights: Float[Array, "E"]) -> Scale:
  """The scale of rows with these weights; rows of weight 0 are not read."""
  share = (weights / weights.sum()).reshape(-1, *[1] * (values.ndim - 1))
  values = jnp.where(share > 0, values, 0)
  mean = (share * values).sum(0)
  spread = jnp.sqrt((share * (values - mean) ** 2).sum(0))
  return Scale(mean, jnp.where(spread > 1e-6 * jnp.abs(mean), spread, 1))


def flat(inputs: Float[Array, "P T Q"]) -> Float[Array, "P TQ"]:
  """All tokens as one row of features."""
  return inputs.reshape(len(inputs), -1)


def filled(values: Float[Array, "E *Q"], weights: Float[Array, "E"]) -> Float[Array, "E *Q"]:
  """The rows, with 0 for those of weight 0: 0 x NaN would be NaN."""
  return jnp.where((weights > 0).reshape(-1, *[1] * (values.ndim - 1)), values, 0)


@functools.partial(jax.jit, static_argnums=0)
def _fit(predictor: Predictor, *args: Any) -> Any:
  return predictor.fit(*args)


def checked(
    predictor: Predictor, key: Array, inputs: Float[Array | np.ndarray, "E T Q"],
    targets: Float[Array | np.ndarray, "E"], weights: Float[Array | np.ndarray, "E"] | None = None,
) -> Any:
  """The fitted model, compiled where it can be, after a look at the rows on the host.

  Args:
    predictor: what to fit.
    key: as for `Predictor.fit`, as are the others.
    inputs: features.
    targets: labels.
    weights: 1 for every row where left out.

  Raises:
    UserError: labels or features that are not finite, too few labels, or labels that are all the same.
  """
  inputs, targets = np.asarray(inputs, np.float32), np.asarray(targets, np.float32)
  weights = np.ones(len(targets), np.float32) if weights is None else np.asarray(weights, np.float32)
  name, live = type(predictor).__name__, weights > 0
  if (weights < 0).any() or not np.isfinite(weights).all():
    raise UserError(f"{name} cannot learn from weights that are negative or not finite: they must be 0 or more")
  for what, fine in (("features", np.isfinite(inputs).all((1, 2))), ("labels", np.isfinite(targets))):
    bad = np.flatnonzero(live & ~fine)
    if len(bad):
      raise UserError(f"{name} cannot learn from {what} that are not finite: {len(bad)} of {live.sum()} rows, the first"
                      f" is row {bad[0]}; leave them out or give them weight 0")
  if live.sum() < predictor.least:
    raise UserError(f"{name} needs at least {predictor.least} labelled architectures: {live.sum()} were given")
  if np.ptp(targets[live]) == 0:
    raise UserError(f"{name} cannot learn from labels that are all the same: {live.sum()} rows, all"
                    f" {targets[live][0]:.6g}")
  run = _fit if predictor.jittable else type(predictor).fit
  return run(predictor, key, jnp.asarray(inputs), jnp.asarray(targets), jnp.asarray(weights))
