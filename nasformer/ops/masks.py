"""Functions that must give on a masked array what they give on the array with its dead entries cut off.

`keep` is a boolean vector over an elastic axis, or None where every entry is alive; dead entries come out as zero.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

MASKED_LOGIT = -1e9  # finite: rows without a visible key must have finite gradients


def leading(size: int, alive: Array) -> Bool[Array, "size"]:
  """Keeps the first `alive` of `size` entries: sizes are nested."""
  return jnp.arange(size) < alive


def accumulator(x: Array) -> jnp.dtype:
  """The type in which sums over x are made: float32, or that of x where it is wider."""
  return jnp.promote_types(x.dtype, jnp.float32)


def zero(x: Float[Array, "*B D"], keep: Bool[Array, "D"] | None) -> Float[Array, "*B D"]:
  """Zeroes dead channels of the last axis."""
  return x if keep is None else jnp.where(keep, x, 0)


def layer_norm(x: Float[Array, "*B D"], scale: Float[Array, "D"], bias: Float[Array, "D"],
               keep: Bool[Array, "D"] | None = None, epsilon: float = 1e-6) -> Float[Array, "*B D"]:
  """γ (x - μ) / sqrt(σ² + ε) + β, with μ and σ² over the living channels, at least in float32 (Ba et al. 2016, eq. 4).

  Args:
    x: dead channels must be zero.
    scale: γ.
    bias: β.
    keep: living channels.
    epsilon: added to the variance.
  """
  wide = x.astype(accumulator(x))
  alive = x.shape[-1] if keep is None else keep.sum()
  centred = zero(wide - wide.sum(-1, keepdims=True) / alive, keep)
  variance = jnp.square(centred).sum(-1, keepdims=True) / alive
  return zero(centred * jax.lax.rsqrt(variance + epsilon) * scale + bias, keep).astype(x.dtype)


def softmax(logits: Float[Array, "*B S"], mask: Bool[Array, "*#B S"] | None) -> Float[Array, "*B S"]:
  """exp(s - max) / Σ exp(s - max) over the visible keys; a row that sees none is zero and has finite gradients."""
  if mask is None:
    return jax.nn.softmax(logits, axis=-1)
  logits = jnp.where(mask, logits, MASKED_LOGIT)
  weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))) * mask
  return weights / jnp.maximum(weights.sum(-1, keepdims=True), jnp.finfo(logits.dtype).tiny)


def dropout(key: Array, x: Float[Array, "*B"], rate: Float[Array, ""] | float) -> Float[Array, "*B"]:
  """Zeroes entries with the given probability, in steps of 1/256, and scales up the rest.

  One random byte per entry is four times cheaper than a random float, which on a CPU would cost as much as the matrix
  products around it.
  """
  level = jnp.round(jnp.asarray(rate, jnp.float32) * 256)
  keep = jax.random.bits(key, x.shape, jnp.uint8) >= level
  return jnp.where(keep, x / (1 - level / 256).astype(x.dtype), 0)


def causal(num_queries: int, num_keys: int) -> Bool[Array, "T S"]:
  """Key j is visible to query i when j <= i + (keys - queries): queries are the last of the positions."""
  return jnp.tril(jnp.ones((num_queries, num_keys), bool), num_keys - num_queries)


def visible(key_mask: Bool[Array, "B S"] | None, is_causal: bool, num_queries: int,
            num_keys: int) -> Bool[Array, "B 1 T S"] | Bool[Array, "1 1 T S"] | Bool[Array, "B 1 1 S"] | None:
  """Which key each query may see, ready to be broadcast over heads; None where nothing is hidden."""
  mask = None if key_mask is None else key_mask[:, None, None, :]
  if is_causal:
    triangle = causal(num_queries, num_keys)[None, None]
    mask = triangle if mask is None else mask & triangle
  return mask
