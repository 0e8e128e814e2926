"""Luna: attention through a short memory (Ma et al. 2021, "Luna: Linear Unified Nested Attention"; official code).

The memory attends to the tokens ("pack"), and the tokens attend to what it found ("unpack"), both by softmax, so time and
memory are linear in the length. What it found, added to it and normalised, is the memory that the next layer of this kind
meets. Every layer brings slots of its own and adds them to what comes from below: a network whose only slots are the first
layer's is the published one. A layer of fewer slots than those below passes on what the others hold. As the width of heads
is free here, what the memory found is mapped to the model width, which the published layer, where both widths agree, has no
need of.

The causal form has no packing: every token writes to the slots with weights softplus(x P), and a query first reads what
the slots mean to it and then, by softmax over the slots, what they hold. Both are means over the past, so a decoder has a
state of constant size. It is computed in chunks, of which only the states at the borders are kept for the gradient.

Keys are values too unless the layer is untied: then values are projected apart.

In sequences shorter than the memory only as many slots take part as there are tokens, so that batch mates, to whose
length a batch is padded, change nothing.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nasformer.attention import chunks
from nasformer.attention.base import Context, Count, Kind, Tensor, Tensors, project, xavier
from nasformer.ops import masks
from nasformer.types import UserError

CHUNK = 64  # most positions in a chunk of the causal form


@dataclasses.dataclass(frozen=True)
class Luna(Kind):
  """Luna: tokens attend to a short memory that has attended to them, and travels up; linear in the length.

  Attributes:
    memory_length: slots of the memory.
    tied: keys are values too, on both ways; else values are projected apart.
  """

  elastic: ClassVar[tuple[str, ...]] = ("memory_length",)
  memory_length: int = 16
  tied: bool = True

  def __post_init__(self):
    if self.memory_length < 1:
      raise UserError(f"luna.memory_length={self.memory_length}: it must be at least 1")

  def params(self, sizes):
    embed, inner = sizes.embed_dim, (sizes.num_heads, sizes.head_dim)
    heads, origin = ("heads", "head_dim"), "embed" if sizes.source_dim is None else "source"
    both = math.prod(inner)
    inward = lambda width, axis: Tensor((width, *inner), (axis, *heads), xavier(2 * width, 2 * both))  # a gain of sqrt(1/2)
    bias = Tensor(inner, heads, jax.nn.initializers.zeros)
    outward = Tensor((*inner, embed), (*heads, "embed"), xavier(both, embed))
    tensors = {
        "memory": Tensor((self.memory_length, embed), (None, "embed"), _slots),
        "memory_query": inward(embed, "embed"), "memory_query_bias": bias,
        "pack": inward(sizes.key_dim, origin), "pack_bias": bias,
        "query": inward(embed, "embed"), "query_bias": bias,
        "unpack": inward(embed, "embed"), "unpack_bias": bias,
        "out": outward, "out_bias": Tensor((embed,), ("embed",), jax.nn.initializers.zeros)}
    if not self.tied:
      tensors |= {"unpack_value": inward(embed, "embed"), "unpack_value_bias": bias}
    if sizes.causal:
      return tensors
    tensors["memory_out"] = outward
    if not self.tied:
      tensors |= {"pack_value": inward(sizes.key_dim, origin), "pack_value_bias": bias}
    if sizes.source_dim is not None:
      return tensors
    return tensors | {"memory_norm_scale": Tensor((embed,), ("embed",), jax.nn.initializers.ones),
                      "memory_norm_bias": Tensor((embed,), ("embed",), jax.nn.initializers.zeros)}

  def first_carry(self, sizes, batch, length, dtype, keys=None):
    if sizes.causal or sizes.source_dim is not None:
      return None
    return jnp.zeros((batch, self.memory_length, sizes.embed_dim), jnp.promote_types(dtype, jnp.float32))

  # -- all tokens at once -------------------------------------------------------------------------------------------

  def __call__(self, params, x, source, context, carry=None):
    if context.causal:
      out = self._causal(params, x, source, context)
    else:
      memory = self._memory(params, len(x), masks.accumulator(x), context.keep_embed)
      travels = "memory_norm_scale" in params  # that of cross-attention does not
      if travels and carry is not None:
        memory = memory + jnp.pad(carry, ((0, 0), (0, max(self.memory_length - carry.shape[1], 0)), (0, 0)))[
            :, : self.memory_length]
      found = self._pack(params, memory, source, context)
      out = self._unpack(params, x, self._slots(params, found, source, context), context)
      if travels:
        mine = masks.layer_norm(memory + found, params["memory_norm_scale"], params["memory_norm_bias"], context.keep_embed)
        carry = mine if carry is None else jnp.concatenate([mine, carry[:, self.memory_length :]], 1)
    if context.query_mask is not None:
      out = jnp.where(context.query_mask[..., None], out, 0)
    return masks.zero(out, context.keep_embed), carry

  def _memory(self, params, batch, dtype, keep_embed=None) -> Float[Array, "B M D"]:
    """The layer's own slots, times sqrt(width)."""
    memory = masks.zero(params["memory"].astype(dtype), keep_embed)
    width = memory.shape[-1] if keep_embed is None else keep_embed.sum()
    return jnp.broadcast_to(memory * jnp.sqrt(width).astype(dtype), (batch, *memory.shape))

  def _pack(self, params, memory, source, context):
    """What the memory finds in the source, in the model width."""
    q = project(memory, params["memory_query"], params["memory_query_bias"]) / math.sqrt(params["query"].shape[-1])
    k, v = self._both(params, "pack", source)
    mask = None if context.key_mask is None else context.key_mask[:, None, None]
    found = self._softmax(q, k, k if v is None else v, mask, context, 0)  # in the type of the memory, which is not narrowed
    if context.keep_heads is not None:
      found = jnp.where(context.keep_heads[:, None], found, 0)
    found = jnp.einsum("blnh,nhd->bld", found, params["memory_out"].astype(found.dtype))
    return masks.zero(found, context.keep_embed)

  def _slots(self, params, found, source, context):
    """Keys of every slot, their values unless they are the same, and which slots there are."""
    real = jnp.ones(source.shape[:2], bool) if context.key_mask is None else context.key_mask
    tokens = real.reshape(len(real), context.copies, -1).any(1).sum(1, keepdims=True)
    keys, values = self._both(params, "unpack", found)
    memory = {"slots": keys, "mask": jnp.arange(self.memory_length) < tokens}
    return memory if values is None else memory | {"values": values}

  def _both(self, params, way, x):
    """Keys, and values, or None where these are the same."""
    keys = project(x, params[way], params[f"{way}_bias"])
    return keys, None if self.tied else project(x, params[f"{way}_value"], params[f"{way}_value_bias"])

  def _unpack(self, params, x, memory, context):
    q = self._queries(params, x)
    values = memory["slots" if self.tied else "values"]
    out = self._softmax(q, memory["slots"], values, memory["mask"][:, None, None], context, 1)
    return self._join(params, out.astype(x.dtype), context.keep_heads)

  def _softmax(self, q, k, v, mask, context, number):
    logits = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=masks.accumulator(q))
    weights = self._drop(masks.softmax(logits, mask), context, number)
    return jnp.einsum("bnts,bsnh->btnh", weights, v, preferred_element_type=weights.dtype)

  def _drop(self, weights, context, number):
    if context.dropout_key is None:
      return weights
    return masks.dropout(jax.random.fold_in(context.dropout_key, number), weights, context.dropout)

  def _join(self, params, out, keep_heads=None):
    if keep_heads is not None:
      out = jnp.where(keep_heads[:, None], out, 0)
    return jnp.einsum("btnh,nhd->btd", out, params["out"].astype(out.dtype)) + params["out_bias"].astype(out.dtype)

  # -- the causal form ----------------------------------------------------------------------------------------------

  def _causal(self, params, x, source, context):
    """With W_j the weights of token j, K_t = Σ k_j W_jᵀ / t and V_t = Σ W_j v_jᵀ / t: softmax(q_t K_t) V_t."""
    queries, keys, dtype = x.shape[1], source.shape[1], masks.accumulator(x)
    real = jnp.ones((1, keys), dtype) if context.key_mask is None else context.key_mask.astype(dtype)
    memory = self._memory(params, len(x), dtype, context.keep_embed)
    slots = project(memory, params["memory_query"], params["memory_query_bias"])
    q, parts = self._queries(params, x), self._written(params, source, slots)
    q, k, v, w = (None if part is None else part.astype(dtype) for part in (q, *parts))
    w = self._drop(w * real[..., None, None], context, 0)
    seen = jnp.maximum(jnp.cumsum(real, axis=1), 1)
    stay = jnp.ones((len(x), queries, *w.shape[2:]), dtype) if context.dropout_key is not None else None
    stay = None if stay is None else self._drop(stay, context, 1)
    out = _by_chunks(q, k, v, w, jnp.broadcast_to(seen, k.shape[:2]), stay)
    return self._join(params, out.astype(x.dtype), context.keep_heads)

  def _queries(self, params, x):
    return project(x, params["query"], params["query_bias"]) / math.sqrt(params["query"].shape[-1])

  def _written(self, params, source, slots):
    """Keys; values, or None where these are the same; and with what weights every token writes to the slots."""
    dtype, slots = masks.accumulator(source), slots / math.sqrt(slots.shape[-1])
    merging, packing = self._ways(*source.shape[1:], slots.shape[-1])
    if merging < packing:
      merged = jnp.einsum("dnh,blnh->bdnl", params["pack"].astype(dtype), slots).astype(source.dtype)
      shift = jnp.einsum("nh,blnh->bnl", params["pack_bias"].astype(dtype), slots)
      logits = jnp.einsum("bsd,bdnl->bsnl", source, merged, preferred_element_type=dtype) + shift[:, None]
    else:
      packed = project(source, params["pack"], params["pack_bias"])
      logits = jnp.einsum("bsnh,blnh->bsnl", packed, slots, preferred_element_type=dtype)
    return *self._both(params, "unpack", source), jnp.logaddexp2(logits, 0.0)

  def _ways(self, keys, width, head_dim):
    """Multiply-adds of a head to compare tokens with slots: these go through the tokens' projection first, or tokens do."""
    return (self.memory_length * (width * (head_dim + keys) + head_dim), keys * head_dim * (width + self.memory_length))

  # -- one token after another --------------------------------------------------------------------------------------

  def begin(self, params, batch, max_length, dtype):
    wide, (heads, head_dim) = jnp.promote_types(dtype, jnp.float32), params["query"].shape[1:]
    slots = project(self._memory(params, batch, wide), params["memory_query"], params["memory_query_bias"])
    return {"slots": slots, "keys": jnp.zeros((batch, heads, head_dim, self.memory_length), wide),
            "values": jnp.zeros((batch, heads, self.memory_length, head_dim), wide)}

  def take(self, params, x, state, position, carry=None):
    k, v, w = (None if part is None else part.astype(state["keys"].dtype)
               for part in self._written(params, x, state["slots"]))
    return state | {"keys": state["keys"] + jnp.einsum("btnh,btnl->bnhl", k, w),
                    "values": state["values"] + jnp.einsum("btnl,btnh->bnlh", w, k if v is None else v)}

  def step(self, params, x, state, position, carry=None, context=Context()):
    state = self.take(params, x, state, position)
    q = self._queries(params, x)[:, 0].astype(state["keys"].dtype)
    weights = jax.nn.softmax(jnp.einsum("bnh,bnhl->bnl", q / (position + 1), state["keys"]))
    out = jnp.einsum("bnl,bnlh->bnh", weights, state["values"]) / (position + 1)
    return self._join(params, out[:, None].astype(x.dtype)), state, carry

  def read(self, params, source, context):
    memory = self._memory(params, len(source), masks.accumulator(source), context.keep_embed)
    return self._slots(params, self._pack(params, memory, source, context), source, context)

  def look(self, params, x, memory, position, carry=None, context=Context()):
    return self._unpack(params, x, memory, context), memory, carry

  # -- cost ---------------------------------------------------------------------------------------------------------

  def count(self, sizes, queries, keys, causal=False):
    embed, heads, head, slots = sizes.embed_dim, sizes.num_heads, sizes.head_dim, self.memory_length
    inner, scaled = heads * head, heads * head * (queries + slots)
    weights = sum(math.prod(tensor.shape) for tensor in self.params(sizes).values())
    maps = 1 if self.tied else 2  # of what is attended to
    products = inner * (2 * queries * embed + slots * embed)
    if not causal:
      normed = slots * embed * (sizes.source_dim is None)
      products += inner * (maps * keys * sizes.key_dim + (maps + 1) * slots * embed + 2 * slots * (queries + keys))
      return Count(weights, products, scaled + normed)
    number, size = chunks.pieces(max(queries, keys), CHUNK)
    per_position = 2 * size * (head + slots) + (4 * head * slots if number > 1 else 0)
    products += inner * maps * keys * embed + heads * min(self._ways(keys, embed, head))
    return Count(weights, products + heads * number * size * per_position, scaled)


