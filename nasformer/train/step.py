"""One update: draw keys, differentiate, accumulate, update, average. Compiled once for a training."""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from nasformer.train import optimizer as optimizers
from nasformer.train.state import TrainState
from nasformer.types import Params, UserError


class Keys(NamedTuple):
  """Random keys that one call of the loss consumes.

  Attributes:
    step: the same for all micro-batches of an update; draws the genomes, so that accumulation changes no sample.
    micro: the micro-batch's own; draws dropout, stochastic depth and augmentation.
  """

  step: Array
  micro: Array


# (params, batch, keys) -> (loss, (metrics, active)); `active` is described in `optimizer.freeze_unused`.
LossFn = Callable[[Params, PyTree, Keys], tuple[Float[Array, ""], tuple[dict[str, Array], Params | None]]]
StepFn = Callable[[TrainState, PyTree, Array], tuple[TrainState, dict[str, Array]]]


def make_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    freeze_unused: bool = True,
) -> StepFn:
  """Compiles `step(state, batch, key) -> (state, metrics)`, which donates the buffers of the state it is given.

  The key is that of the run: it is folded with `state.step` inside. Metrics are those of the loss function, averaged
  over the micro-batches, and "loss" and "grad_norm", the latter before clipping.

  Args:
    loss_fn: mean loss over a batch, its metrics (float scalars), and which parameters were used (None: all).
    optimizer: made for the length of this training.
    accumulate: number of micro-batches that a batch is split into, one gradient in memory at a time.
    ema_decay: ema <- d ema + (1 - d) params after every update; 0 keeps no average, as must the state.
    freeze_unused: whether parameters that were not used keep their value and moments, or drift by decay.
  """
  optimizer = optimizers.freeze_unused(optimizer)
  gradient = jax.value_and_grad(loss_fn, has_aux=True)

  def step(state: TrainState, batch: PyTree, key: Array) -> tuple[TrainState, dict[str, Array]]:
    assert (state.ema is not None) == (ema_decay > 0), "the state must hold an average if and only if ema_decay > 0"
    draw_key, micro_key = jax.random.split(jax.random.fold_in(key, state.step))

    def micro(index, rows):
      keys = Keys(draw_key, jax.random.fold_in(micro_key, index))
      (loss, (metrics, active)), grads = gradient(state.params, rows, keys)
      return grads, {**metrics, "loss": loss}, active

    grads, metrics, active = _mean(micro, batch, accumulate)
    updates, opt_state = optimizer.update(
        grads, state.opt_state, state.params, active=active if freeze_unused else None)
    params = optax.apply_updates(state.params, updates)
    ema = optax.incremental_update(params, state.ema, 1 - ema_decay) if ema_decay else state.ema
    return TrainState(state.step + 1, params, opt_state, ema), {**metrics, "grad_norm": optax.tree.norm(grads)}

  return jax.jit(step, donate_argnums=0)


def _mean(micro: Callable, batch: PyTree, accumulate: int) -> tuple[Params, dict[str, Array], Params | None]:
  """Gradients and metrics averaged over micro-batches one after another; active is what any of them used."""
  if accumulate == 1:
    return micro(0, batch)
  batches = jax.tree.map(lambda rows: _split(rows, accumulate), batch)

  def add(total: Any, item: tuple[Array, PyTree]):
    return jax.tree.map(lambda a, b: a | b if a.dtype == bool else a + b, total, micro(*item)), None

  items = jnp.arange(accumulate), batches
  shapes = jax.eval_shape(micro, *jax.tree.map(lambda rows: rows[0], items))
  zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
  (grads, metrics, active), _ = jax.lax.scan(add, zeros, items)
  grads, metrics = jax.tree.map(lambda total: total / accumulate, (grads, metrics))
  return grads, metrics, active


def _split(rows: Array, accumulate: int) -> Array:
  """Deals rows out in turn, so that each device of a sharded batch deals from its own rows."""
  check_rows(len(rows), accumulate)
  return rows.reshape(-1, accumulate, *rows.shape[1:]).swapaxes(0, 1)


def check_rows(rows: int, accumulate: int) -> None:
  """Refuses a batch that cannot be dealt out in equal micro-batches.

  Args:
    rows: examples of the batch.
    accumulate: number of micro-batches.

  Raises:
    UserError: they do not divide.
  """
  if rows % accumulate:
    raise UserError(f"accumulate={accumulate} does not divide the batch of {rows} examples")
