"""Evolving attention (Wang et al. 2021, arXiv 2102.12895) and its dilated form (EA-DC, arXiv 2212.08330; official code).

The maps of logits travel up: a layer mixes its own, G, with those of the layer of this kind below and convolves the mixture,
over queries and keys as if it were a picture whose channels are the heads,

  A' = (1 - carry_mix) G + carry_mix A_below,   A = conv_mix LeakyReLU(conv(A')) + (1 - conv_mix) A',

then takes the softmax of A and passes A on. The lowest layer has A = G, and a head that was dead below takes G for A'; so does
a key that was not seen below, as where cross-attention looks at fewer encoder layers. What cannot be seen is zero before and
after the convolution, so nothing leaks and padding is what a border is; every encoder layer is a picture of its own. Where
queries come one after another, the convolution sees the query's own and the previous row only. Convolutions start near the
identity.

In the dilated form a convolution of three tokens, twice as far apart in every layer of this kind, is added to what
self-attention gives. The release puts both side by side and gives either a part of the channels; it also masks nothing.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nasformer.attention.base import Can, Context, Count, Tensor, project, put, xavier
from nasformer.attention.softmax import Softmax
from nasformer.ops import masks
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Evolving(Softmax):
  """Evolving attention: maps of logits travel up and are convolved; quadratic in length and heads.

  Attributes:
    carry_mix: share of the maps below.
    conv_mix: share of the convolution.
    slope: of the LeakyReLU for negative logits; 0 is ReLU.
    dilated: add a convolution of tokens whose dilation doubles from layer to layer.
  """

  can = Can(divides=False)
  carry_mix: float = 0.5
  conv_mix: float = 0.5
  slope: float = 0.01
  dilated: bool = False

  def __post_init__(self):
    for name in ("carry_mix", "conv_mix"):
      if not 0 <= getattr(self, name) <= 1:
        raise UserError(f"evolving.{name}={getattr(self, name)}: it must lie between 0 and 1")

  def core_params(self, sizes):
    heads, embed, zeros = sizes.num_heads, sizes.embed_dim, jax.nn.initializers.zeros
    rows = 2 if _in_decoder(sizes) else 3
    tensors = {"maps": Tensor((rows, 3, heads, heads), (None, None, "heads", "heads"), _nearly_identity),
               "maps_bias": Tensor((heads,), ("heads",), zeros)}
    if self._has_tokens(sizes):
      tensors |= {"tokens": Tensor((3, embed, embed), (None, "embed", "embed"), xavier(3 * embed, embed)),
                  "tokens_bias": Tensor((embed,), ("embed",), zeros)}
    return tensors

  def _has_tokens(self, sizes):
    return self.dilated and sizes.source_dim is None

  def first_carry(self, sizes, batch, length, dtype, keys=None):
    shape = batch, sizes.num_heads, length, length if keys is None else keys
    return self._carry(jnp.zeros(shape, jnp.promote_types(dtype, jnp.float32)))

  def _carry(self, maps: Float[Array, "B N T S"], alive: Any = 0, seen: Any = 0, layers: Any = 0) -> dict[str, Array]:
    """Maps, which heads and which keys they belong to as 0 and 1, and how many layers there were."""
    flags = lambda x, shape: jnp.broadcast_to(jnp.asarray(x, maps.dtype), shape)
    return {"maps": maps, "alive": flags(alive, maps.shape[1]), "seen": flags(seen, (len(maps), maps.shape[3])),
            "layers": jnp.asarray(layers, maps.dtype)}

  def _below(self, carry, maps):
    """What comes from below; where nothing does, what says so of maps of this form."""
    return self._carry(jnp.zeros_like(maps)) if carry is None else carry

  # -- all tokens at once -------------------------------------------------------------------------------------------

  def __call__(self, params, x, source, context, carry=None):
    out, after = super().__call__(params, x, source, context, carry)
    if "tokens" not in params:
      return out, after
    tokens = source if context.key_mask is None else jnp.where(context.key_mask[..., None], source, 0)
    tokens = jnp.pad(tokens, ((0, 0), (max(x.shape[1] - tokens.shape[1], 0), 0), (0, 0)))  # queries end where tokens do
    layers = 0 if carry is None else carry["layers"]
    near = _apart(tokens, layers, context.causal)[:, :, tokens.shape[1] - x.shape[1] :]
    near = self._convolve_tokens(params, near)
    if context.query_mask is not None:
      near = jnp.where(context.query_mask[..., None], near, 0)
    return out + masks.zero(near, context.keep_embed), after

  def pass_on(self, params, q, k, v, context, carry):
    logits = _logits(q, k)
    mask = masks.visible(context.key_mask, context.causal, *logits.shape[2:])
    if context.query_mask is not None:
      rows = context.query_mask[:, None, :, None]
      mask = rows if mask is None else mask & rows
    keep = None if context.keep_heads is None else context.keep_heads[:, None, None]
    seen = [part for part in (mask, keep) if part is not None]
    hide = lambda maps: functools.reduce(lambda maps, part: jnp.where(part, maps, 0), seen, maps)
    carry = self._below(None if carry is None or carry["maps"].shape[2] != logits.shape[2] else carry, logits)
    mixed = hide(self._mix(logits, carry))
    ahead = 0 if context.causal else len(params["maps"]) - 2
    framed = jnp.pad(mixed, ((0, 0), (0, 0), (1, ahead), (0, 0)))
    maps = hide(self._evolve(params, mixed, framed, carry, context.copies))
    weights = masks.softmax(maps, None if mask is None else jnp.broadcast_to(mask, (len(maps), 1, *maps.shape[2:])))
    if context.dropout_key is not None:
      weights = masks.dropout(context.dropout_key, weights, context.dropout)
    seen_keys = True if context.key_mask is None else context.key_mask
    return jnp.einsum("bnts,bsne->btne", weights.astype(v.dtype), v), self._after(maps, carry, context.keep_heads, seen_keys)

  def _mix(self, logits, carry):
    """A'."""
    heads, keys = logits.shape[1], logits.shape[3]
    share = self.carry_mix * _fit(carry["alive"], heads, 0)[:, None, None] * _fit(carry["seen"], keys, 1)[:, None, None]
    return (1 - share) * logits + share * _fit(_fit(carry["maps"], heads, 1), keys, 3)

  def _evolve(self, params, mixed, framed, carry, copies=1):
    """A; `framed` are the rows of A' and those around them that the convolution sees, of so many pictures side by side."""
    kernel, length = params["maps"].astype(mixed.dtype)[: framed.shape[2] - mixed.shape[2] + 1], mixed.shape[2]
    apart = framed.reshape(*framed.shape[:3], copies, -1)
    keys, apart = apart.shape[4], jnp.pad(apart, [(0, 0)] * 4 + [(1, 1)])
    taps = [apart[:, :, row : row + length, :, column : column + keys] for row in range(len(kernel)) for column in range(3)]
    new = jnp.einsum("kbits,kio->bots", jnp.stack(taps).reshape(-1, *mixed.shape), kernel.reshape(-1, *kernel.shape[2:]))
    new = jax.nn.leaky_relu(new + params["maps_bias"].astype(mixed.dtype)[:, None, None], self.slope)
    return mixed + self.conv_mix * carry["alive"].max() * (new - mixed)

  def _after(self, maps, carry, keep, seen):
    """What travels on, as large as what came from below or larger."""
    heads, keys = (max(carry["maps"].shape[axis], maps.shape[axis]) for axis in (1, 3))
    alive = _fit(jnp.broadcast_to(True if keep is None else keep, maps.shape[1]), heads, 0)
    seen = _fit(jnp.broadcast_to(seen, (len(maps), maps.shape[3])), keys, 1)
    return self._carry(_fit(_fit(maps, heads, 1), keys, 3), alive, seen, carry["layers"] + 1)

  def _convolve_tokens(self, params, near):
    out = jnp.einsum("kbtd,kde->bte", near, params["tokens"].astype(near.dtype))
    return out + params["tokens_bias"].astype(near.dtype)

  # -- one token after another --------------------------------------------------------------------------------------

  def begin(self, params, batch, max_length, dtype):
    state, (width, heads, _) = super().begin(params, batch, max_length, dtype), params["query"].shape
    state["row"] = jnp.zeros((batch, heads, 1, max_length), jnp.promote_types(dtype, jnp.float32))
    return state | ({"tokens": jnp.zeros((batch, max_length, width), dtype)} if self.dilated else {})

  def take(self, params, x, state, position, carry=None):
    cache = super().take(params, x, {name: state[name] for name in ("k", "v", "mask")}, position)
    below = None if carry is None else carry | {"maps": carry["maps"][:, :, -1:]}
    cache["row"] = self._rows(params, x[:, -1:], cache, below)
    return cache | ({"tokens": put(state["tokens"], x, position)} if self.dilated else {})

  def step(self, params, x, state, position, carry=None, context=Context()):
    before, state = state["row"], self.take(params, x, state, position, carry)
    out, after = self._next(params, state["row"], state, before, carry)
    if self.dilated:
      tokens = state["tokens"]
      away = jnp.arange(2, -1, -1) * _dilation(0 if carry is None else carry["layers"], tokens.shape[1])
      near = jnp.where((away <= position)[:, None], tokens[:, position - away], 0)
      out = out + self._convolve_tokens(params, near.swapaxes(0, 1)[:, :, None].astype(x.dtype))
    return out, state, after

  def _rows(self, params, x, cache, carry):
    """A' of tokens that see all of the cache."""
    logits = _logits(project(x, params["query"], params["query_bias"]), cache["k"])
    return jnp.where(cache["mask"][:, None, None, :], self._mix(logits, self._below(carry, logits)), 0)

  def _next(self, params, mixed, cache, row, carry, copies=1):
    """What the next tokens are given, of their rows of A' and the one before, and what travels on."""
    mask, below = cache["mask"][:, None, None, :], self._below(carry, mixed)
    maps = self._evolve(params, mixed, jnp.concatenate([row, mixed], axis=2), below, copies)
    maps = jnp.where(mask, maps, 0)
    out = jnp.einsum("bnts,bsne->btne", masks.softmax(maps, mask).astype(cache["v"].dtype), cache["v"])
    return self._join(params, out), self._after(maps, below, None, cache["mask"])

  def read(self, params, source, context):
    memory, heads = super().read(params, source, context), params["query"].shape[1]
    return memory | {"row": jnp.zeros((len(source), heads, 1, source.shape[1]), masks.accumulator(source))}

  def look(self, params, x, memory, position, carry=None, context=Context()):
    rows = self._rows(params, x, memory, carry)
    out, carry = self._next(params, rows, memory, memory["row"], carry, context.copies)
    return out, memory | {"row": rows[:, :, -1:]}, carry

  def core_count(self, sizes, queries, keys, causal):
    heads, pairs = sizes.num_heads, queries * keys
    params = sum(math.prod(tensor.shape) for tensor in self.core_params(sizes).values())
    tokens = 3 * queries * sizes.embed_dim**2 if self._has_tokens(sizes) else 0
    products = 2 * heads * pairs * sizes.head_dim + 3 * (2 if causal or _in_decoder(sizes) else 3) * heads**2 * pairs + tokens
    return Count(params, products, heads * queries * sizes.head_dim)


