import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nasformer.train import optimizer as optimizers
from nasformer.train.optimizer import Optimizer
from nasformer.types import UserError

PARAMS = {"w": jax.random.normal(jax.random.key(0), (3, 4)), "b": jax.random.normal(jax.random.key(1), (4,))}


def _grads(seed):
  keys = jax.random.split(jax.random.key(seed))
  return {"w": jax.random.normal(keys[0], (3, 4)), "b": jax.random.normal(keys[1], (4,))}


def _run(optimizer, num_steps, params=PARAMS, grads=_grads, **kwargs):
  state = optimizer.init(params)
  for step in range(num_steps):
    updates, state = optimizer.update(grads(step), state, params, **kwargs)
    params = optax.apply_updates(params, updates)
  return params, state


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_the_cosine_of_the_cifar_supernet():
  rate = Optimizer(schedule="cosine", peak_lr=1e-3, init_lr=1e-6, end_lr=1e-6, warmup_steps=976).schedule_fn(140_000)
  middle = 976 + (140_000 - 976) // 2
  expected = {0: 1e-6, 488: (1e-6 + 1e-3) / 2, 976: 1e-3, middle: (1e-3 + 1e-6) / 2, 140_000: 1e-6}
  np.testing.assert_allclose([rate(step) for step in expected], list(expected.values()), rtol=1e-4)


def test_the_inverse_square_root_of_small_translation_supernets():
  rate = Optimizer(schedule="inverse_sqrt", peak_lr=5e-4, init_lr=1e-7, warmup_steps=10_000).schedule_fn(50_000)
  np.testing.assert_allclose([rate(0), rate(10_000), rate(40_000)], [1e-7, 5e-4, 2.5e-4], rtol=1e-5)


@pytest.mark.parametrize("schedule, end", [("linear", 1e-5), ("constant", 1e-3), ("cosine", 1e-5)])
def test_schedules_without_warmup_start_at_the_peak(schedule, end):
  rate = Optimizer(schedule=schedule, peak_lr=1e-3, end_lr=1e-5).schedule_fn(100)
  np.testing.assert_allclose([rate(0), rate(100)], [1e-3, end], rtol=1e-5)


# -- rules -------------------------------------------------------------------------------------------------------------


def test_adamw_follows_its_formula():
  """Loshchilov and Hutter 2019, algorithm 2, with the schedule as the step size."""
  b1, b2, eps, decay, rate = 0.9, 0.998, 1e-8, 0.05, 0.01
  params, _ = _run(Optimizer(b2=b2, weight_decay=decay, peak_lr=rate, schedule="constant").make(10), 5)
  x, m, v = np.asarray(PARAMS["w"], np.float64), 0.0, 0.0
  for t in range(1, 6):
    g = np.asarray(_grads(t - 1)["w"], np.float64)
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    x = x - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * x)
  np.testing.assert_allclose(params["w"], x, rtol=1e-4, atol=1e-6)


