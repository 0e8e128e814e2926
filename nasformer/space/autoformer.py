"""AutoFormer's spaces T, S and B (ICCV 2021, arXiv 2107.00651, Table 1; lists of the released supernet files).

The released supernets are a little wider than their largest choice (256 and 640 against 240 and 624); those rows are
never used there and do not exist here. Attention is softmax unless more kinds are named.
"""

import dataclasses

from nasformer.space.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class AutoFormerTiny(Encoder):
  """AutoFormer-T: width 192-240, 12-14 layers, 3-4 heads of 64, MLP ratio 3.5-4."""

  embed_dim: tuple[int, ...] = (192, 216, 240)
  depth: tuple[int, ...] = (12, 13, 14)
  num_heads: tuple[int, ...] = (3, 4)
  ffn_dim: tuple[int, ...] = ()
  mlp_ratio: tuple[float, ...] = (3.5, 4.0)
  kinds: tuple[str, ...] = ("softmax",)


@dataclasses.dataclass(frozen=True)
class AutoFormerSmall(Encoder):
  """AutoFormer-S: width 320-448, 12-14 layers, 5-7 heads of 64, MLP ratio 3-4."""

  embed_dim: tuple[int, ...] = (320, 384, 448)
  depth: tuple[int, ...] = (12, 13, 14)
  num_heads: tuple[int, ...] = (5, 6, 7)
  ffn_dim: tuple[int, ...] = ()
  mlp_ratio: tuple[float, ...] = (3.0, 3.5, 4.0)
  kinds: tuple[str, ...] = ("softmax",)


@dataclasses.dataclass(frozen=True)
class AutoFormerBase(Encoder):
  """AutoFormer-B: width 528-624, 14-16 layers, 9-10 heads of 64, MLP ratio 3-4."""

  embed_dim: tuple[int, ...] = (528, 576, 624)
  depth: tuple[int, ...] = (14, 15, 16)
  num_heads: tuple[int, ...] = (9, 10)
  ffn_dim: tuple[int, ...] = ()
  mlp_ratio: tuple[float, ...] = (3.0, 3.5, 4.0)
  kinds: tuple[str, ...] = ("softmax",)
