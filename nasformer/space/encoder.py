"""Spaces of Transformer encoders: width and depth of the network; attention kind, heads and MLP width of every layer.

The head rule is the growing one (AutoFormer): the size of a head is fixed and width grows with the number of heads.
Sizes are nested: a smaller choice is the leading part of a larger one. With a budget of heads, depth is traded for width of
attention: the heads of the whole network are fixed, and its layers share them evenly (Brown et al. 2022, "Wide Attention Is
The Way Forward For Transformers?").
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nasformer.space.base import Gene, Part, Space
from nasformer.types import EncoderSpec, LayerSpec, UserError


class Reading(NamedTuple):
  """A genome as the supernet reads it: positions in the space's lists of choices, and the depth itself."""

  embed: Int[Array, "*P"]
  depth: Int[Array, "*P"]
  kind: Int[Array, "*P L"]
  heads: Int[Array, "*P L"]
  ffn: Int[Array, "*P L"]


@dataclasses.dataclass(frozen=True)
class Encoder(Space):
  """Any encoder space: give your own lists of choices, or subclass and make them defaults.

  Attributes:
    embed_dim: model widths.
    depth: numbers of layers.
    num_heads: heads of a layer; empty where `head_budget` is given.
    head_budget: heads of all layers together, which every depth must divide; 0 for none.
    head_dim: width of every head.
    ffn_dim: hidden widths of a layer's MLP; empty where `mlp_ratio` is given.
    mlp_ratio: the same as multiples of the model width.
    kinds: attention kinds that a layer may use, by name.
  """

  spec: ClassVar[type] = EncoderSpec
  embed_dim: tuple[int, ...] = (128, 192, 256)
  depth: tuple[int, ...] = (6, 7, 8)
  num_heads: tuple[int, ...] = (2, 3, 4)
  head_budget: int = 0
  head_dim: int = 64
  ffn_dim: tuple[int, ...] = (256, 512, 768)
  mlp_ratio: tuple[float, ...] = ()
  kinds: tuple[str, ...] = ("softmax", "linear")

  def __post_init__(self):
    if bool(self.ffn_dim) == bool(self.mlp_ratio):
      raise UserError("a space takes either ffn_dim or mlp_ratio: give one of them and leave the other empty")
    if bool(self.num_heads) == bool(self.head_budget):
      raise UserError("a space takes either num_heads or head_budget: give one of them and leave the other empty or 0")
    for name in ("embed_dim", "depth", "num_heads", "ffn_dim", "mlp_ratio", "kinds"):
      values = getattr(self, name)
      if not values and name not in ("num_heads", "ffn_dim", "mlp_ratio"):
        raise UserError(f"space.{name} is empty: give at least one choice")
      if len(set(values)) != len(values):
        raise UserError(f"space.{name}={values} names a choice twice")
      if name != "kinds":
        if any(value <= 0 for value in values):
          raise UserError(f"space.{name}={values}: sizes must be positive")
        object.__setattr__(self, name, tuple(sorted(values)))
    if self.head_dim <= 0:
      raise UserError(f"space.head_dim={self.head_dim}: it must be positive")
    if self.head_budget < 0 or any(self.head_budget % depth for depth in self.depth):
      raise UserError(f"space.head_budget={self.head_budget}: every depth of {self.depth} must divide it")
    self.allowed  # a restriction that cannot be met fails here, before anything is computed

  @functools.cached_property
  def genes(self) -> tuple[Gene, ...]:
    table = [Gene("embed_dim", self.embed_dim), Gene("depth", self.depth)]
    for layer in range(self.max_depth):
      site = f"layer.{layer}"
      needs = (("depth", tuple(depth for depth in self.depth if depth > layer)),)
      heads = () if self.head_budget else (Gene(f"{site}.num_heads", self.num_heads, "ordinal", site, needs),)
      table += [
          Gene(f"{site}.kind", self.kinds, "categorical", site, needs),
          *heads,
          Gene(f"{site}.ffn", self.ffn_dim or self.mlp_ratio, "ordinal", site, needs),
      ]
    return tuple(table)

  @functools.cached_property
  def parts(self) -> tuple[Part, ...]:
    parts = [Part("ends", "ends", ("embed_dim",))]
    for layer in range(self.max_depth):
      site = f"layer.{layer}"
      attention = ("depth", f"{site}.kind") if self.head_budget else (f"{site}.kind", f"{site}.num_heads")
      parts += [
          Part(f"{site}.attention", "attention", ("embed_dim", *attention)),
          Part(f"{site}.mlp", "mlp", ("embed_dim", f"{site}.ffn")),
      ]
    return tuple(parts)

  @property
  def max_depth(self) -> int:
    return max(self.depth)

  @functools.cached_property
  def heads(self) -> tuple[int, ...]:
    """Every number of heads that a layer can have, in rising order."""
    return self.num_heads or tuple(self.head_budget // depth for depth in reversed(self.depth))

  def ffn_dims(self, embed_dim: int) -> tuple[int, ...]:
    """Hidden widths that a layer of this model width can have, by option."""
    return self.ffn_dim or tuple(int(ratio * embed_dim) for ratio in self.mlp_ratio)

  def part_sizes(self, role: str, values: tuple) -> dict:
    """What a network needs to know to price a part whose genes have these values."""
    if role == "ends":
      return {"embed_dim": values[0]}
    if role == "attention":
      kind, heads = (values[2], self.head_budget // values[1]) if self.head_budget else values[1:]
      return {"embed_dim": values[0], "kind": kind, "num_heads": heads, "head_dim": self.head_dim}
    options = self.ffn_dim or self.mlp_ratio
    return {"embed_dim": values[0], "ffn_dim": self.ffn_dims(values[0])[options.index(values[1])]}

  def decode(self, genes: np.ndarray) -> EncoderSpec:
    values = self.values(genes)
    embed_dim, depth, layers = values["embed_dim"], values["depth"], []
    for site in (f"layer.{layer}" for layer in range(depth)):
      heads = self.head_budget // depth if self.head_budget else values[f"{site}.num_heads"]
      ffn_dim = self.part_sizes("mlp", (embed_dim, values[f"{site}.ffn"]))["ffn_dim"]
      layers.append(LayerSpec(values[f"{site}.kind"], heads, self.head_dim, ffn_dim))
    return EncoderSpec(embed_dim, tuple(layers))

  def encode(self, spec: EncoderSpec) -> np.ndarray:
    values = {"embed_dim": spec.embed_dim, "depth": spec.depth}
    if spec.embed_dim not in self.embed_dim:
      raise UserError(f"embed_dim = {spec.embed_dim} is outside the space (options: {self.embed_dim})")
    options = self.ffn_dims(spec.embed_dim)
    for number, layer in enumerate(spec.layers):
      if layer.head_dim != self.head_dim or layer.ffn_dim not in options:
        raise UserError(f"layer {number} {layer} is outside the space (head_dim {self.head_dim}, ffn_dim {options})")
      values[f"layer.{number}.kind"] = layer.kind
      if not self.head_budget:
        values[f"layer.{number}.num_heads"] = layer.num_heads
      elif layer.num_heads * spec.depth != self.head_budget:
        raise UserError(f"layer {number} {layer} is outside the space (head_budget {self.head_budget} for {spec.depth} layers)")
      values[f"layer.{number}.ffn"] = (self.ffn_dim or self.mlp_ratio)[options.index(layer.ffn_dim)]
    return self.genome(values)

  def read(self, genes: Int[Array, "*P G"]) -> Reading:
    """Splits genomes into what each piece of the supernet needs; valid under jit and vmap."""
    layers = genes[..., 2:].reshape(*genes.shape[:-1], self.max_depth, -1)
    depth = jnp.asarray(self.depth, jnp.int32)[genes[..., 1]]
    heads = layers[..., 1]
    if self.head_budget:
      heads = jnp.broadcast_to(len(self.depth) - 1 - genes[..., 1:2], heads.shape)  # the deepest network has the fewest
    return Reading(genes[..., 0], depth, layers[..., 0], heads, layers[..., -1])