def _slots(key, shape):
  """Normal, plus sinusoids of the slot as if it were a position (Vaswani et al. 2017, 3.5), over sqrt(width)."""
  rates = 10000.0 ** (-np.arange(0, shape[1], 2) / shape[1])
  angles = np.arange(shape[0])[:, None] * rates
  sinusoids = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(shape[0], -1)[:, : shape[1]]
  return (jax.random.normal(key, shape) + sinusoids.astype(np.float32)) / math.sqrt(shape[1])


def _by_chunks(q, k, v, w, seen, stay) -> Float[Array, "B T N H"]:
  """The causal form of all queries, which are the last of the positions.

  Args:
    q: scaled queries.
    k: keys.
    v: values; None where they are the keys.
    w: weights.
    seen: number of keys seen.
    stay: what dropout leaves of the weights of slots, or None.
  """

  def prepare(q, k, v, w, seen, stay):
    q, k, v, w, stay = (None if x is None else jnp.moveaxis(x, 2, 1) for x in (q, k, v, w, stay))
    seen = jnp.maximum(seen, 1)[:, None, :, None]
    # what is divided is the queries: logits may be divided twice by a compiler, for their maximum and for themselves
    return q / seen, k, k if v is None else v, w, seen, stay

  def add(parts):
    _, k, v, w, _, _ = parts
    return jnp.einsum("bnsh,bnsl->bnhl", k, w), jnp.einsum("bnsl,bnsh->bnlh", w, v)

  def read(state, parts):
    q, k, v, w, seen, stay = parts
    past = np.tri(q.shape[2])
    logits = jnp.einsum("bnts,bnsl->bntl", jnp.einsum("bnth,bnsh->bnts", q, k) * past, w)
    if state is not None:
      logits += jnp.einsum("bnth,bnhl->bntl", q, state[0])
    weights = jax.nn.softmax(logits)
    weights = weights if stay is None else weights * stay
    out = jnp.einsum("bnts,bnsh->bnth", jnp.einsum("bntl,bnsl->bnts", weights, w) * past, v)
    if state is not None:
      out += jnp.einsum("bntl,bnlh->bnth", weights, state[1])
    return jnp.moveaxis(out / seen, 1, 2)

  return chunks.running(prepare, add, read, (q, k, v, w, seen, stay), CHUNK)
