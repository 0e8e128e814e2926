"""Contracts of the library: axis letters, the forms of an architecture, and what parts hand to each other.

Axis letters, the same in shape annotations and einsums everywhere:

  B batch               T target or query length   S source or key length   D model width
  N heads               H width per head           F hidden width of an MLP C classes
  L layers              R features or landmarks    P population             G genes
  K options of a gene   E examples                 M objectives             image axes are spelled out

An architecture has two forms. `Genes` is an integer vector of choice indices, traced, which search and the masked
supernet see. `Spec` is a frozen dataclass of sizes, static and hashable, which slicing, counting and JSON see. A space
is the bridge between them (`nasformer.space.base`). Masks are boolean and True means keep.
"""

import dataclasses
import re
from typing import Any, Mapping

import numpy as np
from jaxtyping import Array, Float, Int

Genes = Int[Array, "G"]
Population = Int[Array, "P G"]
Images = Float[Array, "B height width channels"]
Params = Any  # a tree of arrays


class UserError(ValueError):
  """A mistake of the person, told in one sentence: the flag or file, the value, and what would work.

  `main` prints it without a traceback and exits with a non-zero status.
  """


class Told(UserError):
  """A mistake that another process of the same run says already."""


@dataclasses.dataclass(frozen=True)
class LayerSpec:
  """Sizes of one Transformer layer. The query, key and value width is `num_heads * head_dim`."""

  kind: str
  num_heads: int
  head_dim: int
  ffn_dim: int


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
  """Sizes of one encoder network; its depth is the number of its layers."""

  embed_dim: int
  layers: tuple[LayerSpec, ...]

  @property
  def depth(self) -> int:
    return len(self.layers)

  def to_json(self) -> dict:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, tree: Mapping) -> "EncoderSpec":
    return cls(tree["embed_dim"], tuple(LayerSpec(**layer) for layer in tree["layers"]))


@dataclasses.dataclass(frozen=True)
class DecoderLayerSpec:
  """Sizes of one decoder layer: self-attention, cross-attention to the last `span` encoder layers, MLP."""

  kind: str
  num_heads: int
  head_dim: int
  cross_kind: str
  cross_num_heads: int
  cross_head_dim: int
  span: int
  ffn_dim: int


@dataclasses.dataclass(frozen=True)
class TranslationSpec:
  """Sizes of one encoder-decoder network; its depths are the numbers of its layers."""

  encoder_embed_dim: int
  decoder_embed_dim: int
  encoder: tuple[LayerSpec, ...]
  decoder: tuple[DecoderLayerSpec, ...]

  def to_json(self) -> dict:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, tree: Mapping) -> "TranslationSpec":
    return cls(tree["encoder_embed_dim"], tree["decoder_embed_dim"], tuple(LayerSpec(**row) for row in tree["encoder"]),
               tuple(DecoderLayerSpec(**row) for row in tree["decoder"]))


@dataclasses.dataclass(frozen=True)
class Score:
  """What a scorer says of a population. `value` is what search maximises; NaN never wins.

  Attributes:
    value: float64[P], larger is better.
    parts: named numbers that came with it, each [P], in their own units and directions.
    source: how it was obtained: "inherited", "retrained", "measured", "predicted", "proxy" or "table".
    split: the part of the data that was read; "test" is refused by the search loop.
  """

  value: np.ndarray
  parts: Mapping[str, np.ndarray]
  source: str
  split: str = "val"


@dataclasses.dataclass(frozen=True)
class Limit:
  """A hard upper limit on a cost, such as Limit("flops", 2e8)."""

  cost: str
  maximum: float


def first_line(thing) -> str:
  """First line of the docstring, for `--list` and error messages."""
  return re.split(r"\n", (thing.__doc__ or "").strip())[0]
