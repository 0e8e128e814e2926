"""FAVOR+ (Choromanski et al. 2021, "Rethinking Attention with Performers", arXiv 2009.14794, 2.3-2.4; official code).

Positive random features φ(x) = exp(ω x - |x|² / 2) / sqrt(R) of x / d^(1/4) make φ(q) · φ(k) an unbiased estimate of
exp(q · k / sqrt(d)). The directions ω come in orthogonal blocks, which lowers the variance. They are a constant of the
kind, so that candidates are compared without noise and a decoded token meets the features of the whole sequence.

Of each query the largest exponent is taken away, which cancels. The released code also takes away the largest of all
keys, which lets the future into a causal output; here keys use a constant that depends on ω alone and keeps float32 from
overflowing.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nasformer.attention.base import Count
from nasformer.attention.kernel import KernelCore, padded
from nasformer.ops import masks
from nasformer.types import UserError

SAFE = 60.0  # a largest exponent that leaves sums of float32 room


@dataclasses.dataclass(frozen=True)
class Favor(KernelCore):
  """FAVOR+ (Performer): positive orthogonal random features of the softmax; linear in the length.

  Attributes:
    features_per_dim: random features by the width of a head: 4 gives the 256 of the official code at a width of 64.
    seed: the directions are drawn from it.
    epsilon: smallest divisor.
  """

  elastic: ClassVar[tuple[str, ...]] = ("features_per_dim",)
  features_per_dim: int = 4
  seed: int = 0
  epsilon: float = 1e-30

  def __post_init__(self):
    if self.features_per_dim < 1:
      raise UserError(f"favor.features_per_dim={self.features_per_dim}: it must be at least 1")

  def num_features(self, head_dim):
    return self.features_per_dim * head_dim

  def phi(self, params, x, positions, length):
    omega = directions(self.seed, self.num_features(x.shape[-1]), x.shape[-1])
    most = max(0.0, float(np.square(omega).sum(1).max()) / 2 - SAFE)
    return jnp.exp(exponents(omega, _scaled(x)) - most) / math.sqrt(len(omega))

  def phi_query(self, params, x, positions, length):
    powers = exponents(directions(self.seed, self.num_features(x.shape[-1]), x.shape[-1]), _scaled(x))
    return jnp.exp(powers - jax.lax.stop_gradient(powers.max(-1, keepdims=True)))

  def divisor(self, total):
    return jnp.maximum(total, self.epsilon)

  def core_count(self, sizes, queries, keys, causal):
    rows = sum(padded(queries, keys, causal))
    features = Count(0, sizes.num_heads * rows * self.num_features(sizes.head_dim) * sizes.head_dim,
                     2 * sizes.num_heads * rows * sizes.head_dim)
    return features + super().core_count(sizes, queries, keys, causal)


def exponents(omega: Float[np.ndarray, "R H"], x: Float[Array, "B T N H"]) -> Float[Array, "B T N R"]:
  """ω x - |x|² / 2, of which the exponential is a positive random feature."""
  return jnp.einsum("btnh,rh->btnr", x, omega.astype(x.dtype)) - jnp.square(x).sum(-1, keepdims=True) / 2


@functools.cache
def directions(seed: int, features: int, dim: int) -> Float[np.ndarray, "R H"]:
  """Normal vectors, of which each `dim` in turn are made orthogonal; fewer are the first ones of more."""
  rng = np.random.default_rng(seed)
  blocks = [_rotation(rng, dim) * np.linalg.norm(rng.normal(size=(dim, dim)), axis=1)[:, None]
            for _ in range(-(-features // dim))]
  return np.concatenate(blocks)[:features]


def _scaled(x):
  return x.astype(masks.accumulator(x)) * x.shape[-1] ** -0.25


def _rotation(rng, dim):
  """Orthonormal rows in which no direction is preferred: signs must not be those that the decomposition likes."""
  q, r = np.linalg.qr(rng.normal(size=(dim, dim)))
  return (q * np.sign(np.diag(r))).T
