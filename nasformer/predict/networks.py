"""Small dense networks in plain JAX, and their training as one scan."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Dense = dict[str, Array]


def dense(key: Array, num_in: int, num_out: int) -> Dense:
  """A linear map, drawn uniformly within ±1/√inputs, its bias too."""
  weight, bias = jax.random.split(key)
  bound = num_in**-0.5
  return {"weight": jax.random.uniform(weight, (num_in, num_out), minval=-bound, maxval=bound),
          "bias": jax.random.uniform(bias, (num_out,), minval=-bound, maxval=bound)}


def stack(key: Array, sizes: tuple[int, ...]) -> list[Dense]:
  """Linear maps between layers of these widths."""
  return [dense(*args) for args in zip(jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:])]


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
  """The parameters after that many steps; `loss` takes them and a key of the step."""

  def step(carry, number):
    params, state = carry
    slopes = jax.grad(loss)(params, jax.random.fold_in(key, number))
    updates, state = optimizer.update(slopes, state, params)
    return (optax.apply_updates(params, updates), state), None

  return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))[0][0]
