"""HAT's MLP has the released shape and settings, and learns in the unit of the targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.predict.hat_mlp import HatMlp
from nasformer.types import UserError


def test_five_linear_maps_of_width_400():
  model = HatMlp(steps=1).fit(jax.random.key(0), jnp.ones((4, 1, 10)), jnp.ones(4), jnp.ones(4))
  assert [layer["weight"].shape for layer in model.layers] == [(10, 400), (400, 400), (400, 400), (400, 400), (400, 1)]
  assert (HatMlp().learning_rate, HatMlp().batch, HatMlp().steps) == (1e-5, 128, 5000)


def test_it_answers_in_milliseconds():
  x = np.random.default_rng(0).uniform(1, 6, (64, 1, 1)).astype(np.float32)
  y = 40 * x[:, 0, 0] + 20
  predictor = HatMlp(32, 2, 3e-3, 32, 500)
  model = jax.jit(predictor.fit)(jax.random.key(0), jnp.asarray(x), jnp.asarray(y), jnp.ones(64))
  assert np.abs(predictor.predict(model, jnp.asarray(x)) - y).mean() < 5  # of 60 to 260


def test_senseless_settings_are_refused():
  with pytest.raises(UserError, match="above 0"):
    HatMlp(width=0)
