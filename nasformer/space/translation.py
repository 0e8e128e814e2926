"""Spaces of encoder-decoder Transformers for translation, after HAT (Wang et al. 2020, 3.3).

Elastic are both model widths and depths; in every layer the heads and the MLP; how many encoder layers the cross-attention of a
decoder layer attends to (its span, counted from the last); and the attention kind of every attention module. The head rule
is the dividing one: the query, key and value width is fixed and divided among the heads. The published spaces know softmax
only; which modules may use other kinds, and which kinds, is the paper's idea (arXiv 2207.13955) in our own reading, as its
table of choices for translation could not be obtained.
"""

import dataclasses
import functools
from typing import Any, ClassVar, Mapping, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nasformer.space.base import Gene, Part, Space
from nasformer.types import DecoderLayerSpec, LayerSpec, TranslationSpec, UserError

_LISTS = ("encoder_embed_dim", "decoder_embed_dim", "encoder_depth", "decoder_depth", "encoder_ffn_dim", "decoder_ffn_dim",
          "encoder_heads", "decoder_heads", "cross_heads", "span", "encoder_kinds", "decoder_kinds", "cross_kinds")


class Reading(NamedTuple):
  """A genome as the supernet reads it: positions in the space's lists of choices, and the depths themselves."""

  encoder_embed: Int[Array, "*P"]
  decoder_embed: Int[Array, "*P"]
  encoder_depth: Int[Array, "*P"]
  decoder_depth: Int[Array, "*P"]
  encoder: dict[str, Int[Array, "*P L"]]
  decoder: dict[str, Int[Array, "*P L"]]