def test_sgd_adds_the_decay_to_the_gradient_and_accumulates_momentum():
  params, _ = _run(Optimizer("sgd", "constant", peak_lr=0.1, momentum=0.5, weight_decay=0.2).make(10), 3)
  x, velocity = np.asarray(PARAMS["b"]), 0.0
  for step in range(3):
    velocity = 0.5 * velocity + np.asarray(_grads(step)["b"]) + 0.2 * x
    x = x - 0.1 * velocity
  np.testing.assert_allclose(params["b"], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_loss_falls_on_linear_regression(name):
  inputs = jax.random.normal(jax.random.key(2), (32, 4))
  targets = inputs @ jnp.arange(1.0, 5.0)
  loss = lambda w: jnp.mean((inputs @ w - targets) ** 2)
  w = jnp.full(4, 0.1)
  rate = 0.02 if name == "sgd" else 0.3
  optimizer = Optimizer(name, peak_lr=rate, warmup_steps=5, weight_decay=1e-4, clip_norm=5.0).make(40)
  params, _ = _descend(optimizer, loss, w, 40)
  assert loss(params) < 0.5 * loss(w)


def _descend(optimizer, loss, params, steps):
  def body(carry, _):
    params, state = carry
    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  return jax.lax.scan(body, (params, optimizer.init(params)), length=steps)[0]


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_decay_mask_spares_the_parameters_it_names(name):
  plain, _ = _run(Optimizer(name, weight_decay=0.0).make(10), 2)
  decayed, _ = _run(Optimizer(name, weight_decay=0.5).make(10, {"w": True, "b": False}), 2)
  np.testing.assert_array_equal(decayed["b"], plain["b"])
  assert not np.allclose(decayed["w"], plain["w"], atol=1e-7)


def test_clipping_bounds_the_global_norm():
  optimizer = Optimizer("sgd", "constant", peak_lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.25).make(10)
  updates, _ = optimizer.update(_grads(0), optimizer.init(PARAMS), PARAMS)
  np.testing.assert_allclose(optax.tree.norm(updates), 0.25, rtol=1e-5)


# -- unused parameters -------------------------------------------------------------------------------------------------


def _moments(optimizer, state):
  """The state's copies of the parameter tree."""
  leaves = jax.tree.leaves(optax.tree.map_params(optimizer, lambda a: a, state, transform_non_params=lambda _: None))
  return [dict(zip(sorted(PARAMS), leaves[i : i + len(PARAMS)])) for i in range(0, len(leaves), len(PARAMS))]


def _counts(optimizer, state):
  return jax.tree.leaves(optax.tree.map_params(optimizer, lambda _: None, state))


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_unused_entries_and_their_moments_stay_bit_for_bit(name):
  plain = Optimizer(name, weight_decay=0.1, clip_norm=1.0).make(20, {"w": True, "b": False})
  optimizer = optimizers.freeze_unused(plain)
  params, state = _run(optimizer, 3)
  active = {"w": jnp.array([[True], [False], [True]]), "b": jnp.array(False)}
  updates, after = optimizer.update(_grads(9), state, params, active=active)
  moved = optax.apply_updates(params, updates)
  for old, new in [(params, moved), *zip(_moments(plain, state), _moments(plain, after))]:
    np.testing.assert_array_equal(new["b"], old["b"])
    np.testing.assert_array_equal(new["w"][1], old["w"][1])
    assert (new["w"][::2] != old["w"][::2]).all()


def test_used_entries_are_updated_as_without_freezing_and_counts_advance():
  plain = Optimizer("adamw").make(20)
  active = {"w": jnp.array([[True], [False], [True]]), "b": jnp.array(True)}
  used, state = _run(optimizers.freeze_unused(plain), 4, active=active)
  expected, expected_state = _run(plain, 4)
  np.testing.assert_array_equal(used["w"][::2], expected["w"][::2])
  np.testing.assert_array_equal(used["b"], expected["b"])
  assert _counts(plain, state) == _counts(plain, expected_state) == [4, 4]


def test_without_active_nothing_is_frozen():
  plain = Optimizer("lamb").make(20)
  for one, two in zip(*(jax.tree.leaves(_run(o, 3)) for o in (plain, optimizers.freeze_unused(plain)))):
    np.testing.assert_array_equal(one, two)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields, message", [
    ({"name": "adam2"}, "optimizer.name='adam2' is unknown .choices: adamw, adam, radam, sgd, lamb"),
    ({"schedule": "step"}, "optimizer.schedule='step' is unknown .choices: cosine"),
    ({"peak_lr": -1.0}, "optimizer.peak_lr=-1.0 must be 0 or more"),
])
def test_unknown_names_and_negative_numbers_are_refused(fields, message):
  with pytest.raises(UserError, match=message):
    Optimizer(**fields)


def test_warmup_longer_than_the_training_is_refused():
  with pytest.raises(UserError, match="warmup_steps=976 must be less than the 50 steps"):
    Optimizer(warmup_steps=976).make(50)
