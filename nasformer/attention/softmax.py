"""Softmax attention (Vaswani et al. 2017, eq. 1)."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from nasformer.attention import online
from nasformer.attention.base import Core, Count, Sizes, put
from nasformer.attention.places import Places
from nasformer.ops import masks

LONG = 1024  # keys from which on the softmax is made block by block
KERNEL = "cudnn"


@dataclasses.dataclass(frozen=True)
class Softmax(Core):
  """Softmax attention: o_i = Σ_j softmax_j(q_i · k_j / sqrt(d)) v_j; quadratic in the length.

  Long sequences go block by block, in memory linear in the length, unless weights are dropped: dropout needs all of them.
  Where a GPU brings a kernel for that (cuDNN's, in half precision and without padding), it is used.
  """

  def attend(self, params, q, k, v, context):
    queries, keys = q.shape[1], k.shape[1]
    places = None if context.grid is None else Places(keys - math.prod(context.grid), context.grid)
    if is_long(queries, keys) and context.dropout_key is None:
      plain = type(self).bias is Softmax.bias and context.key_mask is None and (queries == keys or not context.causal)
      if plain and ready(q, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=context.causal, implementation=KERNEL)
      own = self.core_params(Sizes(1, *q.shape[2:], grid=context.grid))
      own = {name: params[name] for name in params if name in own}
      q = q / math.sqrt(q.shape[-1])
      bias = functools.partial(self.bias, places)
      return online.attention(bias, context.causal, context.copies, own, q, k, v, context.key_mask)
    start = keys - queries if context.causal else 0
    logits = self._logits(places, params, q, k, start + np.arange(queries), np.arange(keys) % (keys // context.copies))
    weights = masks.softmax(logits, masks.visible(context.key_mask, context.causal, queries, keys))
    if context.dropout_key is not None:
      weights = masks.dropout(context.dropout_key, weights, context.dropout)
    return jnp.einsum("bnts,bsne->btne", weights.astype(v.dtype), v)

  def _logits(self, places, params, q, k, query_positions, key_positions):
    q = q / math.sqrt(q.shape[-1])
    logits = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=masks.accumulator(q))
    return logits + self.bias(places, params, q, query_positions, key_positions)

  def bias(self, places, params, q, query_positions, key_positions):
    """What is added to the scaled q · k; zero here. The queries it is given are scaled; `places` on a grid, or None."""
    return 0.0

  def start(self, batch, max_length, num_heads, head_dim, value_dim, dtype):
    return {"k": jnp.zeros((batch, max_length, num_heads, head_dim), dtype),
            "v": jnp.zeros((batch, max_length, num_heads, value_dim), dtype),
            "mask": jnp.zeros((batch, max_length), bool)}

  def push(self, params, state, k, v, position):
    new = {"k": k, "v": v, "mask": jnp.ones(k.shape[:2], bool)}
    return {name: put(state[name], new[name], position) for name in state}

  def remember(self, params, k, v, context):
    return {"k": k, "v": v, "mask": jnp.ones(k.shape[:2], bool) if context.key_mask is None else context.key_mask}

  def recall(self, params, state, q, position, copies):
    keys = state["k"].shape[1]
    logits = self._logits(None, params, q, state["k"], position + np.arange(q.shape[1]), np.arange(keys) % (keys // copies))
    weights = masks.softmax(logits, state["mask"][:, None, None, :])
    return jnp.einsum("bnts,bsne->btne", weights.astype(q.dtype), state["v"])

  def core_count(self, sizes, queries, keys, causal):
    if is_long(queries, keys):
      queries, keys = online.padded(queries), online.padded(keys)
    scaled = sizes.num_heads * queries * sizes.head_dim
    return Count(0, 2 * sizes.num_heads * queries * keys * sizes.head_dim, scaled)


def is_long(queries: int, keys: int) -> bool:
  """Whether the softmax of so many is made block by block."""
  return keys >= LONG and queries > 1


def ready(q: jax.Array, v: jax.Array) -> bool:
  """Whether this device's kernel takes queries and values like these."""
  device, width = jax.devices()[0], q.shape[-1]
  capability = getattr(device, "compute_capability", "")  # of NVIDIA's devices a number
  return (device.platform == "gpu" and capability[:1].isdigit() and float(capability) >= 8 and q.dtype == v.dtype
          and q.dtype in (jnp.bfloat16, jnp.float16) and width == v.shape[-1]
          and width % 8 == 0 and width <= 128)
