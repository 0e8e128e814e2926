"""A space small enough for handwritten digits, two cores and continuous integration."""

import dataclasses

from nasformer.space.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Tiny(Encoder):
  """For digits and tests: width 32-64, 2-4 layers, 2-4 heads of 16; softmax, linear or cosFormer per layer."""

  embed_dim: tuple[int, ...] = (32, 48, 64)
  depth: tuple[int, ...] = (2, 3, 4)
  num_heads: tuple[int, ...] = (2, 3, 4)
  head_dim: int = 16
  ffn_dim: tuple[int, ...] = (48, 96, 128)
  kinds: tuple[str, ...] = ("softmax", "linear", "cosformer")
