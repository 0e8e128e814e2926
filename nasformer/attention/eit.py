"""The enhanced multi-head attention of EIT (Zheng et al. 2022, "EIT: Enhanced Interactive Transformer", arXiv 2212.10197).

Every head of the queries meets every head of the keys, which gives H² maps of logits. Two small networks over the axis of
the heads, the same for all pairs of tokens, bring them down to one map per head: inside a query head ("inner", H maps to U
hidden units to one map), then across the heads ("cross", H maps to H S hidden units to H maps). They start as the identity,
since ReLU(x) - ReLU(-x) = x: the layer starts as softmax attention. The mask comes after them, so nothing is ever convolved
with a masked logit. Widths and initialisers are not published; these are ours.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from nasformer.attention.base import Can, Count, Tensor
from nasformer.attention.softmax import Softmax
from nasformer.ops import masks
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Eit(Softmax):
  """EIT's enhanced multi-head attention: every query head meets every key head; quadratic in length and heads.

  Attributes:
    inner_units: U, hidden units of each query head.
    cross_units: S, hidden units between the heads, per head.
  """

  can = Can(divides=False)
  elastic: ClassVar[tuple[str, ...]] = ("inner_units", "cross_units")
  inner_units: int = 4
  cross_units: int = 4

  def __post_init__(self):
    for name in ("inner_units", "cross_units"):
      if getattr(self, name) < 2:
        raise UserError(f"eit.{name}={getattr(self, name)}: it must be at least 2")

  def core_params(self, sizes):
    heads, inner, cross, zeros = sizes.num_heads, self.inner_units, self.cross_units, jax.nn.initializers.zeros
    return {
        "inner_in": Tensor((heads, heads, inner), ("heads", "heads", None), _in),
        "inner_in_bias": Tensor((heads, inner), ("heads", None), zeros),
        "inner_out": Tensor((heads, inner), ("heads", None), lambda key, shape: jnp.broadcast_to(_signs(shape[-1]), shape)),
        "inner_out_bias": Tensor((heads,), ("heads",), zeros),
        "cross_in": Tensor((heads, heads, cross), ("heads", "heads", None), _in),
        "cross_in_bias": Tensor((heads, cross), ("heads", None), zeros),
        "cross_out": Tensor((heads, cross, heads), ("heads", None, "heads"),
                            lambda key, shape: jnp.einsum("u,nm->num", _signs(shape[1]), jnp.eye(shape[0]))),
        "cross_out_bias": Tensor((heads,), ("heads",), zeros),
    }

  def attend(self, params, q, k, v, context):
    logits = self._maps(params, q, k, context.keep_heads)
    mask = masks.visible(context.key_mask, context.causal, q.shape[1], k.shape[1])
    weights = masks.softmax(logits, mask)
    if context.dropout_key is not None:
      weights = masks.dropout(context.dropout_key, weights, context.dropout)
    return jnp.einsum("bnts,bsne->btne", weights.astype(v.dtype), v)

  def recall(self, params, state, q, position, copies):
    weights = masks.softmax(self._maps(params, q, state["k"], None), state["mask"][:, None, None, :])
    return jnp.einsum("bnts,bsne->btne", weights.astype(q.dtype), state["v"])

  def _maps(self, params, q, k, keep):
    """One map of logits for every head; those of dead heads are zero, whatever the biases say."""
    wide = masks.accumulator(q)
    params = {name: params[name].astype(wide) for name in params}
    alive = (lambda maps: maps) if keep is None else (lambda maps: jnp.where(keep[:, None, None], maps, 0))
    mix = params["inner_in"] if keep is None else jnp.where(keep[:, None], params["inner_in"], 0)
    q = q / math.sqrt(q.shape[-1])
    if self._folds(q.shape[2]):
      k = jnp.einsum("bsmh,nmu->bsnuh", k, mix.astype(k.dtype))
      hidden = jnp.einsum("btnh,bsnuh->bnuts", q, k, preferred_element_type=wide)
    else:
      pairs = jnp.einsum("btnh,bsmh->bnmts", q, k, preferred_element_type=wide)
      hidden = jnp.einsum("bnmts,nmu->bnuts", pairs, mix)
    hidden = jax.nn.relu(hidden + params["inner_in_bias"][..., None, None])
    maps = alive(jnp.einsum("bnuts,nu->bnts", hidden, params["inner_out"]) + params["inner_out_bias"][:, None, None])
    hidden = jnp.einsum("bnts,nmu->bumts", maps, params["cross_in"]) + params["cross_in_bias"].T[..., None, None]
    hidden = alive(jax.nn.relu(hidden))
    return alive(jnp.einsum("bumts,mun->bnts", hidden, params["cross_out"]) + params["cross_out_bias"][:, None, None])

  def _folds(self, num_heads):
    """Whether it is cheaper to mix the keys than the H² maps; the first layer is linear, so it is the same."""
    return self.inner_units < num_heads

  def core_count(self, sizes, queries, keys, causal):
    heads, dim, inner, pairs = sizes.num_heads, sizes.head_dim, self.inner_units, queries * keys
    if self._folds(heads):
      first = heads * inner * pairs * dim + keys * dim * heads**2 * inner
    else:
      first = heads**2 * pairs * dim + pairs * heads**2 * inner
    rest = pairs * (heads * inner + 2 * self.cross_units * heads**2) + heads * pairs * dim
    params = sum(math.prod(tensor.shape) for tensor in self.core_params(sizes).values())
    return Count(params, first + rest, heads * queries * dim)


def _in(key, shape):
  """Two units for the map of every head itself, as it is and negated; the others see all of them a little."""
  own = jnp.eye(shape[0])[..., None] * _signs(shape[-1])
  return jnp.where(jnp.arange(shape[-1]) < 2, own, 0.02 * jax.random.normal(key, shape))


def _signs(units):
  return jnp.zeros(units).at[:2].set(jnp.array([1.0, -1.0]))
