"""Attention with a kernel instead of the softmax: what linear, cosFormer and random-feature kinds share.

o_i = φ(q_i)ᵀ A_i / (φ(q_i) · s_i), with A_i = Σ_j φ(k_j) v_jᵀ and s_i = Σ_j φ(k_j) over the keys that i may see
(Katharopoulos et al. 2020, eq. 4-6, 9). The causal form works in chunks: inside a chunk by the masked square, across
chunks by states at the chunk borders, so that no running sum of outer products is ever stored for every position.
"""

import dataclasses
from typing import Any, Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nasformer.attention.base import Context, Core, Count, Tensors
from nasformer.ops import masks

CHUNK = 64  # most positions in a chunk of the causal form


@dataclasses.dataclass(frozen=True)
class KernelCore(Core):
  """A kind of this family; it says what φ is. The decoding state is (A, s): of constant size."""

  def phi(self, params: Tensors, x: Float[Array, "B T N H"], positions: Array, length: Any) -> Float[Array, "B T N R"]:
    """Features of queries or keys at these positions, in sequences of this length (see `lengths`)."""
    raise NotImplementedError

  def num_features(self, head_dim: int) -> int:
    """R."""
    return head_dim

  def divisor(self, total: Float[Array, "B T N"]) -> Float[Array, "B T N"]:
    """A safe divisor made of the sum of weights."""
    raise NotImplementedError

  def lengths(self, context: Context, queries: int, keys: int) -> tuple[Any, Any]:
    """Lengths of both sides that `phi` measures positions by, constants or [B, 1]; None where it does not."""
    return None, None

  def past_only(self, context: Context) -> bool:
    """Whether a query sees earlier keys only."""
    return context.causal

  def attend(self, params, q, k, v, context):
    queries, keys, causal = q.shape[1], k.shape[1], self.past_only(context)
    length_q, length_k = self.lengths(context, queries, keys)
    start = keys - queries if causal else 0
    phi_q = self.phi(params, q, start + jnp.arange(queries), length_q)
    phi_k = self.phi(params, k, jnp.arange(keys) % (keys // context.copies), length_k)
    return kernel_attention(phi_q, phi_k, v, context.key_mask, causal, self.divisor)

  def start(self, batch, max_length, num_heads, head_dim, value_dim, dtype):
    dtype, features = jnp.promote_types(dtype, jnp.float32), self.num_features(head_dim)
    return {"sum": jnp.zeros((batch, num_heads, features, value_dim), dtype),
            "total": jnp.zeros((batch, num_heads, features), dtype)}

  def push(self, params, state, k, v, position):
    _, length = self.lengths(Context(causal=True, stream=True), 1, 1)
    phi = self.phi(params, k, position[None], length)[:, 0]
    return {"sum": state["sum"] + jnp.einsum("bnr,bne->bnre", phi, v[:, 0].astype(phi.dtype)),
            "total": state["total"] + phi}

  def remember(self, params, k, v, context):
    keys = k.shape[1]
    _, length = self.lengths(context, 1, keys)
    phi = self.phi(params, k, jnp.arange(keys) % (keys // context.copies), length)
    mask = jnp.ones(k.shape[:2], phi.dtype) if context.key_mask is None else context.key_mask.astype(phi.dtype)
    total, norm = _state(phi, v.astype(phi.dtype) * mask[..., None, None], mask)
    return {"sum": total, "total": norm}

  def recall(self, params, state, q, position, copies):
    length, _ = self.lengths(Context(stream=True), 1, 1)
    numerator, denominator = _read(self.phi(params, q, position[None], length), (state["sum"], state["total"]))
    return (numerator / self.divisor(denominator)[..., None]).astype(q.dtype)

  def core_count(self, sizes, queries, keys, causal):
    return kernel_count(sizes.num_heads, queries, keys, self.num_features(sizes.head_dim), sizes.head_dim, causal)


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
