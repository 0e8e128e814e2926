"""Softmax attention by blocks of queries and keys, whose memory is linear in both lengths.

The softmax is made while keys pass by, with a running maximum and a running sum (Milakov and Gimelshein 2018, algorithm 3);
the gradient computes the weights again from the logarithm of that sum (Dao et al. 2022, "FlashAttention", algorithm 4). A
bias may be added to the logits: a function of a block of queries, their positions and those of a block of keys, whose
parameters get their gradients too. In the causal form, blocks of later keys are skipped.
"""

import functools
from typing import Any, Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nasformer.attention import chunks
from nasformer.ops import masks

BLOCK = 512  # most queries and most keys in a block
LOWEST = -1e9  # where the running maximum begins; finite, as gradients of rows without a key must be


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def attention(
    bias: Callable[[Any, Array, Array, Array], Any], causal: bool, copies: int, params: Any, q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"], v: Float[Array, "B S N E"], key_mask: Bool[Array, "B S"] | None,
) -> Float[Array, "B T N E"]:
  """Softmax of q · k + bias, times v; differentiable in reverse mode.

  Args:
    bias: (params, queries [B, t, N, H], their positions [t], positions of keys [s]) -> what broadcasts to [B, N, t, s];
      hashable.
    causal: a query sees no later key; queries are the last of the positions.
    copies: as in `Context`.
    params: of the bias.
    q: all queries, scaled.
    k: all keys.
    v: values.
    key_mask: real keys; None where all are.
  """
  return _forward(bias, causal, copies, params, q, k, v, key_mask)[0]


def _forward(bias, causal, copies, params, q, k, v, key_mask):
  queries, sources = _queries(q, k, causal), _sources(k, v, key_mask, copies)
  dtype = masks.accumulator(v)

  def row(x):
    def column(state, source):
      def see(state):
        out, most, total = state
        logits = _logits(bias, causal, params, *x, source)
        new = jnp.maximum(most, logits.max(-1))
        weights, fade = jnp.exp(logits - new[..., None]), jnp.exp(most - new)
        return out * fade[..., None] + _dot("bnts,bnse->bnte", weights, source["v"]), new, total * fade + weights.sum(-1)

      return _unless_later(causal, x[1], source, see, state), None

    shape = x[0].shape[:-1]
    start = jnp.zeros((*shape, v.shape[-1]), dtype), jnp.full(shape, LOWEST, dtype), jnp.zeros(shape, dtype)
    (out, most, total), _ = jax.lax.scan(column, start, sources)
    total = jnp.maximum(total, jnp.finfo(dtype).tiny)
    return (out / total[..., None]).astype(v.dtype), most + jnp.log(total)

  out, log_total = chunks.rows(row, queries)
  out = _join(out, q.shape[1])
  return out, (params, q, k, v, key_mask, out, log_total)


def _backward(bias, causal, copies, residuals, slope):
  params, q, k, v, key_mask, out, log_total = residuals
  dtype = masks.accumulator(v)
  shift = _cut((slope.astype(dtype) * out).sum(-1, keepdims=True))[..., 0]
  queries = _queries(q, k, causal)
  rows = *queries, _cut(slope), log_total, shift

  def column(carry, source):

    def row(x):
      q, at_q, slope, log_total, shift = x

      def see(_):
        logits, pull = jax.vjp(lambda p, q: _logits(bias, causal, p, q, at_q, source), params, q)
        weights = jnp.exp(logits - log_total[..., None])
        d_logits = weights * (_dot("bnte,bnse->bnts", slope, source["v"]) - shift[..., None])
        d_params, d_q = pull(d_logits)
        return d_q, (d_params, _dot("bnth,bnts->bnhs", q, d_logits), _dot("bnte,bnts->bnes", slope, weights))

      nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(see, None))
      return _unless_later(causal, at_q, source, see, nothing)

    d_q, (d_params, d_k, d_v) = chunks.rows_and_sum(row, rows)
    all_params, all_q = carry
    carry = jax.tree.map(jnp.add, all_params, d_params), all_q + d_q
    return carry, (d_k.swapaxes(2, 3), d_v.swapaxes(2, 3))

  start = jax.tree.map(jnp.zeros_like, params), jnp.zeros(queries[0].shape, dtype)
  (d_params, d_q), (d_k, d_v) = jax.lax.scan(column, start, _sources(k, v, key_mask, copies))
  join = lambda new, old: _join(new, old.shape[1]).astype(old.dtype)
  return d_params, join(d_q, q), join(d_k, k), join(d_v, v), None


attention.defvjp(_forward, _backward)


def _logits(bias, causal, params, q, at_q, source):
  """Logits of a block, far below `LOWEST` where a key cannot be seen."""
  logits = _dot("bnth,bnsh->bnts", q, source["k"]) + bias(params, q.swapaxes(1, 2), at_q, source["position"])
  seen = source["real"][:, None, None, :] if "real" in source else None
  if causal:
    past = source["index"] <= at_q[:, None]
    seen = past if seen is None else seen & past
  return logits if seen is None else jnp.where(seen, logits, 2 * LOWEST)


def _dot(axes, x, y):
  """A product of inputs of one type, the narrower of both, summed at least in float32."""
  narrow = min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)
  return jnp.einsum(axes, x.astype(narrow), y.astype(narrow), preferred_element_type=masks.accumulator(x))


def _unless_later(causal, at_q, source, see, state):
  """`see(state)`, or the state as it is where all keys of the block are later than all queries."""
  return jax.lax.cond(source["index"][0] <= at_q[-1], see, lambda state: state, state) if causal else see(state)


def _queries(q, k, causal):
  """Blocks of queries and of their positions."""
  parts = _cut(q)
  number, size = len(parts), parts.shape[3]
  first = k.shape[1] - q.shape[1] if causal else 0
  return parts, first + jnp.arange(number * size).reshape(number, size)


def _sources(k, v, key_mask, copies):
  """Blocks of keys and values, of their indices and positions, and of what keys are real if not all are."""
  parts = {"k": _cut(k), "v": _cut(v)}
  number, size = len(parts["k"]), parts["k"].shape[3]
  parts["index"] = jnp.arange(number * size).reshape(number, size)
  parts["position"] = parts["index"] % (k.shape[1] // copies)
  if key_mask is None and number * size > k.shape[1]:
    key_mask = jnp.ones(k.shape[:2], bool)
  if key_mask is not None:
    parts["real"] = _cut(key_mask[..., None, None])[:, :, 0, :, 0]
  return parts


def blocks(length: int) -> int:
  """In how many blocks positions are cut."""
  return -(-length // BLOCK)


def padded(length: int) -> int:
  """Length with the padding of its last block."""
  number = blocks(length)
  return number * -(-length // number)


def _cut(x):
  """[B, T, N, H] to [number of blocks, B, N, size, H]."""
  number, whole = blocks(x.shape[1]), padded(x.shape[1])
  x = jnp.pad(x, [(0, 0), (0, whole - x.shape[1]), (0, 0), (0, 0)])
  return x.reshape(len(x), number, whole // number, *x.shape[2:]).transpose(1, 0, 3, 2, 4)


def _join(x, length):
  """[number of blocks, B, N, size, H] to [B, T, N, H]."""
  return x.transpose(1, 0, 3, 2, 4).reshape(x.shape[1], -1, x.shape[2], x.shape[4])[:, :length]
