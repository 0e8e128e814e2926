"""Small dense networks in plain JAX, and their training as one scan."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

Dense = dict[str, Array]


def stack(*widths: int) -> list[tuple[int, int]]:
  """Inputs and outputs of the linear maps between layers of these widths."""
  return list(zip(widths[:-1], widths[1:]))


def draw(key: Array, sizes: Any) -> Any:
  """Linear maps, drawn uniformly within ±1/√inputs, their biases too: all at once, for every draw is dear to compile.

  Args:
    key: consumed.
    sizes: a tree of (inputs, outputs), without other tuples.
  """
  pairs, tree = jax.tree.flatten(sizes, is_leaf=lambda node: isinstance(node, tuple))
  ends = np.cumsum([(num_in + 1) * num_out for num_in, num_out in pairs])
  parts = jnp.split(jax.random.uniform(key, (int(ends[-1]),), minval=-1), ends[:-1])
  rows = [part.reshape(num_in + 1, num_out) * num_in**-0.5 for part, (num_in, num_out) in zip(parts, pairs)]
  return tree.unflatten([{"weight": row[1:], "bias": row[0]} for row in rows])


def linear(layer: Dense, x: Float[Array, "*P A"]) -> Float[Array, "*P B"]:
  return x @ layer["weight"] + layer["bias"]


def apply(layers: list[Dense], x: Float[Array, "*P A"]) -> Float[Array, "*P B"]:
  """The linear maps with ReLU in between."""
  for layer in layers[:-1]:
    x = jax.nn.relu(linear(layer, x))
  return linear(layers[-1], x)


def descend(
    key: Array, loss: Callable[[Any, Array], Float[Array, ""]], params: Any, optimizer: optax.GradientTransformation,
    steps: int,
) -> Any:
  """The parameters after that many steps; `loss` takes them and a key of the step, the optimizer sees them as one vector."""
  flat, shaped = ravel_pytree(params)

  def step(carry, number):
    flat, state = carry
    slopes = jax.grad(lambda flat: loss(shaped(flat), jax.random.fold_in(key, number)))(flat)
    updates, state = optimizer.update(slopes, state, flat)
    return (optax.apply_updates(flat, updates), state), None

  return shaped(jax.lax.scan(step, (flat, optimizer.init(flat)), jnp.arange(steps))[0][0])
