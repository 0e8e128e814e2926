"""Sums over layers of products of two sizes: what costs are made of, and a good first guess for quality too."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def products(x: Float[Array, "P T Q"]) -> Float[Array, "P Z"]:
  """Features and products of two: within a token, summed over tokens, and of the first token with the sum of the others.

  Args:
    x: features of about unit size; with more than one token, the first is that of the whole network.
  """
  one, two = np.triu_indices(x.shape[2])
  parts = [x.sum(1), (x[..., one] * x[..., two]).sum(1)]
  if x.shape[1] > 1:
    rest = x[:, 1:].sum(1)
    parts += [x[:, 0], (x[:, 0, :, None] * rest[:, None]).reshape(len(x), -1)]
  return jnp.concatenate(parts, -1)
