"""Wide attention (Brown et al. 2022, "Wide Attention Is The Way Forward For Transformers?", arXiv 2210.00640).

The heads of the whole network are fixed, as is their size: fewer layers have more of them each, evenly or not. What attention
costs stays the same along that trade; MLPs, norms and the time that layers wait for each other become fewer.
"""

import dataclasses

from nasformer.space.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Wide(Encoder):
  """48 heads of 16 in 1-6 layers of width 128-256, shared in any way by fours, 1 x 48 to 6 x 8 among them."""

  embed_dim: tuple[int, ...] = (128, 192, 256)
  depth: tuple[int, ...] = (1, 2, 3, 4, 6)
  num_heads: tuple[int, ...] = ()
  head_budget: int = 48
  head_step: int = 4
  head_dim: int = 16
  ffn_dim: tuple[int, ...] = (256, 384, 512)
