"""The supernet of an encoder space, in its forms.

`masked`  every layer at its largest size, dead entries zeroed: the plain form, valid under any transformation.
`exact`   runs one architecture at its own sizes: what training and scoring on a CPU use.
`shared`  runs the members of a vmapped chunk at the largest sizes that any of them needs (see `population`).

All three agree with the small network that `derive` cuts out.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from nasformer.attention.base import Tensor
from nasformer.nets import blocks
from nasformer.nets.blocks import Keep
from nasformer.nets.vision import VisionNet, layer_noise
from nasformer.ops import masks
from nasformer.space.encoder import Encoder, Reading
from nasformer.supernet import branching, slicing
from nasformer.supernet.branching import Branch
from nasformer.types import EncoderSpec, LayerSpec

ImageBatch = Shaped[Array, "B height width channels"]


@dataclasses.dataclass(frozen=True)
class Supernet:
  """All networks of an encoder space in one set of parameters: {"stem", "layers", "head"}, layers stacked.

  Attention kinds share the norms and MLPs of their layer but not their projections (as in OpenNLPLab/mixFormer).

  Attributes:
    space: what can be chosen.
    net: what cannot.
  """

  space: Encoder
  net: VisionNet

  # -- parameters ---------------------------------------------------------------------------------------------------

  @functools.cached_property
  def declared(self) -> dict[str, dict[str, Tensor]]:
    """Every stored tensor at its largest size; those of "layers" are stored once per layer."""
    embed, ffn = max(self.space.embed_dim), max(self.space.ffn_dims(max(self.space.embed_dim)))
    cuts = [self._attention_cut(embed, kind, max(self.space.num_heads)) for kind in self.space.kinds]
    cuts.append(self._mlp_cut(embed, ffn))
    layers = {cut.names[name]: tensor for cut in cuts for name, tensor in cut.declared.items()}
    return {"stem": self.net.stem_tensors(embed), "layers": layers, "head": self.net.head_tensors(embed)}

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
    kind_of = {name: kind for kind in space.kinds for name in self._attention_cut(1, kind, 1).names.values()
               if name.startswith(f"{kind}.")}

    def of_layer(name, tensor):
      on = layer_on & (reading.kind == space.kinds.index(kind_of[name])) if name in kind_of else layer_on
      return slicing.used(tensor, alive, on)

    declared = self.declared
    return {"stem": {name: slicing.used(tensor, alive) for name, tensor in declared["stem"].items()},
            "layers": {name: of_layer(name, tensor) for name, tensor in declared["layers"].items()},
            "head": {name: slicing.used(tensor, alive) for name, tensor in declared["head"].items()}}

  def derive(self, params: dict, spec: EncoderSpec) -> dict:
    """Parameters of the small network, for `nets.vision.VisionTransformer`."""
    small = {"stem": slicing.plain(self.net.stem_tensors(spec.embed_dim)).take(params["stem"])}
    for i, layer in enumerate(spec.layers):
      attention = self._attention_cut(spec.embed_dim, layer.kind, layer.num_heads)
      small[f"layer_{i}_attention"] = attention.take(params["layers"], i)
      small[f"layer_{i}_mlp"] = self._mlp_cut(spec.embed_dim, layer.ffn_dim).take(params["layers"], i)
    return small | {"head": slicing.plain(self.net.head_tensors(spec.embed_dim)).take(params["head"])}

  def _attention_cut(self, embed_dim: int, kind: str, num_heads: int) -> slicing.Cut:
    declared = self.net.attention_tensors(embed_dim, LayerSpec(kind, num_heads, self.space.head_dim, 0))
    shared = blocks.norm_tensors(embed_dim)
    return slicing.Cut(declared, {n: f"attention.{n}" if n in shared else f"{kind}.{n}" for n in declared})

  def _mlp_cut(self, embed_dim: int, ffn_dim: int) -> slicing.Cut:
    return slicing.plain(self.net.mlp_tensors(embed_dim, ffn_dim), "mlp.")

  # -- forward ------------------------------------------------------------------------------------------------------

  def masked(self, params: dict, genes: Int[Array, "G"], images: ImageBatch, key: Array | None = None,
             ) -> Float[Array, "B C"]:
    """Logits of one architecture, every layer at its largest size."""
    space, net = self.space, self.net
    reading = space.read(genes)
    keep = self._keep(reading)
    whole = dataclasses.replace(keep, heads=None, ffn=None)
    cuts = [self._attention_cut(max(space.embed_dim), kind, max(space.num_heads)) for kind in space.kinds]
    mlp_cut = self._mlp_cut(max(space.embed_dim), self.declared["layers"]["mlp.up"].shape[1])

    def layer(state, row):
      number, tensors, kind, heads, ffn = row
      alive = Keep(keep.embed, heads, ffn)
      noise = layer_noise(net, key, number, space.max_depth, self._share(reading))
      branches = [lambda s, c=cut, k=name: net.attention(k, c.take(tensors), s[0], alive, noise[0], s[1])
                  for cut, name in zip(cuts, space.kinds)]
      x, carry = jax.lax.switch(kind, branches, state)
      new = net.mlp(mlp_cut.take(tensors), x, alive, noise[1]), carry
      return jax.tree.map(lambda a, b: jnp.where(number < reading.depth, a, b), new, state), None

    rows = (jnp.arange(space.max_depth), params["layers"], reading.kind, keep.heads, keep.ffn)
    (x, _), _ = jax.lax.scan(layer, (net.stem(params["stem"], images, whole), None), rows)
    return net.head(params["head"], x, whole)

  def exact(self, params: dict, genes: Int[Array, "G"], images: ImageBatch, key: Array | None = None,
            ) -> Float[Array, "B C"]:
    """Logits of one architecture at its own sizes; the cost is its own too, under jit and one compilation for all."""
    reading = self.space.read(genes)
    branches = [functools.partial(self._exact_width, embed_dim=dim) for dim in self.space.embed_dim]
    return jax.lax.switch(reading.embed, branches, params, reading, images, key)

  def _exact_width(self, params, reading: Reading, images, key, *, embed_dim: int):
    space, net = self.space, self.net
    share = embed_dim / max(space.embed_dim)

    def attention(kind, heads):
      def run(p, layer, state, aux):
        noise, _ = layer_noise(net, aux["key"], layer, space.max_depth, share)
        return net.attention(kind, p, state[0], noise=noise, carry=state[1])

      return Branch(self._attention_cut(embed_dim, kind, heads), run)

    def mlp(ffn_dim):
      def run(p, layer, state, aux):
        _, noise = layer_noise(net, aux["key"], layer, space.max_depth, share)
        return net.mlp(p, state[0], noise=noise), state[1]

      return Branch(self._mlp_cut(embed_dim, ffn_dim), run)

    aux = {"attention": reading.kind * len(space.num_heads) + reading.heads, "mlp": reading.ffn, "key": key}
    layers = (
        branching.Block(lambda i, aux: aux["attention"][i],
                        tuple(attention(kind, heads) for kind in space.kinds for heads in space.num_heads)),
        branching.Block(lambda i, aux: aux["mlp"][i], tuple(map(mlp, space.ffn_dims(embed_dim)))),
    )
    x = net.stem(slicing.plain(net.stem_tensors(embed_dim)).take(params["stem"]), images)
    x, _ = branching.run_layers(layers, reading.depth, space.max_depth, (x, None), params["layers"], aux)
    return net.head(slicing.plain(net.head_tensors(embed_dim)).take(params["head"]), x)

  def shared(self, params: dict, genes: Int[Array, "G"], images: ImageBatch, axis: str) -> Float[Array, "B C"]:
    """Logits of one member of a chunk mapped under `axis`, at the sizes of the chunk's largest member.

    Every bound and every "is this needed" is made common to the chunk by `pmax`, so it stays a real loop bound or branch
    under vmap: layers, widths, heads and kinds that no member has are not run.
    """
    reading = self.space.read(genes)
    branches = [functools.partial(self._shared_width, axis=axis, embed_dim=dim) for dim in self.space.embed_dim]
    return jax.lax.switch(jax.lax.pmax(reading.embed, axis), branches, params, reading, images)

  def _shared_width(self, params, reading: Reading, images, *, axis: str, embed_dim: int):
    space, net = self.space, self.net
    largest = lambda x: jax.lax.pmax(x, axis)
    keep = self._keep(reading)
    embed, dims = keep.embed[:embed_dim], space.ffn_dims(embed_dim)
    whole = Keep(embed)

    def attention(kind, heads):
      cut = self._attention_cut(embed_dim, kind, heads)
      return lambda i, s: net.attention(kind, cut.take(params["layers"], i), s[0], Keep(embed, keep.heads[i, :heads]),
                                        carry=s[1])

    def mlp(ffn_dim):
      cut = self._mlp_cut(embed_dim, ffn_dim)
      return lambda i, s: (net.mlp(cut.take(params["layers"], i), s[0], Keep(embed, None, keep.ffn[i, :ffn_dim])), s[1])

    heads_of = {kind: [attention(kind, heads) for heads in space.num_heads] for kind in space.kinds}
    mlps = [mlp(dim) for dim in dims]

    def layer(i, state):
      on = i < reading.depth
      new = state
      for number, kind in enumerate(space.kinds):
        mine = on & (reading.kind[i] == number)
        run = lambda s: jax.lax.switch(largest(jnp.where(mine, reading.heads[i], 0)), heads_of[kind], i, s)
        out = jax.lax.cond(largest(mine.astype(jnp.int32)) > 0, run, lambda s: s, state)
        new = jax.tree.map(lambda a, b: jnp.where(mine, a, b), out, new)
      out = jax.lax.switch(largest(jnp.where(on, reading.ffn[i], 0)), mlps, i, new)
      return jax.tree.map(lambda a, b: jnp.where(on, a, b), out, new)

    stem = slicing.plain(net.stem_tensors(embed_dim)).take(params["stem"])
    x, _ = jax.lax.fori_loop(0, largest(reading.depth), layer, (net.stem(stem, images, whole), None))
    return net.head(slicing.plain(net.head_tensors(embed_dim)).take(params["head"]), x, whole)

  # -- genes to masks -----------------------------------------------------------------------------------------------

  def _keep(self, reading: Reading) -> Keep:
    """Living entries at the largest sizes; heads and hidden units by layer."""
    space = self.space
    embed = jnp.asarray(space.embed_dim)[reading.embed]
    heads = jnp.asarray(space.num_heads)[reading.heads]
    ffn = jnp.asarray([space.ffn_dims(dim) for dim in space.embed_dim])[reading.embed, reading.ffn]
    return Keep(masks.leading(max(space.embed_dim), embed),
                jax.vmap(lambda n: masks.leading(max(space.num_heads), n))(heads),
                jax.vmap(lambda n: masks.leading(max(space.ffn_dims(max(space.embed_dim))), n))(ffn))

  def _share(self, reading: Reading) -> Float[Array, ""]:
    return jnp.asarray(self.space.embed_dim)[reading.embed] / max(self.space.embed_dim)
