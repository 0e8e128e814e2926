"""The two residual blocks that Transformers are made of, as pure functions on declared tensors.

Each function serves the sliced network (`keep` is None) and the masked one alike. A block is: declaration of its tensors,
the function itself, and its exact cost.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from nasformer.attention.base import Context, Count, Kind, Sizes, Tensor, Tensors, xavier
from nasformer.ops import masks

ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu}


@struct.dataclass
class Keep:
  """Living channels, heads and hidden units of a masked network."""

  embed: Bool[Array, "D"]
  heads: Bool[Array, "*L N"] | None = None
  ffn: Bool[Array, "*L F"] | None = None


@struct.dataclass
class Noise:
  """Randomness of one block in training; absent in evaluation.

  Attributes:
    key: consumed.
    dropout: rate on the hidden activations.
    drop_path: probability of leaving out the block for an example (stochastic depth).
  """

  key: Array
  dropout: Float[Array, ""]
  drop_path: Float[Array, ""]


def initialise(key: Array, declared: dict[str, Tensor]) -> Tensors:
  """Draws every tensor from its own key."""
  keys = jax.random.split(key, len(declared))
  return {name: tensor.init(k, tensor.shape) for k, (name, tensor) in zip(keys, declared.items(), strict=True)}


def num_params(declared: dict[str, Tensor]) -> int:
  return sum(math.prod(tensor.shape) for tensor in declared.values())


def decayed(tree):
  """Which parameters weight decay applies to: all but biases and the scales of norms, told by name."""
  whether = lambda path, _: not path[-1].key.endswith(("_bias", "_scale"))
  return jax.tree_util.tree_map_with_path(whether, tree, is_leaf=lambda leaf: isinstance(leaf, Tensor))


def norm_tensors(dim: int) -> dict[str, Tensor]:
  return {"norm_scale": Tensor((dim,), ("embed",), jax.nn.initializers.ones),
          "norm_bias": Tensor((dim,), ("embed",), jax.nn.initializers.zeros)}


def norm(params: Tensors, x: Float[Array, "B T D"], keep: Keep | None) -> Float[Array, "B T D"]:
  return masks.layer_norm(x, params["norm_scale"], params["norm_bias"], None if keep is None else keep.embed)


def attention_block(kind: Kind, params: Tensors, x: Float[Array, "B T D"], context: Context, keep: Keep | None = None,
                    noise: Noise | None = None, carry=None) -> tuple[Float[Array, "B T D"], object]:
  """x + attention(norm(x)), and what the kind passes on."""
  if keep is not None:
    context = context.replace(keep_heads=keep.heads, keep_embed=keep.embed)
  normed = norm(params, x, keep)
  out, carry = kind(params, normed, normed, context, carry)
  return x + _drop_path(out, noise), carry


def attention_count(kind: Kind, sizes: Sizes, length: int) -> Count:
  return Count(num_params(norm_tensors(sizes.embed_dim))) + kind.count(sizes, length, length)


def mlp_tensors(embed_dim: int, ffn_dim: int) -> dict[str, Tensor]:
  return norm_tensors(embed_dim) | {
      "up": Tensor((embed_dim, ffn_dim), ("embed", "ffn"), xavier(embed_dim, ffn_dim)),
      "up_bias": Tensor((ffn_dim,), ("ffn",), jax.nn.initializers.zeros),
      "down": Tensor((ffn_dim, embed_dim), ("ffn", "embed"), xavier(ffn_dim, embed_dim)),
      "down_bias": Tensor((embed_dim,), ("embed",), jax.nn.initializers.zeros),
  }


def mlp_block(activation: str, params: Tensors, x: Float[Array, "B T D"], keep: Keep | None = None,
              noise: Noise | None = None) -> Float[Array, "B T D"]:
  """x + W₂ act(W₁ norm(x))."""
  hidden = norm(params, x, keep) @ params["up"].astype(x.dtype) + params["up_bias"].astype(x.dtype)
  hidden = masks.zero(ACTIVATIONS[activation](hidden), None if keep is None else keep.ffn)
  if noise is not None:
    hidden = _dropout(jax.random.fold_in(noise.key, 1), hidden, noise.dropout)
  out = hidden @ params["down"].astype(x.dtype) + params["down_bias"].astype(x.dtype)
  return x + _drop_path(masks.zero(out, None if keep is None else keep.embed), noise)


def mlp_count(embed_dim: int, ffn_dim: int, length: int) -> Count:
  return Count(num_params(mlp_tensors(embed_dim, ffn_dim)), 2 * length * embed_dim * ffn_dim)


def _dropout(key, x, rate):
  """Zeroes entries with the given probability, in steps of 1/256: one random byte per entry is four times cheaper than
  a random float, which on a CPU would cost as much as the matrix products around it."""
  level = jnp.round(jnp.asarray(rate, jnp.float32) * 256)
  keep = jax.random.bits(key, x.shape, jnp.uint8) >= level
  return jnp.where(keep, x / (1 - level / 256).astype(x.dtype), 0)


def _drop_path(x, noise):
  """Leaves out the branch for whole examples and scales up the rest (Huang et al. 2016)."""
  if noise is None:
    return x
  stay = jax.random.bernoulli(noise.key, 1 - noise.drop_path, (x.shape[0], 1, 1))
  return jnp.where(stay, x / (1 - noise.drop_path).astype(x.dtype), 0)
