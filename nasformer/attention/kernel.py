"""Attention with a kernel instead of the softmax: what linear, cosFormer and random-feature kinds share.

o_i = φ(q_i)ᵀ A_i / (φ(q_i) · s_i), with A_i = Σ_j φ(k_j) v_jᵀ and s_i = Σ_j φ(k_j) over the keys that i may see
(Katharopoulos et al. 2020, eq. 4-6, 9). The causal form works in chunks: inside a chunk by the masked square, across
chunks by states at the chunk borders, so that no running sum of outer products is ever stored for every position.
"""

from typing import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nasformer.attention.base import Count
from nasformer.ops import masks

CHUNK = 64  # most positions in a chunk of the causal form


def kernel_attention(
    phi_q: Float[Array, "B T N R"], phi_k: Float[Array, "B S N R"], v: Float[Array, "B S N E"],
    key_mask: Bool[Array, "B S"] | None, causal: bool, normalise: Callable[[Array], Array],
) -> Float[Array, "B T N E"]:
  """Applies the kernel in linear time, at least in float32.

  Args:
    phi_q: features of the queries.
    phi_k: features of the keys.
    v: values.
    key_mask: real keys.
    causal: a query sees keys up to its own position only; with unequal lengths, queries are the last positions.
    normalise: makes a safe divisor of the sum of weights.
  """
  phi_q, phi_k, values = (x.astype(masks.accumulator(x)) for x in (phi_q, phi_k, v))
  real = jnp.ones(phi_k.shape[:2], values.dtype) if key_mask is None else key_mask.astype(values.dtype)
  if key_mask is not None:
    values = values * real[:, :, None, None]
  sums = _causal_sums if causal else _sums
  numerator, denominator = sums(phi_q, phi_k, values, real)
  return (numerator / normalise(denominator)[..., None]).astype(v.dtype)


def kernel_count(num_heads: int, queries: int, keys: int, features: int, head_dim: int, causal: bool) -> Count:
  """Multiply-adds of `kernel_attention` as it is computed, padding of the last chunk included."""
  if not causal:
    return Count(0, num_heads * (queries + keys) * features * (head_dim + 1))
  chunks, size = _chunks(queries)
  inside = chunks * size**2 * (features + head_dim)
  across = chunks * size * 2 * features * (head_dim + 1)
  before = max(keys - queries, 0) * features * (head_dim + 1)
  return Count(0, num_heads * (inside + across + before))


def _chunks(length):
  """How many chunks of what size: as few as `CHUNK` allows, and no larger than they must be."""
  number = -(-length // CHUNK)
  return number, -(-length // number)


def _state(phi_k, v, real):
  """Σ_j φ(k_j) v_jᵀ and Σ_j φ(k_j) over the real keys of the second axis from the right of heads."""
  return jnp.einsum("...snr,...sne->...nre", phi_k, v), jnp.einsum("...snr,...s->...nr", phi_k, real)


def _read(phi_q, state):
  return jnp.einsum("...tnr,...nre->...tne", phi_q, state[0]), jnp.einsum("...tnr,...nr->...tn", phi_q, state[1])


def _sums(phi_q, phi_k, v, real):
  return _read(phi_q, _state(phi_k, v, real))


def _causal_sums(phi_q, phi_k, v, real):
  batch, queries = phi_q.shape[:2]
  chunks, size = _chunks(queries)
  first = phi_k.shape[1] - queries
  if first < 0:  # the first queries come before all keys
    phi_k, v, real = (_pad(x, -first, 0) for x in (phi_k, v, real))

  def cut(x):
    x = x[:, x.shape[1] - queries:]
    return _pad(x, 0, chunks * size - queries).reshape(batch, chunks, size, *x.shape[2:])

  q, k, values, alive = map(cut, (phi_q, phi_k, v, real))
  weights = jnp.einsum("bctnr,bcsnr->bcnts", q, k) * alive[:, :, None, None, :]
  weights = weights * masks.causal(size, size)
  state = _state(k, values, alive)
  if first > 0:
    past = _state(phi_k[:, :first], v[:, :first], real[:, :first])
  else:
    past = tuple(jnp.zeros_like(x[:, 0]) for x in state)
  far, far_sum = _read(q, tuple(map(_running_sum, past, state)))
  near = jnp.einsum("bcnts,bcsne->bctne", weights, values)
  near_sum = jnp.moveaxis(weights.sum(-1), 2, 3)
  join = lambda x: x.reshape(batch, chunks * size, *x.shape[3:])[:, :queries]
  return join(near + far), join(near_sum + far_sum)


def _running_sum(start, chunks):
  """State before each chunk. Never by subtraction: what is added and taken away again leaks by its rounding."""
  return jnp.cumsum(jnp.concatenate([start[:, None], chunks[:, :-1]], axis=1), axis=1)


def _pad(x, left, right):
  return jnp.pad(x, [(0, 0), (left, right)] + [(0, 0)] * (x.ndim - 2))
