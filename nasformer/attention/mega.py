"""Mega: gated attention with a moving average (Ma et al. 2022, "Mega: Moving Average Equipped Gated Attention").

Every channel first becomes a damped moving average of its past, and of its future where that may be seen (section 3.1-3.2);
one head of queries and keys is made of that, values of the input itself, and gates mix the outcome with what the block was
given (3.3). With a chunk size attention stays inside chunks, linear in the length, and the average carries over (3.5).

The average is a recurrence, computed in chunks: inside a chunk by its matrix, across chunks by states. By Fourier transforms
it is one convolution with what a token adds to every other, whose rounding errors carry a little of every token to all
others, the earlier ones too, and which took eight times as long for 8,192 tokens on two cores.

The width of queries and keys is that of one head unless it is given, the width of values that of all heads. As in the
released code, which `paper_ema` departs from, the average goes through SiLU together with a scaled copy of the input, and is
divided by the root of the number of its states.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nasformer.attention import chunks
from nasformer.attention.base import Context, Count, Kind, Sizes, Tensor, Tensors, project, put
from nasformer.ops import masks
from nasformer.ops.toeplitz import convolve, fast_length, spectrum, toeplitz, transform_count
from nasformer.types import UserError

CHUNK = 64  # most positions in a chunk of the moving average
SMALL = jax.nn.initializers.normal(0.02)
ZEROS = jax.nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class Mega(Kind):
  """Mega: moving averages and gated single-head attention; with `chunk_size`, linear in the length.

  Attributes:
    ema_dim: states of the moving average of a channel.
    query_dim: width of queries and keys; None for that of a head.
    chunk_size: self-attention stays inside chunks of so many positions; None for the whole length.
    max_length: most positions where there are no chunks; longer inputs are refused.
    activation: what logits become: "softmax" (for text), "laplace" (for images) or "relu2".
    average: how the moving average is made: "chunks" or "transforms".
    paper_ema: the moving average alone, as it is printed.
  """

  elastic: ClassVar[tuple[str, ...]] = ("ema_dim", "query_dim", "chunk_size")
  ema_dim: int = 16
  query_dim: int | None = None
  chunk_size: int | None = None
  max_length: int = 1024
  activation: Literal["softmax", "laplace", "relu2"] = "softmax"
  average: Literal["chunks", "transforms"] = "chunks"
  paper_ema: bool = False

  def __post_init__(self):
    if self.activation not in ("softmax", "laplace", "relu2"):
      raise UserError(f"mega.activation={self.activation!r}: it must be 'softmax', 'laplace' or 'relu2'")
    if self.average not in ("chunks", "transforms"):
      raise UserError(f"mega.average={self.average!r}: it must be 'chunks' or 'transforms'")
    for name in ("ema_dim", "query_dim", "chunk_size", "max_length"):
      if getattr(self, name) is not None and getattr(self, name) < 1:
        raise UserError(f"mega.{name}={getattr(self, name)}: it must be at least 1")

  def longest(self, module):
    return self.max_length if module == "cross" or self.chunk_size is None else None

  # -- tensors ------------------------------------------------------------------------------------------------------

  def params(self, sizes):
    embed, source, inner = sizes.embed_dim, sizes.key_dim, (sizes.num_heads, sizes.head_dim)
    origin, heads = "embed" if sizes.source_dim is None else "source", ("heads", "head_dim")
    own, own_axis = self._query_dim(sizes), "head_dim" if self.query_dim is None else None
    narrow = lambda width, axis: Tensor((width, own), (axis, own_axis), SMALL)
    wide = lambda width, axis: Tensor((width, *inner), (axis, *heads), SMALL)
    square = Tensor((embed, embed), ("embed", "embed"), SMALL)
    bias = lambda shape, axes: Tensor(shape, axes, ZEROS)
    small_bias, inner_bias = bias((own,), (own_axis,)), bias(inner, heads)
    tensors = {
        "value": wide(source, origin), "value_bias": inner_bias, "gate": wide(embed, "embed"), "gate_bias": inner_bias,
        "update": square, "update_bias": bias((embed,), ("embed",)),
        "out": Tensor((*inner, embed), (*heads, "embed"), SMALL), "out_bias": bias((embed,), ("embed",)),
        "distance_bias": Tensor((2 * self._reach(sizes.source_dim is not None) - 1,), (None,), SMALL)}
    if sizes.source_dim is not None:
      return tensors | {"query": narrow(embed, "embed"), "query_bias": small_bias, "key": narrow(source, origin),
                        "key_bias": small_bias}
    scale = Tensor((own,), (own_axis,), SMALL)
    ema = lambda init: Tensor((1 if sizes.causal else 2, embed, self.ema_dim), (None, "embed", None), init)
    tensors |= {
        "ema_alpha": ema(jax.nn.initializers.normal(0.2)), "ema_delta": ema(jax.nn.initializers.normal(0.2)),
        "ema_beta": ema(_alternating), "ema_eta": ema(jax.nn.initializers.normal(1.0)),
        "shared": narrow(embed, "embed"), "shared_bias": small_bias, "hidden": square,
        "query_scale": scale, "query_bias": small_bias, "key_scale": scale, "key_bias": small_bias}
    omega = Tensor((embed,), ("embed",), jax.nn.initializers.normal(1.0))
    return tensors | ({} if self.paper_ema else {"skip_scale": omega})

  def _query_dim(self, sizes: Sizes) -> int:
    return self.query_dim or sizes.head_dim

  def _reach(self, cross: bool) -> int:
    """Distances from it on do not occur."""
    return self.max_length if cross or self.chunk_size is None else self.chunk_size

  # -- all tokens at once -------------------------------------------------------------------------------------------

  def __call__(self, params, x, source, context, carry=None):
    if "ema_alpha" not in params:
      memory = self.read(params, source, context)
      out, sees = self._look(params, x, memory, jnp.arange(x.shape[1]), context)
    else:
      early = max(x.shape[1] - source.shape[1], 0)  # queries before the first key
      late = context if context.residual is None else context.replace(residual=context.residual[:, early:])
      out, sees = self._self(params, x[:, early:], source, late)
      out = jnp.pad(out, ((0, 0), (early, 0), (0, 0)))
      sees = None if sees is None else jnp.pad(sees, ((0, 0), (early, 0), (0, 0)))
    for real in (sees, None if context.query_mask is None else context.query_mask[..., None]):
      out = out if real is None else jnp.where(real, out, 0)
    return masks.zero(out, context.keep_embed), carry

  def _self(self, params, x, source, context):
    """Self-attention; also gives which queries see a key. Queries are the last positions of the source."""
    queries, keys = x.shape[1], source.shape[1]
    self._check(keys, self.chunk_size is not None)
    clean = source if context.key_mask is None else jnp.where(context.key_mask[..., None], source, 0)
    mixed, q, k, v = self._parts(params, self._moving_average(params, clean, context.causal), source)
    start, mixed = keys - queries, mixed[:, keys - queries :]
    chunk = keys if self.chunk_size is None else min(self.chunk_size, keys)
    if chunk == keys:
      mask = masks.visible(context.key_mask, context.causal, queries, keys)
      mask = None if mask is None else mask[:, 0]
      bias = toeplitz(_of_distances(params, np.arange(1 - keys, keys)), keys, keys)[start:]
      out = self._attend(q[:, start:], k, v, mask, bias, context)
      sees = None if mask is None else mask.any(-1, keepdims=True)
    else:
      out, sees = (part[:, start:keys] for part in self._chunked(params, q, k, v, chunk, context))
    hidden = mixed @ params["hidden"].astype(x.dtype)
    return self._gated(params, x, mixed, out, hidden, context), sees

  def _chunked(self, params, q, k, v, size, context):
    """Attention inside chunks; also gives which queries see a key."""
    (batch, length), number = k.shape[:2], -(-k.shape[1] // size)

    def cut(x):
      return jnp.pad(x, [(0, 0), (0, number * size - length)] + [(0, 0)] * (x.ndim - 2)).reshape(
          batch * number, size, *x.shape[2:])

    real = jnp.ones((batch, length), bool) if context.key_mask is None else context.key_mask
    mask = masks.visible(cut(real), context.causal, size, size)[:, 0]
    bias = toeplitz(_of_distances(params, np.arange(1 - size, size)), size, size)
    out = self._attend(*map(cut, (q, k, v)), mask, bias, context)
    sees = jnp.broadcast_to(mask.any(-1), out.shape[:2])
    return out.reshape(batch, number * size, *out.shape[2:]), sees.reshape(batch, number * size, 1)

  def _attend(self, q, k, v, mask, bias, context, copies=1):
    """f(q · k / τ + b) v."""
    q = q / math.sqrt(q.shape[-1]) if self.activation == "softmax" else q
    logits = jnp.einsum("bth,bsh->bts", q, k, preferred_element_type=masks.accumulator(q))
    bias = jnp.tile(bias.astype(logits.dtype), copies)
    if self.activation == "softmax":
      weights = masks.softmax(logits + bias, mask)
    else:
      weights = self._unnormalised(logits, bias, mask, copies)
    if context.dropout_key is not None:
      weights = masks.dropout(context.dropout_key, weights, context.dropout)
    return jnp.einsum("bts,bsne->btne", weights.astype(v.dtype), v)

  def _unnormalised(self, logits, bias, mask, copies):
    """Weights that need not add up to one; τ is the number of keys, and several copies of a source are averaged."""
    seen, shown = logits.shape[-1], 1
    if mask is not None:
      shown = jnp.maximum(mask.reshape(*mask.shape[:-1], copies, -1).any(-1).sum(-1, keepdims=True), 1)
      seen = jnp.maximum(mask.sum(-1, keepdims=True), 1) / shown
    logits = logits / seen + bias
    weights = _laplace(logits) if self.activation == "laplace" else jnp.square(jax.nn.relu(logits))
    return weights if mask is None else jnp.where(mask, weights, 0) / shown

  def _gated(self, params, x, mixed, out, hidden, context):
    """u SiLU(hidden + (γ o) U + b) + (1 - u) r, less the residual r that the block adds."""
    residual = x if context.residual is None else context.residual
    gated = jax.nn.silu(project(mixed, params["gate"], params["gate_bias"])) * out
    if context.keep_heads is not None:
      gated = jnp.where(context.keep_heads[:, None], gated, 0)
    update = jax.nn.sigmoid(mixed @ params["update"].astype(x.dtype) + params["update_bias"].astype(x.dtype))
    hidden = hidden + jnp.einsum("btnh,nhd->btd", gated, params["out"].astype(x.dtype)) + params["out_bias"].astype(x.dtype)
    return update * (jax.nn.silu(hidden) - residual)

  def _parts(self, params, average, x):
    """X' of the paper's equations, queries, keys and values."""
    mixed = average
    if not self.paper_ema:
      mixed = jax.nn.silu(average + params["skip_scale"].astype(average.dtype) * x.astype(average.dtype))
    mixed = mixed.astype(x.dtype)
    shared = jax.nn.silu(mixed @ params["shared"].astype(mixed.dtype) + params["shared_bias"].astype(mixed.dtype))
    q, k = (shared * params[f"{role}_scale"].astype(shared.dtype) + params[f"{role}_bias"].astype(shared.dtype)
            for role in ("query", "key"))
    return mixed, q, k, jax.nn.silu(project(x, params["value"], params["value_bias"]))

  def _check(self, length, chunked=False):
    if not chunked and length > self.max_length:
      raise UserError(f"mega.max_length={self.max_length} is shorter than the input of {length} positions")

  # -- the moving average -------------------------------------------------------------------------------------------

  def _coefficients(self, params: Tensors, dtype: Any):
    """p and η, [directions, channels, states], and the logarithm of q: s_t = p x_t + q s_{t-1}, y_t = η · s_t."""
    alpha, delta = (jax.nn.sigmoid(params[f"ema_{name}"].astype(dtype)) for name in ("alpha", "delta"))
    scale = 1.0 if self.paper_ema else self.ema_dim**-0.5
    return alpha * params["ema_beta"].astype(dtype), params["ema_eta"].astype(dtype) * scale, jnp.log1p(-alpha * delta)

  def _moving_average(self, params, x: Float[Array, "B T D"], causal: bool) -> Float[Array, "B T D"]:
    """Of the past, and of the future too unless causal; the token itself then counts twice."""
    x = x.astype(masks.accumulator(x))
    p, eta, log_q = self._coefficients(params, x.dtype)
    directions, (batch, length, width) = 1 if causal else 2, x.shape
    number = 1 if self.average == "transforms" else -(-length // CHUNK)
    size = -(-length // number)
    powers = jnp.exp(log_q[..., None] * jnp.arange(size + 1))  # directions, channels, states, lags from 0
    lags = ((p * eta)[..., None] * powers[..., :-1]).sum(2)
    kernel = jnp.pad(lags[0], ((0, 0), (size - 1, 0)))[:, ::-1]  # by the position of the key less that of the query
    if not causal:
      kernel = kernel + jnp.pad(lags[1], ((0, 0), (size - 1, 0)))
    if self.average == "transforms":
      return convolve(spectrum(kernel, length, length), x.swapaxes(1, 2), length).swapaxes(1, 2)
    x = jnp.pad(x, ((0, 0), (0, number * size - length), (0, 0)))
    x = x.reshape(batch, number, size, width).transpose(3, 0, 1, 2)
    out = jnp.einsum("dts,dbks->dbkt", toeplitz(kernel, size, size), x)
    for way in range(directions if number > 1 else 0):
      back = way == 1
      write, read = p[way][..., None] * powers[way, ..., -2::-1], eta[way][..., None] * powers[way, ..., 1:]
      write, read = (write[..., ::-1], read[..., ::-1]) if back else (write, read)
      sums = jnp.moveaxis(jnp.einsum("dhs,dbks->dbkh", write, x), 2, 0)
      decay = powers[way, :, None, :, -1]
      turn = lambda state, new: (decay * state + new, state)
      _, states = jax.lax.scan(turn, jnp.zeros_like(sums[0]), sums, reverse=back)
      out = out + jnp.einsum("dht,kdbh->dbkt", read, states)
    return out.transpose(1, 2, 3, 0).reshape(batch, number * size, width)[:, :length]

  # -- one token after another --------------------------------------------------------------------------------------

  def begin(self, params, batch, max_length, dtype):
    self._check(max_length, self.chunk_size is not None)
    room = max_length if self.chunk_size is None else min(max_length, self.chunk_size)
    return {"ema": jnp.zeros((batch, *params["ema_beta"].shape[1:]), jnp.promote_types(dtype, jnp.float32)),
            "key": jnp.zeros((batch, room, params["shared"].shape[1]), dtype),
            "value": jnp.zeros((batch, room, *params["value"].shape[1:]), dtype)}

  def take(self, params, x, state, position, carry=None):
    return self._next(params, x, state, position)[0]

  def _next(self, params, x, state, position):
    """The state with these tokens, their X', and queries."""
    (p, eta, log_q), length = (part[0] for part in self._coefficients(params, state["ema"].dtype)), x.shape[1]

    def add(x, lags):
      return jnp.einsum("dhs,bsd->bdh", jnp.exp(log_q[..., None] * lags[0]), x.astype(p.dtype))

    ema = jnp.exp(log_q * length) * state["ema"] + p * chunks.summed(add, (x, jnp.arange(length)[::-1][None]), CHUNK)
    average = (ema * eta).sum(-1)[:, None] if length == 1 else self._moving_average(params, x, True)
    mixed, q, k, v = self._parts(params, average, x)
    state = {"ema": ema, "key": put(state["key"], k, position), "value": put(state["value"], v, position)}
    return state, mixed, q  # in a cache of one chunk, a chunk takes the place of the one before

  def step(self, params, x, state, position, carry=None, context=Context()):
    state, mixed, q = self._next(params, x, state, position)
    places = jnp.arange(state["key"].shape[1])
    slot = position % len(places)
    bias = _of_distances(params, places - slot)
    out = self._attend(q, state["key"], state["value"], (places <= slot)[None, None], bias, context)
    hidden = mixed @ params["hidden"].astype(x.dtype)
    return self._gated(params, x, mixed, out, hidden, context), state, carry

  # -- cross-attention ----------------------------------------------------------------------------------------------

  def read(self, params, source, context):
    self._check(source.shape[1] // context.copies)
    key = jax.nn.silu(source @ params["key"].astype(source.dtype) + params["key_bias"].astype(source.dtype))
    value = jax.nn.silu(project(source, params["value"], params["value_bias"]))
    mask = jnp.ones(source.shape[:2], bool) if context.key_mask is None else context.key_mask
    return {"key": key, "value": value, "mask": mask}

  def look(self, params, x, memory, position, carry=None, context=Context()):
    out, sees = self._look(params, x, memory, position + jnp.arange(x.shape[1]), context)
    return jnp.where(sees, out, 0), memory, carry

  def _look(self, params, x, memory, positions, context):
    self._check(x.shape[1])
    q = jax.nn.silu(x @ params["query"].astype(x.dtype) + params["query_bias"].astype(x.dtype))
    length, mask = memory["mask"].shape[1] // context.copies, memory["mask"][:, None]
    lags = jnp.arange(length) - positions[:, None]
    bias = _of_distances(params, jnp.maximum(lags, 1 - self.max_length))
    out = self._attend(q, memory["key"], memory["value"], mask, bias, context, context.copies)
    return self._gated(params, x, x, out, 0.0, context), mask.any(-1, keepdims=True)

  # -- cost ---------------------------------------------------------------------------------------------------------

  def count(self, sizes, queries, keys, causal=False):
    embed, inner, head = sizes.embed_dim, sizes.num_heads * sizes.head_dim, self._query_dim(sizes)
    queries = min(queries, keys) if sizes.source_dim is None else queries
    weights = sum(math.prod(tensor.shape) for tensor in self.params(sizes).values())
    products = keys * sizes.key_dim * (head + inner) + queries * embed * (2 * inner + embed)
    scaled = queries * (inner + embed)
    if sizes.source_dim is not None:
      return Count(weights, products + queries * embed * head + queries * keys * (head + inner), scaled)
    chunk = keys if self.chunk_size is None else min(self.chunk_size, keys)
    pairs = queries * keys if chunk == keys else -(-keys // chunk) * chunk**2
    number = -(-keys // CHUNK)
    size = -(-keys // number)
    average = number * size * embed * (size + (1 if causal else 2) * 2 * self.ema_dim * (number > 1))
    scaled += keys * (embed * (not self.paper_ema) + 2 * head)
    if self.average == "transforms":  # but for that of the kernel, which all examples share
      length = fast_length(2 * keys - 1)
      average, scaled = 2 * embed * transform_count(length), scaled + 2 * length * embed
    return Count(weights, products + queries * embed**2 + pairs * (head + inner) + average, scaled)


def _of_distances(params, lags):
  """Entries of the table for keys that are so much later than the query. They are in the order 0, -1, 1, -2, 2 and so on: a
  table of shorter reach is the leading part of a longer one."""
  return params["distance_bias"][2 * abs(lags) - (lags < 0)]


def _laplace(logits):
  """0.5 (1 + erf((s - μ) / (σ sqrt 2))) with μ = sqrt(1 / 2) and σ² = 1 / 4π (section 3.4)."""
  return 0.5 * (1 + jax.lax.erf((logits - math.sqrt(0.5)) * math.sqrt(2 * math.pi)))


def _alternating(key, shape):
  """1, -1, 1, ... along the states, with a little noise."""
  return (1.0 - 2 * (jnp.arange(shape[-1]) % 2)) + 0.02 * jax.random.normal(key, shape)
