"""From a winner to a small network of its own, with the weights it inherits, checked against the supernet."""

from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from nasformer.types import Params

_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # of the largest logit


def checker(supernet: Any) -> Callable:
  """A function that cuts networks out and proves that each computes what the masked supernet computes.

  It takes (params of the supernet, genes, inputs of a few examples) and gives the small network's parameters.
  """
  inside = jax.jit(supernet.masked)  # one compilation for all networks

  def derive(params: Params, genes: Int[np.ndarray, "G"], inputs: Any) -> Params:
    spec = supernet.space.decode(genes)
    small = supernet.derive(jax.device_get(params), spec)
    alone = jax.jit(supernet.module(spec).apply)({"params": small}, inputs)
    wanted = inside(params, jnp.asarray(genes), inputs)
    scale = max(1.0, float(jnp.abs(wanted).max()))
    difference = float(jnp.abs(alone - wanted).max())
    limit = _TOLERANCE[supernet.net.config.dtype] * scale
    assert difference <= limit, f"the derived network differs from the supernet by {difference}, above {limit}"
    return small

  return derive
