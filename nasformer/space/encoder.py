"""Spaces of Transformer encoders: width and depth of the network; attention kind, heads and MLP width of every layer.

The head rule is the growing one (AutoFormer): the size of a head is fixed and width grows with the number of heads.
Sizes are nested: a smaller choice is the leading part of a larger one. With a budget of heads, depth is traded for width of
attention (Brown et al. 2022, "Wide Attention Is The Way Forward For Transformers?"): the heads of the whole network are
fixed, and any depth goes with any composition of them. Every layer has some, as whether it exists is said by the depth.
Heads that do not add up after mutation or crossover are settled, not rejected: they say in which shares layers get theirs.
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nasformer.space.base import Gene, Part, Space
from nasformer.space.compositions import Compositions
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
    head_budget: heads of all layers together; 0 for none.
    head_step: what the heads of a layer are a multiple of where there is a budget. Compiling the supernet and predicting
      latency take longer for every number of heads that a layer can have.
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
  head_step: int = 1
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
    for name in ("head_dim", "head_step"):
      if getattr(self, name) <= 0:
        raise UserError(f"space.{name}={getattr(self, name)}: it must be positive")
    if self.head_budget % self.head_step:
      raise UserError(f"space.head_budget={self.head_budget}: it must be a multiple of head_step={self.head_step}")
    if self.head_budget and self.head_budget < self.max_depth * self.head_step:
      raise UserError(f"space.head_budget={self.head_budget}: {self.max_depth} layers need at least"
                      f" {self.max_depth * self.head_step} heads, {self.head_step} each (head_step)")
    self.allowed  # a restriction that cannot be met fails here, before anything is computed
    if self.head_budget:
      self._check_budget()

  def _check_budget(self) -> None:
    possible = {depth: can for depth, can in zip(self.depth, self._compositions.possible)}
    for depth, may in zip(self.depth, self.allowed[1]):
      if may and not possible[depth]:
        others = ",".join(str(depth) for depth in self.depth if possible[depth])
        raise UserError(f"restrict={self.restrict!r}: the heads that are left to {depth} layers never add up to head_budget"
                        f"={self.head_budget} ({f'they do with depth={others}' if others else 'nor do those of any depth'})")

  @functools.cached_property
  def genes(self) -> tuple[Gene, ...]:
    table = [Gene("embed_dim", self.embed_dim), Gene("depth", self.depth)]
    for layer in range(self.max_depth):
      site = f"layer.{layer}"
      needs = (("depth", tuple(depth for depth in self.depth if depth > layer)),)
      table += [
          Gene(f"{site}.kind", self.kinds, "categorical", site, needs),
          Gene(f"{site}.num_heads", self.heads, "ordinal", site, needs),
          Gene(f"{site}.ffn", self.ffn_dim or self.mlp_ratio, "ordinal", site, needs),
      ]
    return tuple(table)

  @functools.cached_property
  def parts(self) -> tuple[Part, ...]:
    parts = [Part("ends", "ends", ("embed_dim",))]
    for layer in range(self.max_depth):
      site = f"layer.{layer}"
      parts += [
          Part(f"{site}.attention", "attention", ("embed_dim", f"{site}.kind", f"{site}.num_heads")),
          Part(f"{site}.mlp", "mlp", ("embed_dim", f"{site}.ffn")),
      ]
    return tuple(parts)

  @property
  def max_depth(self) -> int:
    return max(self.depth)

  @functools.cached_property
  def heads(self) -> tuple[int, ...]:
    """Every number of heads that a layer can have, in rising order."""
    if not self.head_budget:
      return self.num_heads
    most = {depth: self.head_budget - (depth - 1) * self.head_step for depth in self.depth}  # the others have the least
    return tuple(sorted(set().union(*(
        range(self.head_step if depth > 1 else most[depth], most[depth] + 1, self.head_step) for depth in self.depth))))

  @functools.cached_property
  def _of_heads(self) -> Bool[np.ndarray, "G"]:
    return np.array([gene.field == "num_heads" for gene in self.genes])

  def _with_heads(self, genes: Int[Array | np.ndarray, "*P G"],
                  heads: Int[Array | np.ndarray, "*P L"]) -> Int[Array | np.ndarray, "*P G"]:
    xp = np if isinstance(genes, np.ndarray) else jnp
    return xp.where(self._of_heads, xp.concatenate([genes[..., :2], xp.repeat(heads, 3, -1)], -1), genes)

  @functools.cached_property
  def _compositions(self) -> Compositions:
    """Of the budget, in steps."""
    sizes = tuple(heads // self.head_step for heads in self.heads)
    return Compositions(self.head_budget // self.head_step, sizes, self.depth, self.allowed[3::3, : len(sizes)])

  def settle(self, genes: Int[Array | np.ndarray, "*P G"],
             keep: Bool[Array | np.ndarray, "*P G"] | None = None) -> Int[Array | np.ndarray, "*P G"]:
    if not self.head_budget:
      return genes
    keep = None if keep is None else keep[..., 3::3]
    return self._with_heads(genes, self._compositions.settle(genes[..., 3::3], genes[..., 1], keep))

  @functools.cached_property
  def links(self) -> tuple[tuple[tuple[int, ...], Bool[np.ndarray, "..."]], ...]:
    return self._compositions.links(1, range(3, self.num_genes, 3), self.num_genes) if self.head_budget else ()

  def _at(self, place: Float[Array, "P G"]) -> Int[Array, "P G"]:
    """As of any space; with a budget all compositions are as likely."""
    genes = super()._at(place)
    if not self.head_budget:
      return genes
    return self._with_heads(genes, self._compositions.draw(place[..., 3::3], genes[..., 3::3], genes[..., 1]))

  def free(self, genes: Int[Array | np.ndarray, "*P G"]) -> Bool[Array, "*P G"]:
    if not self.head_budget:
      return super().free(genes)
    return self.active(genes) & (jnp.asarray(self._compositions.ways[:, 0, -1] > 1)[genes[..., 1:2]] | ~self._of_heads)

  def _log_ways(self, which: Bool[np.ndarray, "G"]) -> float:
    if not self.head_budget:
      return super()._log_ways(which)
    depth = self.depth.index(which[3::3].sum())
    return super()._log_ways(which & ~self._of_heads) + np.log(self._compositions.ways[depth, 0, -1])

  def ffn_dims(self, embed_dim: int) -> tuple[int, ...]:
    """Hidden widths that a layer of this model width can have, by option."""
    return self.ffn_dim or tuple(int(ratio * embed_dim) for ratio in self.mlp_ratio)

  def part_sizes(self, role: str, values: tuple) -> dict:
    """What a network needs to know to price a part whose genes have these values."""
    if role == "ends":
      return {"embed_dim": values[0]}
    if role == "attention":
      return dict(zip(("embed_dim", "kind", "num_heads"), values)) | {"head_dim": self.head_dim}
    options = self.ffn_dim or self.mlp_ratio
    return {"embed_dim": values[0], "ffn_dim": self.ffn_dims(values[0])[options.index(values[1])]}

  def decode(self, genes: np.ndarray) -> EncoderSpec:
    values = self.values(genes)
    embed_dim, depth, layers = values["embed_dim"], values["depth"], []
    for site in (f"layer.{layer}" for layer in range(depth)):
      ffn_dim = self.part_sizes("mlp", (embed_dim, values[f"{site}.ffn"]))["ffn_dim"]
      layers.append(LayerSpec(values[f"{site}.kind"], values[f"{site}.num_heads"], self.head_dim, ffn_dim))
    return EncoderSpec(embed_dim, tuple(layers))

  def encode(self, spec: EncoderSpec) -> np.ndarray:
    values = {"embed_dim": spec.embed_dim, "depth": spec.depth}
    if spec.embed_dim not in self.embed_dim:
      raise UserError(f"embed_dim = {spec.embed_dim} is outside the space (options: {self.embed_dim})")
    total = sum(layer.num_heads for layer in spec.layers)
    if self.head_budget and total != self.head_budget:
      raise UserError(f"{spec.depth} layers with {total} heads are outside the space (head_budget {self.head_budget})")
    options = self.ffn_dims(spec.embed_dim)
    for number, layer in enumerate(spec.layers):
      if layer.head_dim != self.head_dim or layer.ffn_dim not in options:
        raise UserError(f"layer {number} {layer} is outside the space (head_dim {self.head_dim}, ffn_dim {options})")
      values[f"layer.{number}.kind"] = layer.kind
      values[f"layer.{number}.num_heads"] = layer.num_heads
      values[f"layer.{number}.ffn"] = (self.ffn_dim or self.mlp_ratio)[options.index(layer.ffn_dim)]
    return self.genome(values)

  def read(self, genes: Int[Array, "*P G"]) -> Reading:
    """Splits genomes into what each piece of the supernet needs; valid under jit and vmap."""
    layers = self.settle(genes)[..., 2:].reshape(*genes.shape[:-1], self.max_depth, -1)
    depth = jnp.asarray(self.depth, jnp.int32)[genes[..., 1]]
    return Reading(genes[..., 0], depth, layers[..., 0], layers[..., 1], layers[..., 2])
