"""The attention block of the Vicinity Vision Transformer (Sun et al. 2022, arXiv 2206.10552; official code).

Vicinity attention of heads that are narrower by a factor ("feature reduction attention"), so that features of four times
their width cost less; and, as what was narrowed away is lost, a gate on every channel that is computed from the mean of
the input ("feature preserving connection"): y (1 + sigmoid(W₂ ReLU(W₁ mean x))). As in the released models W₁ and W₂ are
square and have no biases.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from nasformer.attention.base import Count, Tensor, xavier
from nasformer.attention.vicinity import Vicinity
from nasformer.ops import masks
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Vvt(Vicinity):
  """VVT: vicinity attention of narrower heads, and a gate on every channel; linear in the number of patches.

  Attributes:
    reduction: how many times narrower than those of other kinds the heads are.
  """

  alike: ClassVar[tuple[str, ...]] = ()  # of another width than everybody's
  elastic: ClassVar[tuple[str, ...]] = ("reduction",)
  reduction: int = 2

  def params(self, sizes):
    square = Tensor((sizes.embed_dim,) * 2, ("embed", "embed"), xavier(sizes.embed_dim, sizes.embed_dim))
    return super().params(self._narrow(sizes)) | {"gate_in": square, "gate_out": square}

  def __call__(self, params, x, source, context, carry=None):
    out, carry = super().__call__(params, x, source, context, carry)
    wide = x.astype(masks.accumulator(x))
    real = jnp.ones(x.shape[:2], bool) if context.key_mask is None else context.key_mask
    mean = jnp.where(real[..., None], wide, 0).sum(1) / jnp.maximum(real.sum(1, keepdims=True), 1)
    hidden = masks.zero(jax.nn.relu(mean @ params["gate_in"].astype(wide.dtype)), context.keep_embed)
    gate = jax.nn.sigmoid(hidden @ params["gate_out"].astype(wide.dtype))
    return self._clamp(out * (1 + gate[:, None])).astype(x.dtype), carry

  def count(self, sizes, queries, keys, causal=False):
    gate = Count(2 * sizes.embed_dim**2, 2 * sizes.embed_dim**2, queries * sizes.embed_dim)
    return super().count(self._narrow(sizes), queries, keys, causal) + gate

  def _narrow(self, sizes):
    if self.reduction < 1 or sizes.head_dim % self.reduction:
      raise UserError(f"vvt.reduction={self.reduction} does not divide heads of width {sizes.head_dim}")
    return dataclasses.replace(sizes, head_dim=sizes.head_dim // self.reduction)
