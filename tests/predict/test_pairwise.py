"""RankNAS: order from pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.ops import stats
from nasformer.predict.pairwise import Pairwise
from nasformer.types import UserError


def separable(num=20):
  """Labels that rise with the first feature, which is evenly spaced; two others say nothing."""
  rng = np.random.default_rng(0)
  x = rng.uniform(0, 1, (num, 1, 3)).astype(np.float32)
  x[:, 0, 0] = rng.permutation(np.linspace(0, 1, num))
  return jnp.asarray(x), jnp.exp(5 * x[:, 0, 0])


@pytest.mark.parametrize("predictor", [Pairwise(products=False), Pairwise(), Pairwise(width=8, learning_rate=0.03)])
def test_a_separable_order_is_found(predictor):
  """All pairs, and exactly so where the score has the form of the truth."""
  x, y = separable()
  model = jax.jit(predictor.fit)(jax.random.key(0), x, y, jnp.ones(len(y)))
  tau = stats.kendall_tau(np.asarray(predictor.predict(model, x)), np.asarray(y))
  assert tau == 1 if not predictor.products else tau > 0.9


def test_only_the_order_of_the_labels_counts():
  x, y = separable()
  fit = jax.jit(Pairwise(steps=20).fit)
  one, two = (fit(jax.random.key(0), x, targets, jnp.ones(len(y))) for targets in (y, jnp.log(y)))
  np.testing.assert_array_equal(one.members["line"], two.members["line"])


def test_members_differ_and_predict_is_their_mean():
  x, y = separable()
  predictor = Pairwise(num_members=3)
  model = predictor.fit(jax.random.key(0), x, y, jnp.ones(len(y)))
  members = predictor.members(model, x)
  assert members.shape == (3, 20) and float(members.std(0).min()) > 0
  np.testing.assert_allclose(predictor.predict(model, x), members.mean(0), rtol=1e-6)


def test_hidden_units_learn_what_is_not_linear():
  """y = |x|: a linear score knows nothing of it."""
  x = jnp.linspace(-1, 1, 40)[:, None, None]
  y = jnp.abs(x[:, 0, 0])
  taus = []
  for width in (0, 16):
    predictor = Pairwise(products=False, width=width, learning_rate=0.03)
    model = jax.jit(predictor.fit)(jax.random.key(0), x, y, jnp.ones(40))
    taus.append(stats.kendall_tau(np.asarray(predictor.predict(model, x)), np.asarray(y)))
  assert taus[0] < 0.3 and taus[1] > 0.8


def test_senseless_settings_are_refused():
  with pytest.raises(UserError, match="num_members=0"):
    Pairwise(num_members=0)
