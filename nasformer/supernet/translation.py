"""The supernet of a translation space, in the three forms of `nasformer.supernet.branching`; all agree with the small network
that `derive` cuts out.

The number of heads divides a fixed width (HAT 2.2), so it is a choice of shape, not of size: tensors are stored for the most
heads and brought into shape, and a block has a branch for every number.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nasformer.attention.base import Sizes, Tensor
from nasformer.nets import blocks
from nasformer.nets.blocks import Keep
from nasformer.nets.translation import CROSS, PAD, Pair, Sliced, TranslationNet, TranslationTransformer, shifted
from nasformer.ops import masks
from nasformer.space.translation import Reading, Translation
from nasformer.supernet import slicing
from nasformer.supernet.branching import Block, Branch, Exact, Masked, Shared
from nasformer.types import DecoderLayerSpec, LayerSpec, TranslationSpec

Logits = Float[Array, "B T V"]


@dataclasses.dataclass(frozen=True)
class TranslationSupernet:
  """All networks of a translation space in one set of parameters: {"ends", "encoder", "decoder"}, layers stacked.

  Attributes:
    space: what can be chosen.
    net: what cannot.
    share_projections: projections that the attention kinds of a module share, as they share its norm: "none", "values" (and
      outputs) or "all".
  """

  space: Translation
  net: TranslationNet
  share_projections: Literal["none", "values", "all"] = "none"

  def module(self, spec: TranslationSpec) -> TranslationTransformer:
    """The small network of a spec."""
    return TranslationTransformer(self.net, spec)

  # -- parameters ---------------------------------------------------------------------------------------------------

  @functools.cached_property
  def declared(self) -> dict[str, dict[str, Tensor]]:
    """Every stored tensor at its largest size; those of "encoder" and "decoder" are stored once per layer."""
    space = self.space
    encoder, decoder = max(space.encoder_embed_dim), max(space.decoder_embed_dim)
    mlps = {"encoder": self._mlp_cut(encoder, max(space.encoder_ffn_dim)),
            "decoder": self._mlp_cut(decoder, max(space.decoder_ffn_dim))}
    every = lambda side: [cut for module in self._attention_cuts(side) for cuts in module for cut in cuts]
    stored = {side: slicing.union([*every(side), mlp]) for side, mlp in mlps.items()}
    return {"ends": self.net.ends_tensors(encoder, decoder), **stored}

  def _attention_cuts(self, side: str) -> list[list[list[slicing.Cut]]]:
    """Of every attention module of a layer, by kind, for every number of heads, in the largest network."""
    space = self.space
    encoder, decoder = max(space.encoder_embed_dim), max(space.decoder_embed_dim)
    every = lambda cut, kinds, heads, *dims: [[cut(*dims, kind, number) for number in heads] for kind in kinds]
    if side == "encoder":
      return [every(self._attention_cut, space.encoder_kinds, space.encoder_heads, side, encoder)]
    return [every(self._attention_cut, space.decoder_kinds, space.decoder_heads, side, decoder),
            every(self._cross_cut, space.cross_kinds, space.cross_heads, decoder, encoder)]

  def init(self, key: Array) -> dict:
    ends, encoder, decoder = jax.random.split(key, 3)
    stack = lambda key, side: jax.vmap(lambda k: blocks.initialise(k, self.declared[side]))(
        jax.random.split(key, max(getattr(self.space, f"{side}_depth"))))
    return {"ends": blocks.initialise(ends, self.declared["ends"]), "encoder": stack(encoder, "encoder"),
            "decoder": stack(decoder, "decoder")}

  def used(self, genes: Int[Array, "G"]) -> dict:
    """Which entries of each parameter this architecture uses: booleans that broadcast to the parameters."""
    space, reading = self.space, self.space.read(genes)
    keep = self._keep(reading)
    width = {"encoder": keep["encoder"].embed, "decoder": keep["decoder"].embed}
    most = max(len(mask) for mask in width.values())
    either = functools.reduce(jnp.logical_or, (jnp.pad(mask, (0, most - len(mask))) for mask in width.values()))
    ends = {name: slicing.used(tensor, width | {"either": either}) for name, tensor in self.declared["ends"].items()}

    def of_layers(side):
      rows = getattr(reading, side)
      on = jnp.arange(len(rows["ffn_dim"])) < getattr(reading, f"{side}_depth")
      users = {name: mine for module in self._attention_cuts(side) for name, mine in slicing.users(module).items()}

      def of_tensor(name, tensor):
        module = name.partition(".")[0]
        alive = {"embed": width[side], "ffn": keep[side].ffn, "source": width["encoder"]}
        if module not in ("attention", "cross"):
          return slicing.used(tensor, alive, on)
        gene, heads = ("kind", "num_heads") if module == "attention" else ("cross_kind", "cross_num_heads")
        options = space.fields[side][heads]
        number = jnp.asarray(options)[rows[heads]]
        alive["heads"] = jax.vmap(lambda n: masks.leading(max(options), n))(number)
        alive["head_dim"] = jax.vmap(lambda n: masks.leading(space.qkv_dim // min(options), n))(space.qkv_dim // number)
        return slicing.used_by(users[name], tensor, alive, on, rows[gene])

      return {name: of_tensor(name, tensor) for name, tensor in self.declared[side].items()}

    return {"ends": ends, "encoder": of_layers("encoder"), "decoder": of_layers("decoder")}

  def derive(self, params: dict, spec: TranslationSpec) -> dict:
    """Parameters of the small network, for `nets.translation.TranslationTransformer`."""
    encoder, decoder = spec.encoder_embed_dim, spec.decoder_embed_dim
    small = {"ends": slicing.plain(self.net.ends_tensors(encoder, decoder)).take(params["ends"])}
    for i, layer in enumerate(spec.encoder):
      cut = self._attention_cut("encoder", encoder, layer.kind, layer.num_heads)
      small[f"encoder_{i}_attention"] = cut.take(params["encoder"], i)
      small[f"encoder_{i}_mlp"] = self._mlp_cut(encoder, layer.ffn_dim).take(params["encoder"], i)
    for i, layer in enumerate(spec.decoder):
      cut = self._attention_cut("decoder", decoder, layer.kind, layer.num_heads)
      small[f"decoder_{i}_attention"] = cut.take(params["decoder"], i)
      cut = self._cross_cut(decoder, encoder, layer.cross_kind, layer.cross_num_heads)
      small[f"decoder_{i}_cross"] = cut.take(params["decoder"], i)
      small[f"decoder_{i}_mlp"] = self._mlp_cut(decoder, layer.ffn_dim).take(params["decoder"], i)
    return small

  def _attention_cut(self, side, dim, kind, heads) -> slicing.Cut:
    declared = self.net.attention_tensors(dim, LayerSpec(kind, heads, self.space.qkv_dim // heads, 0),
                                          side == "decoder")
    return self._cut(declared, "attention", kind, max(self.space.fields[side]["num_heads"]))

  def _cross_cut(self, dim, source_dim, kind, heads) -> slicing.Cut:
    layer = DecoderLayerSpec("", 0, 0, kind, heads, self.space.qkv_dim // heads, 1, 0)
    return self._cut(self.net.cross_tensors(dim, source_dim, layer), "cross", kind, max(self.space.cross_heads))

  def _cut(self, declared, module, kind, most_heads) -> slicing.Cut:
    common = (*blocks.norm_tensors(1), *slicing.common(self.net.kind(kind).alike, self.share_projections))
    names = {name: f"{module}.{name}" if name in common else f"{module}.{self.net.family(kind)}.{name}" for name in declared}
    return slicing.Cut(declared, names, slicing.divided(declared, most_heads))

  def _mlp_cut(self, dim, ffn_dim) -> slicing.Cut:
    return slicing.plain(self.net.mlp_tensors(dim, ffn_dim), "mlp.")

  # -- forward ------------------------------------------------------------------------------------------------------

  def masked(self, params: dict, genes: Int[Array, "G"], pair: Pair, key: Array | None = None) -> Logits:
    """Logits of one architecture, every layer at its largest size."""
    return self._forward(Masked(), params, genes, pair, key)

  def exact(self, params: dict, genes: Int[Array, "G"], pair: Pair, key: Array | None = None) -> Logits:
    """Logits of one architecture at its own sizes; the cost is its own too, under jit and one compilation for all."""
    return self._forward(Exact(), params, genes, pair, key)

  def shared(self, params: dict, genes: Int[Array, "G"], pair: Pair, axis: str) -> Logits:
    """Logits of one member of a chunk mapped under `axis`, at the sizes of the chunk's largest member."""
    return self._forward(Shared(axis), params, genes, pair, None)

  def _forward(self, form, params, genes, pair, key):
    space, reading = self.space, self.space.read(genes)
    aux = {"reading": reading, "keep": self._keep(reading) if form.masks else None, "key": key,
           "source_mask": pair.source != PAD}
    widths = [functools.partial(self._encode, form, dim=dim) for dim in space.encoder_embed_dim]
    memory = form.choose(reading.encoder_embed, widths, params, pair.source, aux)
    widths = [functools.partial(self._decode, form, dim=dim) for dim in space.decoder_embed_dim]
    return form.choose(reading.decoder_embed, widths, params, memory, pair.target, aux)

  def _encode(self, form, params, source, aux, *, dim: int) -> Float[Array, "span B S D"]:
    """Outputs of the last encoder layers, the last first, zero beyond this width."""
    space, net, reading = self.space, self.net, aux["reading"]
    keep = aux["keep"] and Keep(aux["keep"]["encoder"].embed[:dim])
    noise = net.noise(aux["key"], -1, 0, self._share(reading, "encoder"))
    x = net.embed(params["ends"], "source", source, dim, keep and keep.embed, noise)
    blocks_ = self._encoder_blocks(dim)
    carry = self._first_carry("encoder", x)
    _, outputs = form.layers(blocks_, reading.encoder_depth, max(space.encoder_depth), (x, carry), params["encoder"], None, aux,
                             collect=True)
    last = outputs[0][reading.encoder_depth - 1 - jnp.arange(max(space.span))]
    last = net.finish(params["ends"], "encoder", last, keep)
    return jnp.pad(last, ((0, 0), (0, 0), (0, 0), (0, max(space.encoder_embed_dim) - dim)))

  def _decode(self, form, params, memory, target, aux, *, dim: int) -> Logits:
    space, net, reading = self.space, self.net, aux["reading"]
    keep = aux["keep"] and Keep(aux["keep"]["decoder"].embed[:dim])
    noise = net.noise(aux["key"], -1, 2, self._share(reading, "decoder"))
    x = net.embed(params["ends"], "target", shifted(target), dim, keep and keep.embed, noise)
    blocks_ = self._decoder_blocks(dim)
    carry = self._first_carry("decoder", x) | self._first_cross_carry(x, max(space.span) * aux["source_mask"].shape[1])
    (x, _), _ = form.layers(blocks_, reading.decoder_depth, max(space.decoder_depth), (x, carry), params["decoder"], memory, aux)
    return net.logits(params["ends"], net.finish(params["ends"], "decoder", x, keep))

  def _first_carry(self, side: str, x: Float[Array, "B T D"]) -> dict[str, Any]:
    heads = max(self.space.fields[side]["num_heads"])
    sizes = Sizes(x.shape[-1], heads, self.space.qkv_dim // heads, causal=side == "decoder")
    return blocks.first_carry([(self.net.family(kind), self.net.kind(kind)) for kind in self.space.placed[side]], sizes, x)

  def _first_cross_carry(self, x: Float[Array, "B T D"], keys: int) -> dict[str, Any]:
    heads = max(self.space.cross_heads)
    sizes = Sizes(x.shape[-1], heads, self.space.qkv_dim // heads, max(self.space.encoder_embed_dim))
    kinds = [(CROSS + self.net.family(kind), self.net.kind(kind)) for kind in self.space.cross_kinds]
    return blocks.first_carry(kinds, sizes, x, keys)

  def _encoder_blocks(self, dim: int) -> tuple[Block, ...]:
    return (self._attention_block("encoder", dim, False), self._mlp_block("encoder", dim, 1))

  def _decoder_blocks(self, dim: int) -> tuple[Block, ...]:
    return (self._attention_block("decoder", dim, True), self._cross_block(dim), self._mlp_block("decoder", dim, 4))

  def _attention_block(self, side: str, dim: int, causal: bool) -> Block:
    space, net, fields = self.space, self.net, self.space.fields[side]

    def branch(kind, heads):
      def run(p, layer, state, memory, aux):
        noise = net.noise(aux["key"], layer, 2 if causal else 0, self._share(aux["reading"], side))
        keep = aux["keep"] and Keep(aux["keep"][side].embed[:dim])
        return net.attention(kind, p, state[0], None if causal else aux["source_mask"], causal, keep, noise, state[1])

      return Branch(self._attention_cut(side, dim, kind, heads), run)

    def group(layer, aux):
      rows = getattr(aux["reading"], side)
      return rows["kind"][layer] * len(fields["num_heads"]) + rows["num_heads"][layer]

    branches = tuple((branch(kind, heads),) for kind in fields["kind"] for heads in fields["num_heads"])
    return Block(group, lambda layer, aux: (), (), branches)

  def _cross_block(self, dim: int) -> Block:
    space, net = self.space, self.net

    source_dim = max(space.encoder_embed_dim)  # what is beyond the encoder's width is zero, and costs less than more branches

    def branch(kind, heads, span):
      def run(p, layer, state, memory, aux):
        noise = net.noise(aux["key"], layer, 3, self._share(aux["reading"], "decoder"))
        keep = aux["keep"] and Keep(aux["keep"]["decoder"].embed[:dim])
        batch, length = aux["source_mask"].shape
        source = memory[:span].swapaxes(0, 1).reshape(batch, span * length, source_dim)
        seen = jnp.tile(aux["source_mask"], (1, span))
        if aux["keep"] is not None:
          mine = jnp.asarray(space.span)[aux["reading"].decoder["span"][layer]]
          seen = seen & jnp.repeat(jnp.arange(span) < mine, length)
        return net.cross(kind, p, state[0], source, seen, span, keep, noise, state[1])

      return Branch(self._cross_cut(dim, source_dim, kind, heads), run)

    def group(layer, aux):
      rows = aux["reading"].decoder
      return rows["cross_kind"][layer] * len(space.cross_heads) + rows["cross_num_heads"][layer]

    ranks = lambda layer, aux: (aux["reading"].decoder["span"][layer],)
    branches = tuple(tuple(branch(kind, heads, span) for span in space.span)
                     for kind in space.cross_kinds for heads in space.cross_heads)
    return Block(group, ranks, (len(space.span),), branches)

  def _mlp_block(self, side: str, dim: int, number: int) -> Block:
    net, sizes = self.net, self.space.fields[side]["ffn_dim"]

    def branch(ffn_dim):
      def run(p, layer, state, memory, aux):
        noise = net.noise(aux["key"], layer, number, self._share(aux["reading"], side))
        keep = aux["keep"] and Keep(aux["keep"][side].embed[:dim], None, aux["keep"][side].ffn[layer, :ffn_dim])
        return net.mlp(p, state[0], keep, noise), state[1]

      return Branch(self._mlp_cut(dim, ffn_dim), run)

    ranks = lambda layer, aux: (getattr(aux["reading"], side)["ffn_dim"][layer],)
    return Block(lambda layer, aux: 0, ranks, (len(sizes),), (tuple(map(branch, sizes)),))

  # -- genes to masks -----------------------------------------------------------------------------------------------

  def _keep(self, reading: Reading) -> dict[str, Keep]:
    """Living entries of either side at the largest sizes; hidden units by layer."""

    def side(name):
      dims, ffn_dims = getattr(self.space, f"{name}_embed_dim"), self.space.fields[name]["ffn_dim"]
      ffn = jnp.asarray(ffn_dims)[getattr(reading, name)["ffn_dim"]]
      return Keep(masks.leading(max(dims), jnp.asarray(dims)[getattr(reading, f"{name}_embed")]), None,
                  jax.vmap(lambda n: masks.leading(max(ffn_dims), n))(ffn))

    return {"encoder": side("encoder"), "decoder": side("decoder")}

  def _share(self, reading: Reading, side: str) -> Float[Array, ""]:
    dims = getattr(self.space, f"{side}_embed_dim")
    return jnp.asarray(dims)[getattr(reading, f"{side}_embed")] / self.net.widths[side == "decoder"]
