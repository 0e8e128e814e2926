"""From a winner to a small network of its own, with the weights it inherits, checked against the supernet."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nasformer.nets.vision import VisionTransformer
from nasformer.supernet.encoder import Supernet
from nasformer.types import Params


def module(supernet: Supernet, spec: Any) -> VisionTransformer:
  """The Linen network of a spec."""
  return VisionTransformer(supernet.net, spec, spec.embed_dim / max(supernet.space.embed_dim))


def derive(supernet: Supernet, params: Params, genes: Int[np.ndarray, "G"], images: Array,
           tolerance: float = 1e-3) -> Params:
  """Cuts the network out, and proves that it computes what the masked supernet computes.

  Args:
    supernet: that it was found in.
    params: of the supernet.
    genes: the winner.
    images: a few examples to compare the outputs on.
    tolerance: largest difference of logits, relative to the largest logit (or 1).

  Raises:
    AssertionError: the outputs differ.
  """
  spec = supernet.space.decode(genes)
  small = jax.jit(lambda p: supernet.derive(p, spec))(params)
  alone = jax.jit(module(supernet, spec).apply)({"params": small}, images)
  inside = jax.jit(supernet.masked)(params, jnp.asarray(genes), images)
  scale = max(1.0, float(jnp.abs(inside).max()))
  difference = float(jnp.abs(alone - inside).max())
  limit = tolerance if supernet.net.config.dtype == "float32" else 0.1
  assert difference <= limit * scale, f"the derived network differs from the supernet by {difference}"
  return small
