"""Optimisers and learning-rate schedules by name, and the update that leaves unused parameters alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nasformer.types import Params, UserError

NAMES = ("adamw", "adam", "radam", "sgd", "lamb")
SCHEDULES = ("cosine", "inverse_sqrt", "linear", "constant")


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax optimiser with warm-up, a learning-rate schedule, weight decay and clipping.

  Attributes:
    name: one of `NAMES`.
    schedule: one of `SCHEDULES`, what follows the warm-up.
    peak_lr: learning rate at the end of the warm-up.
    init_lr: learning rate of the first update, when there is a warm-up.
    end_lr: learning rate that "cosine" and "linear" reach at the last update; the others do not read it.
    warmup_steps: updates over which the rate rises linearly from `init_lr` to `peak_lr`.
    b1: decay of the first moment; "sgd" does not read it.
    b2: decay of the second moment; "sgd" does not read it.
    eps: term in the denominator; "sgd" does not read it.
    momentum: of "sgd".
    weight_decay: decoupled from the gradient in "adamw", "radam" and "lamb", added to it in "adam" and "sgd".
    clip_norm: largest global norm of the gradient; 0 does not clip.
  """

  name: str = "adamw"
  schedule: str = "cosine"
  peak_lr: float = 1e-3
  init_lr: float = 1e-6
  end_lr: float = 1e-6
  warmup_steps: int = 0
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  momentum: float = 0.9
  weight_decay: float = 0.05
  clip_norm: float = 0.0

  def __post_init__(self):
    for field, choices in (("name", NAMES), ("schedule", SCHEDULES)):
      if getattr(self, field) not in choices:
        raise UserError(f"optimizer.{field}={getattr(self, field)!r} is unknown (choices: {', '.join(choices)})")
    for field in ("peak_lr", "init_lr", "end_lr", "warmup_steps", "weight_decay", "clip_norm"):
      if getattr(self, field) < 0:
        raise UserError(f"optimizer.{field}={getattr(self, field)} must be 0 or more")

  def schedule_fn(self, num_steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates already made.

    Args:
      num_steps: length of the training in updates, warm-up included.

    Raises:
      UserError: the warm-up fills the whole training.
    """
    if self.warmup_steps >= num_steps:
      raise UserError(f"optimizer.warmup_steps={self.warmup_steps} must be less than the {num_steps} steps of training")
    if not self.warmup_steps:
      return self._after_warmup(num_steps)
    warmup = optax.linear_schedule(self.init_lr, self.peak_lr, self.warmup_steps)
    return optax.join_schedules([warmup, self._after_warmup(num_steps - self.warmup_steps)], [self.warmup_steps])

  def _after_warmup(self, num_steps: int) -> optax.Schedule:
    match self.schedule:
      case "cosine":  # alpha is relative to the peak, which may be 0
        alpha = self.end_lr / self.peak_lr if self.peak_lr else 0.0
        return optax.cosine_decay_schedule(self.peak_lr, num_steps, alpha)
      case "linear":
        return optax.linear_schedule(self.peak_lr, self.end_lr, num_steps)
      case "inverse_sqrt":  # Vaswani et al. 2017, arXiv 1706.03762, section 5.3: peak sqrt(warmup / step)
        warmup = max(self.warmup_steps, 1)
        return lambda step: self.peak_lr * jnp.sqrt(warmup / (warmup + jnp.maximum(step, 0)))
      case "constant":
        return optax.constant_schedule(self.peak_lr)

  def make(self, num_steps: int, decay_mask: Params | None = None) -> optax.GradientTransformation:
    """The optimiser for a training of a given length.

    Args:
      num_steps: length of the training in updates, warm-up included.
      decay_mask: tree like the parameters with a bool in each place: whether weight decay applies there (as a rule, to
        matrices but not to biases and norm scales); None decays everything.
    """
    clip = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
    decay = [optax.add_decayed_weights(self.weight_decay, decay_mask)] if self.weight_decay else []
    rate = [optax.scale_by_learning_rate(self.schedule_fn(num_steps))]
    match self.name:
      case "adamw":
        rule = [optax.scale_by_adam(self.b1, self.b2, self.eps), *decay]
      case "adam":
        rule = [*decay, optax.scale_by_adam(self.b1, self.b2, self.eps)]
      case "radam":
        rule = [optax.scale_by_radam(self.b1, self.b2, self.eps), *decay]
      case "sgd":
        rule = [*decay, optax.trace(self.momentum)]
      case "lamb":
        rule = [optax.scale_by_adam(self.b1, self.b2, self.eps), *decay, optax.scale_by_trust_ratio()]
    return optax.chain(*clip, *rule, *rate)


def freeze_unused(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """Makes `update` take `active=`, and leave the weights and moments of inactive entries exactly as they were.

  In a supernet the gradient of what no drawn member used is zero, but decayed moments and weight decay would move it
  still. Counts shared by all parameters, such as Adam's, advance at every update. Rules that look at whole tensors
  (the trust ratio of "lamb") see inactive entries too.

  Args:
    optimizer: any optimiser whose state optax can map over (`optax.tree.map_params`).

  Returns:
    The same optimiser; `active` is a tree like the parameters of bool arrays that broadcast against them, True where
    a drawn member used the entry, or None when all is used.
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def update(grads: Params, state: Any, params: Params | None = None, *, active: Params | None = None, **extra: Any):
    updates, new_state = optimizer.update(grads, state, params, **extra)
    if active is None:
      return updates, new_state
    updates = jax.tree.map(lambda keep, new: jnp.where(keep, new, 0), active, updates)
    keeps = optax.tree.map_params(
        optimizer, lambda _, keep: keep, new_state, active, transform_non_params=lambda _: True)
    return updates, jax.tree.map(jnp.where, keeps, new_state, state)

  return optax.GradientTransformationExtraArgs(optimizer.init, update)
