"""Softmax attention (Vaswani et al. 2017, eq. 1)."""

import dataclasses
import math

import jax.numpy as jnp

from nasformer.attention.base import Core, Count
from nasformer.ops import masks


@dataclasses.dataclass(frozen=True)
class Softmax(Core):
  """Softmax attention: o_i = Σ_j softmax_j(q_i · k_j / sqrt(d)) v_j; quadratic in the length."""

  def attend(self, params, q, k, v, context):
    logits = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=masks.accumulator(q))
    logits = (logits + self.bias(params, q, k, context)) / math.sqrt(q.shape[-1])
    mask = masks.visible(context.key_mask, context.causal, q.shape[1], k.shape[1])
    return jnp.einsum("bnts,bsne->btne", masks.softmax(logits, mask).astype(v.dtype), v)

  def bias(self, params, q, k, context):
    """What is added to q · k, before scaling; zero here."""
    return 0.0

  def core_count(self, sizes, queries, keys, causal):
    return Count(0, 2 * sizes.num_heads * queries * keys * sizes.head_dim)
