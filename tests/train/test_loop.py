import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nasformer.train import loop
from nasformer.train import state as states
from nasformer.train.step import make_step

KEY = jax.random.key(0)
OPTIMIZER = optax.sgd(0.01)


def _loss(params, batch, keys):
  noise = jax.random.normal(keys.micro, batch.shape)
  return jnp.mean((params - batch - noise) ** 2), ({"input": batch.mean()}, None)


STEP_FN = make_step(_loss, OPTIMIZER)


def _start():
  return states.init(jnp.zeros(3), OPTIMIZER)


def _batches(first=1, bad=()):
  """The batch of step i holds i, or NaN if that step is bad."""
  return (np.full(3, np.nan if step in bad else step, np.float32) for step in itertools.count(first))


def _collect(state, batches, num_steps=10, report_every=4):
  reports = loop.run(state, STEP_FN, batches, num_steps, key=KEY, report_every=report_every)
  return [(step, jax.device_get(state), metrics) for step, state, metrics in reports]


def test_reports_come_at_multiples_and_at_the_end_with_means_of_their_window():
  reports = _collect(_start(), _batches())
  assert [step for step, _, _ in reports] == [4, 8, 10]
  assert [int(state.step) for _, state, _ in reports] == [4, 8, 10]
  assert [metrics["input"] for _, _, metrics in reports] == [2.5, 6.5, 9.5]
  assert all(set(metrics) == {"loss", "input", "grad_norm"} for _, _, metrics in reports)


def test_the_reported_loss_is_the_mean_of_the_steps():
  state, losses = _start(), []
  for batch in itertools.islice(_batches(), 4):
    state, metrics = STEP_FN(state, batch, KEY)
    losses.append(float(metrics["loss"]))
  assert _collect(_start(), _batches(), 4)[0][2]["loss"] == np.mean(losses)


def test_a_training_resumed_from_a_report_repeats_the_rest_bit_for_bit():
  whole = _collect(_start(), _batches())
  rest = _collect(jax.device_put(whole[0][1]), _batches(5))
  assert [(step, metrics) for step, _, metrics in rest] == [(step, metrics) for step, _, metrics in whole[1:]]
  jax.tree.map(np.testing.assert_array_equal, rest[-1][1], whole[-1][1])


def test_a_finished_training_yields_nothing_and_reads_no_batch():
  state = _start().replace(step=jnp.int32(10))
  batches = _batches()
  assert _collect(state, batches) == []
  assert next(batches)[0] == 1


def test_no_batch_is_read_beyond_the_last_step():
  batches = _batches()
  _collect(_start(), batches)
  assert next(batches)[0] == 11


@pytest.mark.parametrize("num_steps, named", [(7, "step 7"), (12, "steps 7 to 8")])
def test_non_finite_steps_are_named_before_their_state_is_handed_out(num_steps, named):
  reports = loop.run(_start(), STEP_FN, _batches(bad=(7,)), num_steps, key=KEY, report_every=4)
  step, state, _ = next(reports)
  assert step == 4 and jnp.isfinite(state.params).all()
  with pytest.raises(loop.NonFiniteLoss, match=f"not finite at {named}: lower optimizer.peak_lr"):
    next(reports)


def test_a_finite_loss_with_a_non_finite_gradient_stops_too():
  root = lambda params, batch, keys: (jnp.sqrt(params).sum() * batch.mean(), ({}, None))
  reports = loop.run(_start(), make_step(root, OPTIMIZER), _batches(), 1, key=KEY, report_every=1)
  with pytest.raises(loop.NonFiniteLoss, match="the loss or its gradient is not finite at step 1"):
    next(reports)


def test_batches_that_end_early_are_an_error():
  with pytest.raises(ValueError, match="the batches ended after step 3 of 10"):
    _collect(_start(), itertools.islice(_batches(), 3))
