"""Momentum attention (Nguyen et al. 2022, "Momentum Transformer", arXiv 2208.00579; official code).

Causal linear attention adds φ(k_t) v_tᵀ to its state step by step, like gradient descent; here steps gather momentum:
P_t = μ P_{t-1} + γ φ(k_t) v_tᵀ, S_t = S_{t-1} + P_t, and S is read while the divisor stays that of linear attention. So
key j counts γ (1 + μ + ... + μ^(i-j)) for query i. Where a query sees everything, key j of L counts γ (1 + ... + μ^(L-j))
for all of them, L being the real length. The released parallel code weights causal layers like that too, which is not its
own recurrence: `release_weights` reproduces it wherever the length is known beforehand, so not in a decoder.

Momentum through depth is an option: u_l = μ_l u_{l-1} + A_l takes the place of a layer's output A_l. The adaptive
μ_l = (1 - sqrt(|A_l - A_{l-1}| / |u_{l-1}|))² of each token is the best one of a quadratic whose curvature is estimated from
the last two layers. Only layers of this kind take part; cross-attention has none below it.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np

from nasformer.attention import chunks, kernel
from nasformer.attention.base import Context, Count
from nasformer.attention.linear import Linear
from nasformer.ops import masks
from nasformer.types import UserError

LARGEST = 1 - 1e-4  # adaptive momentum


@dataclasses.dataclass(frozen=True)
class Momentum(Linear):
  """Linear attention whose state gathers momentum, φ = elu + 1; linear in the length.

  Attributes:
    mu: momentum, how much of a step goes into the next one; with 0, and a gamma of 1, this is linear attention.
    gamma: size of a step.
    release_weights: weights of causal layers go by the distance from the end, as in the released parallel code; layers of a
      decoder, whose length is not known, follow the recurrence all the same.
    residual: momentum through depth: "none", "fixed" or "adaptive".
    residual_mu: how much of the layers below goes into the next, if fixed.
    residual_gamma: size of a step through depth.
  """

  mu: float = 0.6
  gamma: float = 0.9
  release_weights: bool = False
  residual: Literal["none", "fixed", "adaptive"] = "none"
  residual_mu: float = 0.1
  residual_gamma: float = 0.9

  def __post_init__(self):
    for name in ("mu", "residual_mu"):
      if not 0 <= getattr(self, name) <= 1:
        raise UserError(f"momentum.{name}={getattr(self, name)}: it must lie between 0 and 1")
    if self.residual not in ("none", "fixed", "adaptive"):
      raise UserError(f"momentum.residual={self.residual!r}: it must be 'none', 'fixed' or 'adaptive'")

  # -- along the sequence -------------------------------------------------------------------------------------------

  def recurrence(self, size):
    """S and P are the two states."""
    _, gathered = self._powers(size)
    lag = np.subtract.outer(np.arange(size), np.arange(size))
    return kernel.Recurrence(
        near=self.gamma * np.where(lag >= 0, gathered[np.abs(lag)], 0),
        read=np.stack([np.ones(size), self.mu * gathered]),
        write=self._write(size), keep=self._keep(size))

  def attend(self, params, q, k, v, context):
    if self.past_only(context) and (context.stream or not self.release_weights):
      return super().attend(params, q, k, v, context)
    return Linear(self.epsilon).attend(params, q, k, self._by_distance_from_the_end(v, context), context)

  def start(self, batch, max_length, num_heads, head_dim, value_dim, dtype):
    state = super().start(batch, max_length, num_heads, head_dim, value_dim, dtype)
    return state | {"momentum": jnp.zeros_like(state["sums"][..., :-1])}

  def push(self, params, state, k, v, position):
    number, size = k.shape[1], v.shape[-1]
    values = [v * row[:, None, None] for row in jnp.asarray(self._write(number), masks.accumulator(v))]
    new = super().push(params, {"sums": 0.0}, k, jnp.concatenate(values, axis=-1), position)["sums"]
    momentum, keep = state["momentum"], self._keep(number)[:, 1].tolist()
    sums = state["sums"] + jnp.concatenate([keep[0] * momentum + new[..., :size], new[..., -1:]], axis=-1)
    return {"sums": sums, "momentum": keep[1] * momentum + new[..., size:-1]}

  def remember(self, params, k, v, context):
    return super().remember(params, k, self._by_distance_from_the_end(v, context), context)

  def core_count(self, sizes, queries, keys, causal):
    """Without the handful of multiplications per channel of momentum through depth."""
    recurrent = causal and (sizes.causal or not self.release_weights)
    count = kernel.kernel_count(sizes.num_heads, queries, keys, sizes.head_dim, sizes.head_dim, causal, 1 + recurrent)
    length, _ = kernel.padded(queries, keys, causal)
    weights = length * chunks.pieces(length, kernel.CHUNK)[1] if recurrent else keys * sizes.head_dim
    return count + Count(0, 0, sizes.num_heads * weights)

  # -- through depth ------------------------------------------------------------------------------------------------

  def first_carry(self, sizes, batch, length, dtype, keys=None):
    if self.residual == "none":
      return None
    zeros = jnp.zeros((batch, length, sizes.embed_dim), jnp.promote_types(dtype, jnp.float32))
    return {"update": zeros, "out": zeros}

  def __call__(self, params, x, source, context, carry=None):
    out, carry = super().__call__(params, x, source, context, carry)
    return self._through_depth(out, carry)

  def step(self, params, x, state, position, carry=None, context=Context()):
    out, state, carry = super().step(params, x, state, position, carry, context)
    out, carry = self._through_depth(out, carry)
    return out, state, carry

  def look(self, params, x, memory, position, carry=None, context=Context()):
    out, memory, carry = super().look(params, x, memory, position, carry, context)
    out, carry = self._through_depth(out, carry)
    return out, memory, carry

  def _through_depth(self, out, carry):
    """u_l and what the next layer needs; from nothing, u is the output itself."""
    if self.residual == "none":
      return out, carry
    wide = out.astype(masks.accumulator(out))
    update = wide
    if carry is not None:
      norm = lambda x: jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)  # the root has a slope at zero
      mu = self.residual_mu
      if self.residual == "adaptive":
        mu = jnp.clip(jnp.square(1 - jnp.sqrt(norm(wide - carry["out"]) / norm(carry["update"]))), 0, LARGEST)
      update = wide + mu * carry["update"]
    return (self.residual_gamma * update).astype(out.dtype), {"update": update, "out": wide}

  # -- its two sums ---------------------------------------------------------------------------------------------------

  def _powers(self, size):
    """μ^l and 1 + μ + ... + μ^l; never by a division by 1 - μ."""
    powers = self.mu ** np.arange(size)
    return powers, np.cumsum(powers)

  def _write(self, size):
    return self.gamma * np.stack(self._powers(size))[::-1, ::-1]

  def _keep(self, size):
    return np.array([[1, self.mu * self._powers(size)[1][-1]], [0, self.mu**size]])

  def _by_distance_from_the_end(self, v, context):
    """Values with the weights of their keys in the sequence (or in each of its copies) that they are in."""
    real = jnp.ones((1, v.shape[1]), bool) if context.key_mask is None else context.key_mask
    real = real.reshape(len(real), context.copies, -1)
    after = jnp.maximum(jnp.cumsum(real[..., ::-1], -1)[..., ::-1] - 1, 0).reshape(len(real), -1)
    weights = self.gamma * jnp.asarray(self._powers(real.shape[-1])[1], masks.accumulator(v))[after]
    return v.astype(weights.dtype) * weights[..., None, None]
