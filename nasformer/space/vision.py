"""The mixed CIFAR-10 space of "Neural Architecture Search on Efficient Transformers and Beyond" (arXiv 2207.13955).

The lists are those of the released configuration (OpenNLPLab/mixFormer, supernet-S): 44 genes, 10^23.6 networks.
"""

import dataclasses

from nasformer.space.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Vision(Encoder):
  """Mixed CIFAR-10 space: width 320-448, 12-14 layers, 5-7 heads of 64, attention kind per layer; 44 genes."""

  embed_dim: tuple[int, ...] = (320, 384, 448)
  depth: tuple[int, ...] = (12, 13, 14)
  num_heads: tuple[int, ...] = (5, 6, 7)
  ffn_dim: tuple[int, ...] = (672, 896, 1344, 1568, 1792)
  kinds: tuple[str, ...] = ("cosformer", "softmax", "softmax_relative")