@dataclasses.dataclass(frozen=True)
class Translation(Space):
  """Any encoder-decoder space: give your own lists of choices, or subclass and make them defaults.

  Attributes:
    encoder_embed_dim: model widths of the encoder.
    decoder_embed_dim: of the decoder.
    encoder_depth: numbers of encoder layers.
    decoder_depth: of decoder layers.
    encoder_ffn_dim: hidden widths of the MLP of an encoder layer.
    decoder_ffn_dim: of a decoder layer.
    encoder_heads: heads of the encoder's self-attention.
    decoder_heads: of the decoder's self-attention.
    cross_heads: of cross-attention.
    span: how many of the last encoder layers cross-attention may attend to.
    qkv_dim: width of queries, keys and values, divided among the heads.
    encoder_kinds: attention kinds of the encoder's self-attention, by name.
    decoder_kinds: of the decoder's self-attention.
    cross_kinds: of cross-attention.
  """

  spec: ClassVar[type] = TranslationSpec
  encoder_embed_dim: tuple[int, ...] = (512, 640)
  decoder_embed_dim: tuple[int, ...] = (512, 640)
  encoder_depth: tuple[int, ...] = (6,)
  decoder_depth: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
  encoder_ffn_dim: tuple[int, ...] = (1024, 2048, 3072)
  decoder_ffn_dim: tuple[int, ...] = (1024, 2048, 3072)
  encoder_heads: tuple[int, ...] = (4, 8)
  decoder_heads: tuple[int, ...] = (4, 8)
  cross_heads: tuple[int, ...] = (4, 8)
  span: tuple[int, ...] = (1, 2, 3)
  qkv_dim: int = 512
  encoder_kinds: tuple[str, ...] = ("softmax", "cosformer")
  decoder_kinds: tuple[str, ...] = ("softmax", "cosformer")
  cross_kinds: tuple[str, ...] = ("softmax", "cosformer")

  def __post_init__(self):
    for name in _LISTS:
      values = getattr(self, name)
      if not values:
        raise UserError(f"space.{name} is empty: give at least one choice")
      if len(set(values)) != len(values):
        raise UserError(f"space.{name}={values} names a choice twice")
      if not name.endswith("kinds"):
        if any(value <= 0 for value in values):
          raise UserError(f"space.{name}={values}: sizes must be positive")
        object.__setattr__(self, name, tuple(sorted(values)))
    for name in ("encoder_heads", "decoder_heads", "cross_heads"):
      heads = getattr(self, name)
      if any(self.qkv_dim % h or max(heads) % h for h in heads):
        raise UserError(f"space.{name}={heads}: each must divide the largest and qkv_dim={self.qkv_dim}")
    if max(self.span) > min(self.encoder_depth):
      raise UserError(f"space.span={self.span}: a span of {max(self.span)} needs as many encoder layers, but encoder_depth"
                      f"={self.encoder_depth} allows {min(self.encoder_depth)}")
    self.allowed  # a restriction that cannot be met fails here, before anything is computed

  @property
  def kinds(self) -> tuple[str, ...]:
    """All attention kinds, each once."""
    return tuple(dict.fromkeys((*self.encoder_kinds, *self.decoder_kinds, *self.cross_kinds)))

  @property
  def placed(self) -> dict[str, tuple[str, ...]]:
    """Attention kinds by module."""
    return {"encoder": self.encoder_kinds, "decoder": self.decoder_kinds, "cross": self.cross_kinds}

  def check(self, kinds: Mapping[str, Any]) -> None:
    """Refuses kinds that cannot be in their module: sentences are no grid, decoders read in order, heads divide a width."""
    needs = {"encoder": None, "decoder": "causal", "cross": "cross"}
    for module, names in self.placed.items():
      for name, can in ((name, kinds[name].can) for name in names):
        if can.grid:
          raise UserError(f"space.{module}_kinds: {name!r} cannot be used there, it needs the patches of an image")
        if needs[module] and not getattr(can, needs[module]):
          raise UserError(f"space.{module}_kinds: {name!r} cannot be used there, it has no {needs[module]} form")
        if len(getattr(self, f"{module}_heads")) > 1 and not can.divides:
          raise UserError(f"space.{module}_kinds: the heads of {name!r} cannot divide a fixed width, so space.{module}_heads"
                          " must be one number where it is used")

  @functools.cached_property
  def fields(self) -> dict[str, dict[str, tuple]]:
    """Choices of an encoder layer and of a decoder layer, by the names of their genes."""
    return {
        "encoder": {"kind": self.encoder_kinds, "num_heads": self.encoder_heads, "ffn_dim": self.encoder_ffn_dim},
        "decoder": {"kind": self.decoder_kinds, "num_heads": self.decoder_heads, "cross_kind": self.cross_kinds,
                    "cross_num_heads": self.cross_heads, "span": self.span, "ffn_dim": self.decoder_ffn_dim},
    }

  @functools.cached_property
  def genes(self) -> tuple[Gene, ...]:
    """The kind of a module is a gene only where there is a choice: HAT's space0 without one has its 40 genes."""
    names = ("encoder_embed_dim", "decoder_embed_dim", "encoder_depth", "decoder_depth")
    table = [Gene(name, getattr(self, name)) for name in names]
    for side in ("encoder", "decoder"):
      depths = getattr(self, f"{side}_depth")
      for layer in range(max(depths)):
        site = f"{side}.{layer}"
        needs = ((f"{side}_depth", tuple(depth for depth in depths if depth > layer)),)
        for name, values in self.fields[side].items():
          categorical = name.endswith("kind")
          if not categorical or len(values) > 1:
            table.append(Gene(f"{site}.{name}", values, "categorical" if categorical else "ordinal", site, needs))
    return tuple(table)

  @functools.cached_property
  def parts(self) -> tuple[Part, ...]:
    def part(site, role, names, *fields):
      genes = [f"{site}.{field}" for field in fields if f"{site}.{field}" in self.index]
      return Part(f"{site}.{role}", f"{site.split('.')[0]}_{role}", (*names, *genes))

    both = ("encoder_embed_dim", "decoder_embed_dim")
    parts = [Part("ends", "ends", both)]
    for layer in range(max(self.encoder_depth)):
      site = f"encoder.{layer}"
      parts += [part(site, "attention", both[:1], "kind", "num_heads"), part(site, "mlp", both[:1], "ffn_dim")]
    for layer in range(max(self.decoder_depth)):
      site = f"decoder.{layer}"
      parts += [part(site, "attention", both[1:], "kind", "num_heads"),
                part(site, "cross", both, "cross_kind", "span", "cross_num_heads"),
                part(site, "mlp", both[1:], "ffn_dim")]
    return tuple(parts)

  def part_sizes(self, role: str, values: tuple) -> dict:
    """What a network needs to know to price a part whose genes have these values."""
    if role == "ends":
      return {"encoder_embed_dim": values[0], "decoder_embed_dim": values[1]}
    if role.endswith("mlp"):
      return {"embed_dim": values[0], "ffn_dim": values[1]}
    module = "cross" if role == "decoder_cross" else role.split("_")[0]
    kinds, rest = self.placed[module], list(values)
    sizes = {"source_dim": rest.pop(0)} if module == "cross" else {}
    sizes["embed_dim"] = rest.pop(0)
    sizes["kind"] = rest.pop(0) if len(kinds) > 1 else kinds[0]
    if module == "cross":
      sizes["span"] = rest.pop(0)
    return sizes | {"num_heads": rest[0], "head_dim": self.qkv_dim // rest[0]}

  def decode(self, genes: np.ndarray) -> TranslationSpec:
    values = self.values(genes)

    def layer(side, number):
      return {name: options[0] if f"{side}.{number}.{name}" not in values else values[f"{side}.{number}.{name}"]
              for name, options in self.fields[side].items()}

    encoder = [LayerSpec(head_dim=self.qkv_dim // row["num_heads"], **row)
               for row in (layer("encoder", i) for i in range(values["encoder_depth"]))]
    decoder = [DecoderLayerSpec(head_dim=self.qkv_dim // row["num_heads"],
                                cross_head_dim=self.qkv_dim // row["cross_num_heads"], **row)
               for row in (layer("decoder", i) for i in range(values["decoder_depth"]))]
    return TranslationSpec(values["encoder_embed_dim"], values["decoder_embed_dim"], tuple(encoder), tuple(decoder))

  def encode(self, spec: TranslationSpec) -> np.ndarray:
    values = {"encoder_embed_dim": spec.encoder_embed_dim, "decoder_embed_dim": spec.decoder_embed_dim,
              "encoder_depth": len(spec.encoder), "decoder_depth": len(spec.decoder)}
    for side in ("encoder", "decoder"):
      for number, row in enumerate(getattr(spec, side)):
        cross = side == "encoder" or row.cross_head_dim * row.cross_num_heads == self.qkv_dim
        if row.head_dim * row.num_heads != self.qkv_dim or not cross:
          raise UserError(f"{side} layer {number} {row} is outside the space (qkv_dim {self.qkv_dim})")
        for name, options in self.fields[side].items():
          if getattr(row, name) not in options:
            raise UserError(f"{side}.{number}.{name} = {getattr(row, name)!r} is outside the space (options: {options})")
          values[f"{side}.{number}.{name}"] = getattr(row, name)
    return self.genome(values)

  def read(self, genes: Int[Array, "*P G"]) -> Reading:
    """Splits genomes into what each piece of the supernet needs; valid under jit and vmap."""

    def side(name):
      depth = max(getattr(self, f"{name}_depth"))
      rows = {field: [f"{name}.{layer}.{field}" for layer in range(depth)] for field in self.fields[name]}
      return {field: genes[..., [self.index[gene] for gene in names]] if names[0] in self.index
              else jnp.zeros((*genes.shape[:-1], depth), jnp.int32) for field, names in rows.items()}

    depth = lambda name: jnp.asarray(getattr(self, name), jnp.int32)[genes[..., self.index[name]]]
    return Reading(genes[..., 0], genes[..., 1], depth("encoder_depth"), depth("decoder_depth"), side("encoder"),
                   side("decoder"))


@dataclasses.dataclass(frozen=True)
class HatWmt(Translation):
  """HAT's space0 for WMT (width 512/640, 6 + 1-6 layers), with a choice of kind in every attention module."""


@dataclasses.dataclass(frozen=True)
class HatIwslt(Translation):
  """HAT's space1 for IWSLT (MLP 512-2048, 2 or 4 heads), with a choice of kind in every attention module."""

  encoder_ffn_dim: tuple[int, ...] = (512, 1024, 2048)
  decoder_ffn_dim: tuple[int, ...] = (512, 1024, 2048)
  encoder_heads: tuple[int, ...] = (2, 4)
  decoder_heads: tuple[int, ...] = (2, 4)
  cross_heads: tuple[int, ...] = (2, 4)


@dataclasses.dataclass(frozen=True)
class RankNasWmt(Translation):
  """RankNAS's large WMT space (width 640-1024, MLP to 5120), with a choice of kind in every attention module."""

  encoder_embed_dim: tuple[int, ...] = (640, 768, 1024)
  decoder_embed_dim: tuple[int, ...] = (640, 768, 1024)
  encoder_ffn_dim: tuple[int, ...] = (2048, 3072, 4096, 5120)
  decoder_ffn_dim: tuple[int, ...] = (2048, 3072, 4096, 5120)
  encoder_heads: tuple[int, ...] = (4, 8, 16)
  decoder_heads: tuple[int, ...] = (4, 8, 16)
  cross_heads: tuple[int, ...] = (4, 8, 16)
  qkv_dim: int = 1024
  encoder_kinds: tuple[str, ...] = ("softmax_relative", "cosformer")
  decoder_kinds: tuple[str, ...] = ("softmax_relative", "cosformer")


@dataclasses.dataclass(frozen=True)
class RankNasIwslt(Translation):
  """RankNAS's large IWSLT space (width 512/640, MLP 768-2048), with a choice of kind in every attention module."""

  encoder_ffn_dim: tuple[int, ...] = (768, 1024, 1536, 2048)
  decoder_ffn_dim: tuple[int, ...] = (768, 1024, 1536, 2048)
  encoder_heads: tuple[int, ...] = (2, 4, 8)
  decoder_heads: tuple[int, ...] = (2, 4, 8)
  cross_heads: tuple[int, ...] = (2, 4, 8)
  encoder_kinds: tuple[str, ...] = ("softmax_relative", "cosformer")
  decoder_kinds: tuple[str, ...] = ("softmax_relative", "cosformer")


@dataclasses.dataclass(frozen=True)
class TinyTranslation(Translation):
  """For two cores and tests: width 64/96, 2-3 + 1-3 layers, 2 or 4 heads; softmax or cosFormer in every attention module."""

  encoder_embed_dim: tuple[int, ...] = (64, 96)
  decoder_embed_dim: tuple[int, ...] = (64, 96)
  encoder_depth: tuple[int, ...] = (2, 3)
  decoder_depth: tuple[int, ...] = (1, 2, 3)
  encoder_ffn_dim: tuple[int, ...] = (96, 192, 256)
  decoder_ffn_dim: tuple[int, ...] = (96, 192, 256)
  encoder_heads: tuple[int, ...] = (2, 4)
  decoder_heads: tuple[int, ...] = (2, 4)
  cross_heads: tuple[int, ...] = (2, 4)
  span: tuple[int, ...] = (1, 2)
  qkv_dim: int = 64
