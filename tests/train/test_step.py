import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nasformer.train import state as states
from nasformer.train.optimizer import Optimizer
from nasformer.train.step import make_step
from nasformer.types import UserError

KEY = jax.random.key(7)
BATCHES = [
    {"x": np.random.default_rng(i).normal(size=(8, 4)).astype(np.float32), "y": np.full(8, 0.5 * i, np.float32)}
    for i in range(6)
]


def _params():
  return {"w": jnp.linspace(-1.0, 1.0, 4), "b": jnp.ones(())}


def _loss(params, batch, keys):
  """Linear regression."""
  del keys
  loss = jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)
  return loss, ({"rows": batch["y"].mean()}, None)


def _noisy_loss(params, batch, keys):
  """One of the two halves of `w` is drawn and used, with noise on the input."""
  half = jax.random.bernoulli(keys.step)
  active = {"w": jnp.arange(4) // 2 == half, "b": jnp.array(True)}
  x = batch["x"] + 0.1 * jax.random.normal(keys.micro, batch["x"].shape)
  loss, (metrics, _) = _loss(params | {"w": params["w"] * active["w"]}, batch | {"x": x}, keys)
  return loss, (metrics | {"half": half.astype(jnp.float32)}, active)


def _run(step_fn, state, batches):
  history = []
  for batch in batches:
    state, metrics = step_fn(state, batch, KEY)
    history.append(metrics)
  return state, history


def _assert_equal(one, two, rtol=0.0):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), one, two)


def test_a_step_of_sgd_by_hand():
  state, (metrics,) = _run(make_step(_loss, optax.sgd(0.1)), states.init(_params(), optax.sgd(0.1)), BATCHES[1:2])
  x, y, w = BATCHES[1]["x"], BATCHES[1]["y"], np.linspace(-1, 1, 4)
  error = x @ w + 1 - y
  grad_w, grad_b = 2 * x.T @ error / 8, 2 * error.mean()
  np.testing.assert_allclose(state.params["w"], w - 0.1 * grad_w, rtol=1e-5)
  np.testing.assert_allclose(state.params["b"], 1 - 0.1 * grad_b, rtol=1e-5)
  np.testing.assert_allclose(metrics["loss"], (error**2).mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics["grad_norm"], np.sqrt((grad_w**2).sum() + grad_b**2), rtol=1e-5)
  assert state.step == 1


@pytest.mark.parametrize("ema, accumulate", [(0.0, 1), (0.9, 2)])
def test_a_resumed_training_is_bit_for_bit_the_uninterrupted_one(ema, accumulate):
  optimizer = Optimizer(warmup_steps=2).make(6)
  step_fn = make_step(_noisy_loss, optimizer, ema_decay=ema, accumulate=accumulate)
  start = lambda: states.init(_params(), optimizer, ema=bool(ema))
  whole, history = _run(step_fn, start(), BATCHES)
  saved = jax.device_get(_run(step_fn, start(), BATCHES[:3])[0])
  resumed_fn = make_step(_noisy_loss, optimizer, ema_decay=ema, accumulate=accumulate)
  resumed, rest = _run(resumed_fn, jax.device_put(saved), BATCHES[3:])
  _assert_equal(resumed, whole)
  _assert_equal(rest, history[3:])


def test_accumulation_equals_the_whole_batch():
  optimizer = Optimizer(peak_lr=0.1).make(10)
  results = [_run(make_step(_loss, optimizer, accumulate=n), states.init(_params(), optimizer), BATCHES[:3])
             for n in (1, 4)]
  _assert_equal(*results, rtol=1e-6)


def test_micro_batches_share_the_draw_but_not_the_noise():
  def loss(params, batch, keys):
    draws = {name: jax.random.normal(getattr(keys, name)) for name in keys._fields}
    squares = {f"{name}_squared": draw**2 for name, draw in draws.items()}
    return params["w"].sum() * batch["y"].mean(), (draws | squares, None)

  state = states.init(_params(), optax.sgd(0.1))
  _, history = _run(make_step(loss, optax.sgd(0.1), accumulate=4), state, BATCHES[:2])
  variance = lambda metrics, name: metrics[f"{name}_squared"] - metrics[name] ** 2
  for metrics in history:
    assert abs(variance(metrics, "step")) < 1e-5 and variance(metrics, "micro") > 1e-3
  assert history[0]["step"] != history[1]["step"] and history[0]["micro"] != history[1]["micro"]


def test_average_of_the_weights_follows_its_formula():
  step_fn = make_step(_loss, optax.sgd(0.1), ema_decay=0.75)
  state = states.init(_params(), optax.sgd(0.1), ema=True)
  expected = np.asarray(state.params["w"])
  for batch in BATCHES[:4]:
    state, _ = step_fn(state, batch, KEY)
    expected = 0.75 * expected + 0.25 * np.asarray(state.params["w"])
  np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5)


@pytest.mark.parametrize("ema, decay", [(True, 0.0), (False, 0.9)])
def test_an_average_that_nobody_updates_or_keeps_is_an_error(ema, decay):
  with pytest.raises(AssertionError, match="if and only if ema_decay > 0"):
    make_step(_loss, optax.sgd(0.1), ema_decay=decay)(states.init(_params(), optax.sgd(0.1), ema=ema), BATCHES[0], KEY)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("freeze", [True, False])
def test_what_no_drawn_member_used_moves_only_if_the_configuration_says_so(freeze, accumulate):
  optimizer = Optimizer(peak_lr=0.1, schedule="constant").make(10)
  step_fn = make_step(_noisy_loss, optimizer, freeze_unused=freeze, accumulate=accumulate)
  state = states.init(_params(), optimizer)
  drawn = set()
  for batch in BATCHES:
    before = np.asarray(state.params["w"])
    state, metrics = step_fn(state, batch, KEY)
    half = int(metrics["half"])
    drawn.add(half)
    moved = np.asarray(state.params["w"]) != before
    assert moved[2 * half : 2 * half + 2].all()
    assert moved[2 - 2 * half : 4 - 2 * half].any() != freeze
  assert drawn == {0, 1}


def test_one_compilation_for_all_steps_and_the_given_state_is_consumed():
  step_fn = make_step(_noisy_loss, optax.adam(0.1))
  state = states.init(_params(), optax.adam(0.1))
  given = state.params["w"]
  _run(step_fn, state, BATCHES)
  assert step_fn._cache_size() == 1
  assert given.is_deleted()


def test_a_batch_that_cannot_be_split_is_refused():
  step_fn = make_step(_loss, optax.sgd(0.1), accumulate=3)
  with pytest.raises(UserError, match="accumulate=3 does not divide the batch of 8 examples"):
    step_fn(states.init(_params(), optax.sgd(0.1)), BATCHES[0], KEY)
