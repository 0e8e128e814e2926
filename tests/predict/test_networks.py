"""Dense networks and their training against formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nasformer.predict import networks


def test_apply_by_hand():
  layers = [{"weight": jnp.array([[1.0, -1.0]]), "bias": jnp.array([0.0, 1.0])},
            {"weight": jnp.array([[2.0], [3.0]]), "bias": jnp.array([0.5])}]
  # 2 -> relu(2, -1) = (2, 0) -> 4.5; -2 -> relu(-2, 3) = (0, 3) -> 9.5
  np.testing.assert_allclose(networks.apply(layers, jnp.array([[2.0], [-2.0]])), [[4.5], [9.5]])


def test_initial_values_lie_within_their_bound():
  layers = networks.draw(jax.random.key(0), {"one": networks.stack(16, 100, 4), "other": (100, 1)})
  assert jax.tree.map(jnp.shape, layers) == {
      "one": [{"weight": (16, 100), "bias": (100,)}, {"weight": (100, 4), "bias": (4,)}],
      "other": {"weight": (100, 1), "bias": (1,)}}
  for layer, bound in ((layers["one"][0], 0.25), (layers["one"][1], 0.1), (layers["other"], 0.1)):
    assert 0.95 * bound < jnp.abs(layer["weight"]).max() <= bound and jnp.abs(layer["bias"]).max() <= bound


def test_descend_is_gradient_descent():
  """x² / 2 with rate 0.1: x shrinks by 0.9 a step."""
  got = networks.descend(jax.random.key(0), lambda x, key: x**2 / 2, jnp.array(1.0), optax.sgd(0.1), 7)
  np.testing.assert_allclose(got, 0.9**7, rtol=1e-6)
