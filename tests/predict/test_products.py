"""Sums over tokens of products, by hand."""

import jax.numpy as jnp
import numpy as np

from nasformer.predict.products import products


def test_of_one_token():
  """Features 2 and 3: themselves, then 4, 6, 9."""
  np.testing.assert_array_equal(products(jnp.array([[[2.0, 3.0]]])), [[2, 3, 4, 6, 9]])


def test_of_a_network_and_two_layers():
  """Network (5, 0), layers (0, 2) and (0, 3): sums, products within tokens, the network, network x sum of layers."""
  x = jnp.array([[[5.0, 0.0], [0.0, 2.0], [0.0, 3.0]]])
  np.testing.assert_array_equal(products(x), [[5, 5, 25, 0, 4 + 9, 5, 0, 5 * 0, 5 * 5, 0, 0]])


def test_the_order_of_layers_does_not_matter():
  x = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
  np.testing.assert_allclose(products(jnp.asarray(x[:, [0, 2, 3, 1]])), products(jnp.asarray(x)), rtol=1e-5, atol=1e-5)
