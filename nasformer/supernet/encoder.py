"""The supernet of an encoder space, in the three forms of `nasformer.supernet.branching`; all agree with the small network
that `derive` cuts out."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nasformer.attention.base import Sizes, Tensor
from nasformer.nets import blocks
from nasformer.nets.blocks import Keep
from nasformer.nets.encoder import EncoderNet, EncoderTransformer, layer_noise
from nasformer.ops import masks
from nasformer.space.encoder import Encoder, Reading
from nasformer.supernet import slicing
from nasformer.supernet.branching import Block, Branch, Exact, Masked, Shared
from nasformer.types import EncoderSpec, LayerSpec

Logits = Float[Array, "B C"]


@dataclasses.dataclass(frozen=True)
class Supernet:
  """All networks of an encoder space in one set of parameters: {"stem", "layers", "head"}, layers stacked.

  Attributes:
    space: what can be chosen.
    net: what cannot.
    share_projections: projections that the attention kinds of a layer share, as they share its norms and its MLP:
      "none", "values" (and outputs) or "all".
  """

  space: Encoder
  net: EncoderNet
  share_projections: Literal["none", "values", "all"] = "none"

  def module(self, spec: EncoderSpec) -> EncoderTransformer:
    """The small network of a spec."""
    return EncoderTransformer(self.net, spec, spec.embed_dim / max(self.space.embed_dim))

  # -- parameters ---------------------------------------------------------------------------------------------------

  @functools.cached_property
  def declared(self) -> dict[str, dict[str, Tensor]]:
    """Every stored tensor at its largest size; those of "layers" are stored once per layer."""
    embed, ffn = max(self.space.embed_dim), max(self.space.ffn_dims(max(self.space.embed_dim)))
    cuts = [self._attention_cut(embed, kind, max(self.space.heads)) for kind in self.space.kinds]
    cuts.append(self._mlp_cut(embed, ffn))
    return {"stem": self.net.stem_tensors(embed), "layers": slicing.union(cuts), "head": self.net.head_tensors(embed)}

  def init(self, key: Array) -> dict:
    stem, layers, head = jax.random.split(key, 3)
    declared = self.declared
    stacked = jax.vmap(lambda k: blocks.initialise(k, declared["layers"]))(jax.random.split(layers, self.space.max_depth))
    return {"stem": blocks.initialise(stem, declared["stem"]), "layers": stacked,
            "head": blocks.initialise(head, declared["head"])}

  def used(self, genes: Int[Array, "G"]) -> dict:
    """Which entries of each parameter this architecture uses: booleans that broadcast to the parameters."""
    space, reading = self.space, self.space.read(genes)
    layer_on = jnp.arange(space.max_depth) < reading.depth
    keep = self._keep(reading)
    alive = {"embed": keep.embed, "heads": keep.heads, "ffn": keep.ffn}
    users = slicing.users([self._attention_cut(max(space.embed_dim), kind, max(space.heads))] for kind in space.kinds)

    def of_layer(name, tensor):
      if name not in users:
        return slicing.used(tensor, alive, layer_on)
      return slicing.used_by(users[name], tensor, alive, layer_on, reading.kind)

    declared = self.declared
    return {"stem": {name: slicing.used(tensor, alive) for name, tensor in declared["stem"].items()},
            "layers": {name: of_layer(name, tensor) for name, tensor in declared["layers"].items()},
            "head": {name: slicing.used(tensor, alive) for name, tensor in declared["head"].items()}}

  def derive(self, params: dict, spec: EncoderSpec) -> dict:
    """Parameters of the small network, for `nets.encoder.EncoderTransformer`."""
    small = {"stem": slicing.plain(self.net.stem_tensors(spec.embed_dim)).take(params["stem"])}
    for i, layer in enumerate(spec.layers):
      attention = self._attention_cut(spec.embed_dim, layer.kind, layer.num_heads)
      small[f"layer_{i}_attention"] = attention.take(params["layers"], i)
      small[f"layer_{i}_mlp"] = self._mlp_cut(spec.embed_dim, layer.ffn_dim).take(params["layers"], i)
    return small | {"head": slicing.plain(self.net.head_tensors(spec.embed_dim)).take(params["head"])}

  def _attention_cut(self, embed_dim: int, kind: str, num_heads: int) -> slicing.Cut:
    declared = self.net.attention_tensors(embed_dim, LayerSpec(kind, num_heads, self.space.head_dim, 0))
    common = (*blocks.norm_tensors(embed_dim), *slicing.common(self.net.kind(kind).alike, self.share_projections))
    names = {name: f"attention.{name}" if name in common else f"{self.net.family(kind)}.{name}" for name in declared}
    return slicing.Cut(declared, names, declared)

  def _mlp_cut(self, embed_dim: int, ffn_dim: int) -> slicing.Cut:
    return slicing.plain(self.net.mlp_tensors(embed_dim, ffn_dim), "mlp.")

  # -- forward ------------------------------------------------------------------------------------------------------

  def masked(self, params: dict, genes: Int[Array, "G"], inputs: Any, key: Array | None = None) -> Logits:
    """Logits of one architecture, every layer at its largest size."""
    return self._forward(Masked(), params, genes, inputs, key)

  def exact(self, params: dict, genes: Int[Array, "G"], inputs: Any, key: Array | None = None) -> Logits:
    """Logits of one architecture at its own sizes; the cost is its own too, under jit and one compilation for all."""
    return self._forward(Exact(), params, genes, inputs, key)

  def shared(self, params: dict, genes: Int[Array, "G"], inputs: Any, axis: str) -> Logits:
    """Logits of one member of a chunk mapped under `axis`, at the sizes of the chunk's largest member."""
    return self._forward(Shared(axis), params, genes, inputs, None)

  def _forward(self, form, params, genes, inputs, key):
    reading = self.space.read(genes)
    widths = [functools.partial(self._width, form, embed_dim=dim) for dim in self.space.embed_dim]
    return form.choose(reading.embed, widths, params, reading, inputs, key)

  def _width(self, form, params, reading: Reading, inputs, key, *, embed_dim: int):
    net, keep = self.net, self._keep(reading) if form.masks else None
    whole = None if keep is None else Keep(keep.embed[:embed_dim])
    mask = net.real(inputs)
    aux = {"reading": reading, "keep": keep, "key": key, "mask": mask}
    x = net.stem(slicing.plain(net.stem_tensors(embed_dim)).take(params["stem"]), inputs, whole)
    carry = blocks.first_carry([(net.family(kind), net.kind(kind)) for kind in self.space.kinds],
                               Sizes(embed_dim, max(self.space.heads), self.space.head_dim, grid=net.grid), x)
    (x, _), _ = form.layers(self._blocks(embed_dim), reading.depth, self.space.max_depth, (x, carry), params["layers"],
                            None, aux)
    return net.head(slicing.plain(net.head_tensors(embed_dim)).take(params["head"]), x, whole, mask)

  def _blocks(self, embed_dim: int) -> tuple[Block, Block]:
    """What a layer of this width consists of, with its branches from small to large."""
    space, net = self.space, self.net
    noise = lambda layer, aux: layer_noise(net, aux["key"], layer, space.max_depth, self._share(aux["reading"]))

    def attention(kind, heads):
      def run(p, layer, state, memory, aux):
        keep = aux["keep"] and Keep(aux["keep"].embed[:embed_dim], aux["keep"].heads[layer, :heads])
        return net.attention(kind, p, state[0], keep, noise(layer, aux)[0], state[1], aux["mask"])

      return Branch(self._attention_cut(embed_dim, kind, heads), run)

    def mlp(ffn_dim):
      def run(p, layer, state, memory, aux):
        keep = aux["keep"] and Keep(aux["keep"].embed[:embed_dim], None, aux["keep"].ffn[layer, :ffn_dim])
        return net.mlp(p, state[0], keep, noise(layer, aux)[1]), state[1]

      return Branch(self._mlp_cut(embed_dim, ffn_dim), run)

    kinds = tuple(tuple(attention(kind, heads) for heads in space.heads) for kind in space.kinds)
    mlps = tuple(map(mlp, space.ffn_dims(embed_dim)))
    return (Block(lambda i, aux: aux["reading"].kind[i], lambda i, aux: (aux["reading"].heads[i],),
                  (len(space.heads),), kinds),
            Block(lambda i, aux: 0, lambda i, aux: (aux["reading"].ffn[i],), (len(mlps),), (mlps,)))

  # -- genes to masks -----------------------------------------------------------------------------------------------

  def _keep(self, reading: Reading) -> Keep:
    """Living entries at the largest sizes; heads and hidden units by layer."""
    space = self.space
    embed = jnp.asarray(space.embed_dim)[reading.embed]
    heads = jnp.asarray(space.heads)[reading.heads]
    ffn = jnp.asarray([space.ffn_dims(dim) for dim in space.embed_dim])[reading.embed, reading.ffn]
    return Keep(masks.leading(max(space.embed_dim), embed),
                jax.vmap(lambda n: masks.leading(max(space.heads), n))(heads),
                jax.vmap(lambda n: masks.leading(max(space.ffn_dims(max(space.embed_dim))), n))(ffn))

  def _share(self, reading: Reading) -> Float[Array, ""]:
    return jnp.asarray(self.space.embed_dim)[reading.embed] / max(self.space.embed_dim)
