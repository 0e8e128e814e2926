"""What a training carries from step to step: everything that a checkpoint must hold, and no random key."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from nasformer.types import Params


@flax.struct.dataclass
class TrainState:
  """State of a training; randomness follows from the run's key and `step`, so resuming is exact.

  The fields are not typed as arrays because trees of shapes, of shardings and of host copies have this type too.

  Attributes:
    step: number of updates made, int32.
    params: the weights, in float32.
    opt_state: of the optimiser.
    ema: exponential moving average of the weights, or None.
  """

  step: Any
  params: Params
  opt_state: Any
  ema: Params | None


def init(params: Params, optimizer: optax.GradientTransformation, *, ema: bool = False) -> TrainState:
  """State before the first update.

  Args:
    params: initial weights. Training donates the state's buffers, so do not use these arrays afterwards.
    optimizer: that of the training, with or without `freeze_unused`, which has the same state.
    ema: whether to keep an average of the weights; it starts at `params`.
  """
  average = jax.tree.map(jnp.copy, params) if ema else None  # a copy: one buffer cannot be donated twice
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)
