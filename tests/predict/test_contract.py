"""What every predictor must fulfil: a row added to the table is covered by these tests at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.ops import stats
from nasformer.predict import TABLE
from nasformer.predict.base import Predictor, checked
from nasformer.registry import lookup
from nasformer.types import UserError, first_line

QUICK = {"hat_mlp": {"width": 32, "num_hidden": 1, "learning_rate": 3e-3, "steps": 400}}  # the released one takes a minute
NUM = 60


@pytest.fixture(params=TABLE)
def name(request):
  if request.param == "lightgbm":
    pytest.importorskip("lightgbm")
  return request.param


def make(name):
  return lookup(TABLE, name)(**(QUICK[name] if name in QUICK else {}))


compiled = jax.jit(lambda predictor, *args: predictor.predict(*args), static_argnums=0)


def predicted(name, inputs, targets, weights=None, of=None):
  """What a predictor that learned from rows says of these or others, as many, so that it compiles once."""
  predictor = make(name)
  model = checked(predictor, jax.random.key(0), inputs, targets, weights)
  predict = compiled if predictor.jittable else type(predictor).predict
  return np.asarray(predict(predictor, model, jnp.asarray(inputs if of is None else of)))


@pytest.fixture(params=["blocks", pytest.param("means", marks=pytest.mark.slow)])
def rows(request, labelled):
  return labelled(NUM, request.param)


def test_a_predictor_is_a_described_frozen_dataclass(name):
  predictor = make(name)
  assert isinstance(predictor, Predictor) and type(predictor).__dataclass_params__.frozen
  assert first_line(type(predictor)) and hash(predictor) == hash(make(name))
  assert isinstance(predictor.jittable, bool) and predictor.least >= 2
  assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(predictor))


def test_it_learns_to_rank(name, rows):
  inputs, targets = rows
  seen = np.arange(NUM) < 40
  found = predicted(name, inputs, np.where(seen, targets, np.nan), np.where(seen, 1.0, 0.0))
  assert found.shape == (NUM,) and np.isfinite(found).all()
  assert stats.kendall_tau(found[40:], targets[40:]) > 0.5


def test_rows_of_weight_0_change_nothing(name, labelled):
  """They hold other networks and labels, then NaN."""
  inputs, targets = labelled(NUM)
  weights = np.where(np.arange(NUM) < 40, 1.0, 0.0).astype(np.float32)
  dead = weights == 0
  wild = np.where(dead[:, None, None], np.nan, inputs), np.where(dead, np.nan, targets)
  other = np.where(dead[:, None, None], inputs[::-1], inputs), np.where(dead, 100 * targets, targets)
  np.testing.assert_array_equal(*(predicted(name, x, y, weights, inputs) for x, y in (wild, other)))


@pytest.mark.parametrize("alone", ["jit", pytest.param("eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "nar" else name for name in TABLE])
def test_vmap_equals_one_by_one(name, labelled, alone):
  predictor = make(name)
  if not predictor.jittable:
    pytest.skip(f"{name} runs on the host")
  inputs, targets = labelled(24, "means")
  if "steps" in {field.name for field in dataclasses.fields(predictor)}:
    predictor = dataclasses.replace(predictor, steps=2)

  def run(key, x, y):
    predicted = predictor.predict(predictor.fit(key, x, y, jnp.ones(len(y))), x)
    return predicted - predicted.mean()  # nothing holds the level of a ranker

  args = jax.random.split(jax.random.key(0), 2), jnp.stack([inputs, inputs[::-1]]), jnp.stack([targets, targets[::-1]])
  together, single = jax.jit(jax.vmap(run))(*args), jax.jit(run) if alone == "jit" else run
  for i in range(2):
    np.testing.assert_allclose(together[i], single(*(arg[i] for arg in args)), 1e-3, 1e-3)


def test_the_same_key_gives_the_same_model(name, labelled):
  one, two = (predicted(name, *labelled(NUM)) for _ in range(2))
  np.testing.assert_array_equal(one, two)


def test_the_unit_of_the_labels_does_not_matter(name, labelled):
  """Labels in thousandths: a regressor answers in thousandths, and the order stays."""
  inputs, targets = labelled(NUM)
  one, two = (predicted(name, inputs, targets * scale) for scale in (1.0, 1024.0))
  assert stats.kendall_tau(two, one) > 0.98


@pytest.mark.parametrize("spoil, told", [
    (lambda x, y, w: (x, np.where(np.arange(len(y)) == 3, np.nan, y), w), "labels that are not finite: 1 of 30 rows.*row 3"),
    (lambda x, y, w: (np.where(np.arange(len(y))[:, None, None] > 27, np.inf, x), y, w), "features that are not finite: 2 of"),
    (lambda x, y, w: (x, np.full_like(y, 2.5), w), "all the same: 30 rows, all 2.5"),
    (lambda x, y, w: (x, y, np.eye(30, dtype=np.float32)[0]), "needs at least .* 1 were given"),
    (lambda x, y, w: (x, y, -w), "weights that are negative"),
])
def test_labels_that_teach_nothing_are_refused(name, labelled, spoil, told):
  with pytest.raises(UserError, match=told):
    checked(make(name), jax.random.key(0), *spoil(*labelled(30), np.ones(30, np.float32)))


def test_a_sole_bad_row_of_weight_0_is_fine(labelled):
  inputs, targets = labelled(30)
  weights = (np.arange(30) != 3).astype(np.float32)
  checked(make("linear"), jax.random.key(0), inputs, np.where(weights > 0, targets, np.nan), weights)
