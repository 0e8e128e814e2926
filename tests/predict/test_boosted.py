"""Boosted trees: an optional package, and weights."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.predict.boosted import Boosted
from nasformer.types import UserError


def test_without_lightgbm_one_sentence_says_so(monkeypatch):
  monkeypatch.setitem(sys.modules, "lightgbm", None)
  with pytest.raises(UserError, match=r"pip install nasformer\[lightgbm\]"):
    Boosted().fit(jax.random.key(0), jnp.ones((4, 1, 1)), jnp.arange(4.0), jnp.ones(4))


def test_a_step_is_found():
  pytest.importorskip("lightgbm")
  x = jnp.linspace(0, 1, 90)[:, None, None]
  y = jnp.where(x[:, 0, 0] > 0.5, 10.0, -10.0)
  model = Boosted().fit(jax.random.key(0), x, y, jnp.ones(90))
  np.testing.assert_allclose(Boosted().predict(model, x), y, atol=0.5)


def test_senseless_settings_are_refused():
  with pytest.raises(UserError, match="num_leaves=1"):
    Boosted(num_leaves=1)
