"""The encoder-decoder Transformer (Vaswani et al. 2017) as HAT makes it elastic (Wang et al. 2020, 2): a decoder layer may
attend to several of the last encoder layers at once.

Positions are sinusoids of the space's largest width, sines and cosines alternating, of which a narrower network takes the
leading columns: so slicing, retraining and export mean the same network. Whatever a decoder layer does can be done token
by token: `start` and `step` give the logits of `TranslationTransformer`, one position after another, and `prefill` those of
the first positions at once, from where `step` goes on.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nasformer.attention.base import Context, Count, Kind, Sizes, Tensor, Tensors, family
from nasformer.nets import blocks
from nasformer.nets.blocks import Keep, Noise
from nasformer.ops import masks
from nasformer.types import DecoderLayerSpec, LayerSpec, TranslationSpec, UserError

PAD, BOS, EOS = 0, 1, 2  # as in nasformer.data.vocabulary
CROSS = "cross "  # before the kind's name where something travels from one cross-attention to the next

Tokens = Int[Array, "B T"]


class Pair(NamedTuple):
  """What the network takes: token ids, each sentence ended by EOS and filled up with PAD."""

  source: Int[Array, "B S"]
  target: Int[Array, "B T"]


@dataclasses.dataclass(frozen=True)
class Translation:
  """Encoder-decoder Transformer; everything that search does not choose.

  Attributes:
    norm: "post" (Vaswani et al., HAT) or "pre" with a final norm on either side (RankNAS); with "pre", all encoder layers
      that are attended to go through the final norm.
    embeddings: "joint": one table for source, target and output; "decoder": target and output share one; "separate".
    activation: "relu" or "gelu", in the MLP.
    dropout: rate on embeddings and on what every block adds, at the largest width; a narrower network gets proportionally
      less.
    activation_dropout: rate on the hidden activations of the MLP, likewise.
    attention_dropout: rate on attention weights, of kinds that have weights; the same at every width.
    scale_embedding: multiply embeddings by sqrt(width) before positions are added.
    dtype: compute type, "float32" or "bfloat16"; parameters, norms, softmax and logits stay in float32.
    count_length: tokens of source and target at which FLOPs are counted and latency is measured.
    count_vocabulary: count embeddings and the projection to the vocabulary (HAT does not).
  """

  norm: Literal["post", "pre"] = "post"
  embeddings: Literal["joint", "decoder", "separate"] = "joint"
  activation: str = "relu"
  dropout: float = 0.1
  activation_dropout: float = 0.0
  attention_dropout: float = 0.0
  scale_embedding: bool = True
  dtype: str = "float32"
  count_length: int = 30
  count_vocabulary: bool = False

  def __post_init__(self):
    for name, known in (("norm", ("post", "pre")), ("embeddings", ("joint", "decoder", "separate")),
                        ("activation", tuple(blocks.ACTIVATIONS)), ("dtype", ("float32", "bfloat16"))):
      if getattr(self, name) not in known:
        raise UserError(f"net.{name}={getattr(self, name)!r}: it must be one of {', '.join(known)}")
    for name in ("dropout", "activation_dropout", "attention_dropout"):
      if not 0 <= getattr(self, name) <= 0.99:
        raise UserError(f"net.{name}={getattr(self, name)}: it must lie between 0 and 0.99")
    if self.count_length < 1:
      raise UserError(f"net.count_length={self.count_length}: it must be at least 1")


@dataclasses.dataclass(frozen=True)
class TranslationNet:
  """An encoder-decoder Transformer for given vocabularies, of any size: tensors, functions and costs of its parts.

  Attributes:
    config: what search does not choose.
    source_vocab: number of source tokens.
    target_vocab: number of target tokens.
    kinds: attention kinds by name.
    widths: largest model widths of encoder and decoder.
  """

  config: Translation
  source_vocab: int
  target_vocab: int
  kinds: tuple[tuple[str, Kind], ...]
  widths: tuple[int, int]

  def __post_init__(self):
    if self.config.embeddings == "joint" and self.source_vocab != self.target_vocab:
      raise UserError(f"net.embeddings='joint' needs one vocabulary, but there are {self.source_vocab} source and"
                      f" {self.target_vocab} target tokens: set data.joint=True or net.embeddings='decoder'")

  def kind(self, name: str) -> Kind:
    return dict(self.kinds)[name]

  def family(self, name: str) -> str:
    """The first of the kinds that this one shares its tensors with, and what travels up."""
    return family(dict(self.kinds), name)

  @property
  def pre_norm(self) -> bool:
    return self.config.norm == "pre"

  @property
  def length(self) -> int:
    """Tokens at which costs are counted."""
    return self.config.count_length

  @property
  def counting(self) -> str:
    """The rule of counting, in words."""
    length, how = self.config.count_length, "included" if self.config.count_vocabulary else "left out"
    return (f"FLOPs = 2 x multiply-adds of all matrix products for a source and a target of {length} tokens; embeddings and"
            f" the projection to the vocabulary are {how}, of parameters too")

  # -- the ends of the network --------------------------------------------------------------------------------------

  def ends_tensors(self, encoder_dim: int, decoder_dim: int) -> dict[str, Tensor]:
    """Embeddings, output projection and final norms; their widths are named "encoder", "decoder" and "either"."""
    table = lambda size, dim, axis: Tensor((size, dim), (None, axis), jax.nn.initializers.normal(max(self.widths) ** -0.5))
    if self.config.embeddings == "joint":
      tensors = {"embedding": table(self.source_vocab, max(encoder_dim, decoder_dim), "either")}
    else:
      tensors = {"source_embedding": table(self.source_vocab, encoder_dim, "encoder"),
                 "target_embedding": table(self.target_vocab, decoder_dim, "decoder")}
      if self.config.embeddings == "separate":
        tensors["output"] = table(self.target_vocab, decoder_dim, "decoder")
    if self.pre_norm:
      for side, dim in (("encoder", encoder_dim), ("decoder", decoder_dim)):
        tensors |= {f"{side}_{name}": Tensor(tensor.shape, (side,), tensor.init)
                    for name, tensor in blocks.norm_tensors(dim).items()}
    return tensors

  def embed(self, params: Tensors, side: Literal["source", "target"], tokens: Tokens, dim: int,
            keep: Bool[Array, "D"] | None = None, noise: Noise | None = None, first: int | Int[Array, ""] = 0,
            ) -> Float[Array, "B T D"]:
    """Tokens from position `first` on, embedded at this width."""
    dtype, name = jnp.dtype(self.config.dtype), f"{side}_embedding"
    x = params[name if name in params else "embedding"][tokens][..., :dim].astype(dtype)
    if self.config.scale_embedding:
      x = x * jnp.sqrt(dim if keep is None else keep.sum()).astype(dtype)
    x = masks.zero(x + sinusoids(first + jnp.arange(tokens.shape[1]), max(self.widths))[:, :dim].astype(dtype), keep)
    return x if noise is None or noise.branch is None else masks.dropout(noise.key, x, noise.branch)

  def finish(self, params: Tensors, side: Literal["encoder", "decoder"], x: Float[Array, "*B D"],
             keep: Keep | None = None) -> Float[Array, "*B D"]:
    """The final norm of a pre-norm network."""
    if not self.pre_norm:
      return x
    final = {f"norm_{part}": params[f"{side}_norm_{part}"][: x.shape[-1]] for part in ("scale", "bias")}
    return blocks.norm(final, x, keep)

  def logits(self, params: Tensors, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    """Logits over the target vocabulary, in float32."""
    table = next(params[name] for name in ("output", "target_embedding", "embedding") if name in params)
    return jnp.einsum("btd,vd->btv", x, table[:, : x.shape[-1]].astype(x.dtype), preferred_element_type=jnp.float32)

  # -- layers -------------------------------------------------------------------------------------------------------

  def attention_tensors(self, dim: int, layer: LayerSpec | DecoderLayerSpec, causal: bool) -> dict[str, Tensor]:
    """Of self-attention, of the encoder or, causal, of the decoder."""
    sizes = Sizes(dim, layer.num_heads, layer.head_dim, causal=causal)
    return blocks.norm_tensors(dim) | self.kind(layer.kind).params(sizes)

  def cross_tensors(self, dim: int, source_dim: int, layer: DecoderLayerSpec) -> dict[str, Tensor]:
    sizes = Sizes(dim, layer.cross_num_heads, layer.cross_head_dim, source_dim)
    return blocks.norm_tensors(dim) | self.kind(layer.cross_kind).params(sizes)

  def mlp_tensors(self, dim: int, ffn_dim: int) -> dict[str, Tensor]:
    return blocks.mlp_tensors(dim, ffn_dim)

  def attention(self, kind: str, params: Tensors, x: Float[Array, "B T D"], source_mask: Bool[Array, "B T"] | None,
                causal: bool, keep: Keep | None = None, noise: Noise | None = None, carry=None):
    """Self-attention of the encoder (with its mask) or, causal, of the decoder."""
    context, name = Context(source_mask, source_mask, causal=causal, stream=causal), self.family(kind)
    x, mine = blocks.attention_block(self.kind(kind), params, x, context, keep, noise, blocks.found(carry, name),
                                     pre_norm=self.pre_norm)
    return x, blocks.passed(carry, name, mine)

  def cross(self, kind: str, params: Tensors, x: Float[Array, "B T D"], source: Float[Array, "B S Dk"],
            mask: Bool[Array, "B S"], span: int, keep: Keep | None = None, noise: Noise | None = None, carry=None):
    """Attention of the decoder to `span` encoder layers, one after another along the length of the source."""
    context, name = Context(key_mask=mask, stream=True, copies=span), CROSS + self.family(kind)
    x, mine = blocks.attention_block(self.kind(kind), params, x, context, keep, noise, blocks.found(carry, name),
                                     source=source, pre_norm=self.pre_norm)
    return x, blocks.passed(carry, name, mine)

  def mlp(self, params: Tensors, x: Float[Array, "B T D"], keep: Keep | None = None, noise: Noise | None = None):
    return blocks.mlp_block(self.config.activation, params, x, keep, noise, self.pre_norm)

  def noise(self, key: Array | None, layer: int | Array, block: int, share: float | Array) -> Noise | None:
    """Randomness of one block of a layer, at this share of the largest width; layer -1 is the embedding."""
    config = self.config
    if key is None or not (config.dropout or config.activation_dropout or config.attention_dropout):
      return None
    rate = lambda value, scale: jnp.asarray(value * scale, jnp.float32) if value else None
    key = jax.random.fold_in(jax.random.fold_in(key, layer + 1), block)
    return Noise(key, hidden=rate(config.activation_dropout, share), branch=rate(config.dropout, share),
                 weights=rate(config.attention_dropout, 1.0))

  # -- exact costs --------------------------------------------------------------------------------------------------

  def count(self, role: str, length: int | None = None, **sizes) -> Count:
    """Cost of one part for a pair of sentences; roles and sizes are those of `nasformer.space.translation`."""
    length = self.config.count_length if length is None else length
    if role == "ends":
      return self._count_ends(length, **sizes)
    if role.endswith("mlp"):
      return blocks.mlp_count(sizes["embed_dim"], sizes["ffn_dim"], length)
    cross, causal = role == "decoder_cross", role == "decoder_attention"
    layer = Sizes(sizes["embed_dim"], sizes["num_heads"], sizes["head_dim"], sizes["source_dim"] if cross else None, causal)
    return blocks.attention_count(self.kind(sizes["kind"]), layer, length, length * (sizes["span"] if cross else 1), causal)

  def _count_ends(self, length, encoder_embed_dim, decoder_embed_dim):
    tensors = self.ends_tensors(encoder_embed_dim, decoder_embed_dim)
    norms = {name: tensor for name, tensor in tensors.items() if "norm" in name}
    scaling = Count(blocks.num_params(norms), 0, length * (encoder_embed_dim + decoder_embed_dim))
    if not self.config.count_vocabulary:
      return scaling
    vocabulary = blocks.num_params(tensors) - blocks.num_params(norms)
    return scaling + Count(vocabulary, length * decoder_embed_dim * self.target_vocab)

  def count_spec(self, spec: TranslationSpec, length: int | None = None) -> Count:
    """Cost of a whole network for a pair of sentences of so many tokens (`count_length` if None)."""
    price = functools.partial(self.count, length=length)
    total = price("ends", encoder_embed_dim=spec.encoder_embed_dim, decoder_embed_dim=spec.decoder_embed_dim)
    for layer in spec.encoder:
      total += price("encoder_attention", embed_dim=spec.encoder_embed_dim, kind=layer.kind, num_heads=layer.num_heads,
                     head_dim=layer.head_dim)
      total += price("encoder_mlp", embed_dim=spec.encoder_embed_dim, ffn_dim=layer.ffn_dim)
    for layer in spec.decoder:
      total += price("decoder_attention", embed_dim=spec.decoder_embed_dim, kind=layer.kind, num_heads=layer.num_heads,
                     head_dim=layer.head_dim)
      total += price("decoder_cross", embed_dim=spec.decoder_embed_dim, source_dim=spec.encoder_embed_dim,
                     kind=layer.cross_kind, num_heads=layer.cross_num_heads, head_dim=layer.cross_head_dim,
                     span=layer.span)
      total += price("decoder_mlp", embed_dim=spec.decoder_embed_dim, ffn_dim=layer.ffn_dim)
    return total


def sinusoids(positions: Int[Array, "T"], dim: int) -> Float[Array, "T D"]:
  """sin(p / 10000^(2i/D)) in column 2i and the cosine in column 2i + 1 (Vaswani et al. 2017, 3.5)."""
  rates = jnp.asarray(10000.0 ** (-np.arange(0, dim, 2) / dim), jnp.float32)
  angles = positions[:, None].astype(jnp.float32) * rates
  return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(len(positions), -1)[:, :dim]


def shifted(target: Tokens) -> Tokens:
  """What the decoder is given: BOS, and the target but for its last token."""
  return jnp.concatenate([jnp.full_like(target[:, :1], BOS), target[:, :-1]], axis=1)


# -- one small network ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sliced:
  """A network of one spec as functions of its parameters: encoding, the whole decoder, and the decoder step by step."""

  net: TranslationNet
  spec: TranslationSpec

  @functools.cached_property
  def declared(self) -> dict[str, dict[str, Tensor]]:
    """All tensors, by block."""
    net, spec = self.net, self.spec
    encoder, decoder = spec.encoder_embed_dim, spec.decoder_embed_dim
    tensors = {"ends": net.ends_tensors(encoder, decoder)}
    for i, layer in enumerate(spec.encoder):
      tensors[f"encoder_{i}_attention"] = net.attention_tensors(encoder, layer, False)
      tensors[f"encoder_{i}_mlp"] = net.mlp_tensors(encoder, layer.ffn_dim)
    for i, layer in enumerate(spec.decoder):
      tensors[f"decoder_{i}_attention"] = net.attention_tensors(decoder, layer, True)
      tensors[f"decoder_{i}_cross"] = net.cross_tensors(decoder, encoder, layer)
      tensors[f"decoder_{i}_mlp"] = net.mlp_tensors(decoder, layer.ffn_dim)
    return tensors

  def encode(self, params: Any, source: Int[Array, "B S"], key: Array | None = None) -> list[Float[Array, "B S D"]]:
    """Outputs of the last encoder layers, the last first: as many as the decoder attends to."""
    net, spec = self.net, self.spec
    mask, share = source != PAD, spec.encoder_embed_dim / net.widths[0]
    x = net.embed(params["ends"], "source", source, spec.encoder_embed_dim, noise=net.noise(key, -1, 0, share))
    outputs, carry = [], None
    for i, layer in enumerate(spec.encoder):
      x, carry = net.attention(layer.kind, params[f"encoder_{i}_attention"], x, mask, False, None,
                               net.noise(key, i, 0, share), carry)
      x = net.mlp(params[f"encoder_{i}_mlp"], x, noise=net.noise(key, i, 1, share))
      outputs.append(x)
    return [net.finish(params["ends"], "encoder", x) for x in outputs[::-1][: max(layer.span for layer in spec.decoder)]]

  def decode(self, params: Any, memory: Sequence[Float[Array, "B S D"]], mask: Bool[Array, "B S"], target: Tokens,
             key: Array | None = None) -> Float[Array, "B T V"]:
    """Logits of all positions of the target at once."""
    net, spec = self.net, self.spec
    share = spec.decoder_embed_dim / net.widths[1]
    x = net.embed(params["ends"], "target", shifted(target), spec.decoder_embed_dim, noise=net.noise(key, -1, 2, share))
    carry = None
    for i, layer in enumerate(spec.decoder):
      x, carry = net.attention(layer.kind, params[f"decoder_{i}_attention"], x, None, True, None,
                               net.noise(key, i, 2, share), carry)
      source, seen = spanned(memory, mask, layer.span)
      x, carry = net.cross(layer.cross_kind, params[f"decoder_{i}_cross"], x, source, seen, layer.span, None,
                           net.noise(key, i, 3, share), carry)
      x = net.mlp(params[f"decoder_{i}_mlp"], x, noise=net.noise(key, i, 4, share))
    return net.logits(params["ends"], net.finish(params["ends"], "decoder", x))

  def start(self, params: Any, source: Int[Array, "B S"], max_length: int) -> dict[str, Any]:
    """State of decoding these sources into at most `max_length` tokens; every leaf has the batch first."""
    net, spec = self.net, self.spec
    memory, mask, state = self.encode(params, source), source != PAD, {}
    for i, layer in enumerate(spec.decoder):
      state[f"attention_{i}"] = net.kind(layer.kind).begin(
          params[f"decoder_{i}_attention"], len(source), max_length, memory[0].dtype)
      tokens, seen = spanned(memory, mask, layer.span)
      context = Context(key_mask=seen, stream=True, copies=layer.span)
      state[f"cross_{i}"] = net.kind(layer.cross_kind).read(params[f"decoder_{i}_cross"], tokens, context)
    return state

  def prefill(self, params: Any, source: Int[Array, "B S"], tokens: Tokens,
              max_length: int) -> tuple[Float[Array, "B T V"], dict[str, Any]]:
    """The decoder from what it is given first: logits of the token after each of these, and the state with them.

    Args:
      params: of the network.
      source: as for `start`.
      tokens: BOS and those after it, at least one; as many in every row, since all rows go on from one position.
      max_length: as for `start`; these tokens count.
    """
    attend = lambda kind, p, x, state, *found: kind.prefill(p, x, max_length, *found)
    return self._go_on(params, self.start(params, source, max_length), tokens, jnp.int32(0), attend)

  def step(self, params: Any, state: dict[str, Any], tokens: Int[Array, "B"],
           position: Int[Array, ""]) -> tuple[Float[Array, "B V"], dict[str, Any]]:
    """Logits of the token after this one, which is at `position`, and the state with it."""
    attend = lambda kind, p, x, state, *found: kind.step(p, x, state, position, *found)
    logits, state = self._go_on(params, state, tokens[:, None], position, attend)
    return logits[:, 0], state

  def _go_on(self, params, state, tokens, position, attend):
    """The decoder on tokens from `position` on; `attend` is its self-attention, (kind, params, x, state, carry, context)."""
    net, spec = self.net, self.spec
    x = net.embed(params["ends"], "target", tokens, spec.decoder_embed_dim, first=position)
    state, carry = dict(state), None
    for i, layer in enumerate(spec.decoder):
      p, name = params[f"decoder_{i}_attention"], net.family(layer.kind)
      inner = blocks.norm(p, x, None) if net.pre_norm else x
      out, state[f"attention_{i}"], mine = attend(net.kind(layer.kind), p, inner, state[f"attention_{i}"],
                                                  blocks.found(carry, name), Context(residual=x))
      carry = blocks.passed(carry, name, mine)
      x = blocks.add_branch(p, x, out, pre_norm=net.pre_norm)
      p, name = params[f"decoder_{i}_cross"], CROSS + net.family(layer.cross_kind)
      inner = blocks.norm(p, x, None) if net.pre_norm else x
      context = Context(residual=x, stream=True, copies=layer.span)
      out, state[f"cross_{i}"], mine = net.kind(layer.cross_kind).look(p, inner, state[f"cross_{i}"], position,
                                                                       blocks.found(carry, name), context)
      carry = blocks.passed(carry, name, mine)
      x = blocks.add_branch(p, x, out, pre_norm=net.pre_norm)
      x = net.mlp(params[f"decoder_{i}_mlp"], x)
    return net.logits(params["ends"], net.finish(params["ends"], "decoder", x)), state


def spanned(memory: Sequence[Float[Array, "B S D"]], mask: Bool[Array, "B S"],
            span: int) -> tuple[Float[Array, "B spanS D"], Bool[Array, "B spanS"]]:
  """The last `span` encoder outputs one after another, and which of their tokens are real."""
  return jnp.concatenate(memory[:span], axis=1), jnp.tile(mask, (1, span))


class TranslationTransformer(nn.Module):
  """One small network, as derived from a search: `TranslationTransformer(net, spec).apply({"params": params}, pair)`.

  Attributes:
    net: vocabularies and all that search does not choose.
    spec: sizes and attention kinds.
  """

  net: TranslationNet
  spec: TranslationSpec

  @nn.compact
  def __call__(self, pair: Pair, key: Array | None = None) -> Float[Array, "B T V"]:
    """Logits of every target token given the source and the tokens before it; a key switches training noise on."""
    sliced = Sliced(self.net, self.spec)
    params = {name: self.param(name, functools.partial(blocks.initialise, declared=declared))
              for name, declared in sliced.declared.items()}
    memory = sliced.encode(params, pair.source, key)
    return sliced.decode(params, memory, pair.source != PAD, pair.target, key)
