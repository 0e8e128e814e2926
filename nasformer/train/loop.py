"""The training loop: a generator that runs updates and hands out checked states. It writes nothing."""

from typing import Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Array, PyTree

from nasformer.train.state import TrainState
from nasformer.train.step import StepFn
from nasformer.types import UserError


class NonFiniteLoss(UserError):
  """The loss or its gradient became infinite or NaN; the message names the steps."""


def run(
    state: TrainState, step_fn: StepFn, batches: Iterable[PyTree], num_steps: int, *, key: Array, report_every: int
) -> Iterator[tuple[int, TrainState, dict[str, float]]]:
  """Trains until `state.step` is `num_steps`; yields at every multiple of `report_every` and at the end.

  Metrics stay on the device in between, so that the host never waits for a single step. Only states whose losses and
  gradients were all finite are yielded: what is yielded can be saved. A yielded state lives until the next one is
  asked for, which donates its buffers.

  Args:
    state: where to start; a training resumed from a yielded state repeats the rest bit for bit.
    step_fn: from `make_step`.
    batches: on the device, beginning with the batch of update `state.step + 1`.
    num_steps: length of the whole training in updates.
    key: of the run, the same before and after a resume.
    report_every: updates between two reports.

  Yields:
    (updates made, state, means of the metrics since the last report).

  Raises:
    NonFiniteLoss: a loss or gradient was not finite.
    ValueError: the batches ended early.
  """
  done, pending = int(jax.device_get(state.step)), []
  for step, batch in zip(range(done + 1, num_steps + 1), batches):
    state, metrics = step_fn(state, batch, key)
    pending.append(metrics)
    done = step
    if step % report_every == 0 or step == num_steps:
      yield step, state, _means(pending, step)
      pending = []
  if done < num_steps:
    raise ValueError(f"the batches ended after step {done} of {num_steps}")


def _means(pending: list[dict[str, Array]], last: int) -> dict[str, float]:
  """Fetches the metrics of the steps up to `last` and averages them, if all of them are finite."""
  fetched = jax.device_get(pending)
  table = {name: np.array([metrics[name] for metrics in fetched], np.float64) for name in fetched[0]}
  bad = np.flatnonzero(~np.isfinite(table["loss"]) | ~np.isfinite(table["grad_norm"])) + last - len(fetched) + 1
  if bad.size:
    steps = f"step {bad[0]}" if bad.size == 1 else f"steps {bad[0]} to {bad[-1]}"
    raise NonFiniteLoss(f"the loss or its gradient is not finite at {steps}:"
                        " lower optimizer.peak_lr, lengthen optimizer.warmup_steps or set optimizer.clip_norm")
  return {name: float(values.mean()) for name, values in table.items()}