def _in_decoder(sizes):
  """Where queries come one after another."""
  return sizes.causal or sizes.source_dim is not None


def _logits(q, k):
  """G."""
  return jnp.einsum("btnh,bsnh->bnts", q / math.sqrt(q.shape[-1]), k, preferred_element_type=masks.accumulator(q))


def _fit(x, size, axis):
  """The leading entries, or all and zeros."""
  x = jax.lax.slice_in_dim(x, 0, min(size, x.shape[axis]), axis=axis)
  return jnp.pad(x, [(0, size - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])


def _dilation(layers, length):
  """1, 2, 4, ...; as far as there are tokens."""
  return jnp.minimum(2.0 ** jnp.asarray(layers), length).astype(jnp.int32)


def _apart(x, layers, causal):
  """The three tokens that a convolution sees from every position, [3, B, T, D]; zero beyond the ends."""
  length = x.shape[1]
  step, frame = _dilation(layers, length), ((0, 0), (2 * length, length), (0, 0))
  places = (-2, -1, 0) if causal else (-1, 0, 1)
  padded = jnp.pad(x, frame)
  return jnp.stack([jax.lax.dynamic_slice_in_dim(padded, 2 * length + place * step, length, 1) for place in places])


def _nearly_identity(key, shape):
  """Every head's own map, from the middle of the picture, and a little of all."""
  middle = jnp.zeros(shape[:2]).at[1, 1].set(1.0)
  return middle[..., None, None] * jnp.eye(shape[-1]) + 0.02 * jax.random.normal(key, shape)
