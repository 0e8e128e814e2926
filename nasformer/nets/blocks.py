"""The two residual blocks that Transformers are made of, as pure functions on declared tensors.

Each function serves the sliced network (`keep` is None) and the masked one alike. A block is: declaration of its tensors,
the function itself, and its exact cost.
"""

import math
from typing import Any, Iterable, Mapping

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
  """Randomness of one block in training; absent in evaluation. A rate of None is no noise of that sort.

  Attributes:
    key: consumed.
    hidden: dropout rate of the hidden activations of the MLP.
    branch: dropout rate of what the block adds to its input.
    weights: dropout rate of attention weights.
    drop_path: probability of leaving out the block for an example (stochastic depth).
  """

  key: Array
  hidden: Float[Array, ""] | None = None
  branch: Float[Array, ""] | None = None
  weights: Float[Array, ""] | None = None
  drop_path: Float[Array, ""] | None = None


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


def norm(params: Tensors, x: Float[Array, "*B D"], keep: Keep | None) -> Float[Array, "*B D"]:
  return masks.layer_norm(x, params["norm_scale"], params["norm_bias"], None if keep is None else keep.embed)


def attention_block(kind: Kind, params: Tensors, x: Float[Array, "B T D"], context: Context, keep: Keep | None = None,
                    noise: Noise | None = None, carry=None, *, source: Float[Array, "B S Dk"] | None = None,
                    pre_norm: bool = True) -> tuple[Float[Array, "B T D"], object]:
  """x + attention(norm(x)), or norm(x + attention(x)); and what the kind passes on.

  Args:
    kind: of attention.
    params: of the block.
    x: tokens.
    context: masks and direction.
    keep: what is alive, in a masked network.
    noise: in training.
    carry: from the layer below.
    source: what keys and values are made of, as it is; None for the tokens themselves.
    pre_norm: where the norm is.
  """
  if keep is not None:
    context = context.replace(keep_heads=keep.heads, keep_embed=keep.embed)
  if noise is not None and noise.weights is not None:
    context = context.replace(dropout_key=jax.random.fold_in(noise.key, 2), dropout=noise.weights)
  inner = x
  if pre_norm:
    inner, context = norm(params, x, keep), context.replace(residual=x)
  out, carry = kind(params, inner, inner if source is None else source, context, carry)
  return add_branch(params, x, out, keep, noise, pre_norm), carry


def found(carry: Mapping[str, Any] | None, name: str) -> Any:
  """What a layer finds of what travels up, by name of its family; None where there was none of its family yet."""
  return carry[name] if carry and name in carry else None


def passed(carry: Mapping[str, Any] | None, name: str, mine: Any) -> Any:
  """What travels on: that of other families as it was."""
  return carry if mine is None else {**(carry or {}), name: mine}


def first_carry(kinds: Iterable[tuple[str, Kind]], sizes: Sizes, x: Float[Array, "B T D"],
                keys: int | None = None) -> dict[str, Any]:
  """What travels through a network of at most these sizes before its first layer: for loops over layers, in which it has one
  form throughout.

  Args:
    kinds: with the names of their families, of which the largest member says what there is.
    sizes: the largest.
    x: tokens.
    keys: as in `Kind.first_carry`.
  """
  first: dict[str, Any] = {}
  for name, kind in kinds:
    value = kind.first_carry(sizes, *x.shape[:2], x.dtype, keys)
    if value is not None and (name not in first or _size(value) > _size(first[name])):
      first[name] = value
  return first


def _size(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def add_branch(params: Tensors, x: Float[Array, "B T D"], out: Float[Array, "B T D"], keep: Keep | None = None,
               noise: Noise | None = None, pre_norm: bool = True) -> Float[Array, "B T D"]:
  """What a block gives, from its input and its branch."""
  x = x + _drop_path(out, noise)
  return x if pre_norm else norm(params, x, keep)


def attention_count(kind: Kind, sizes: Sizes, queries: int, keys: int, causal: bool = False) -> Count:
  return norm_count(sizes.embed_dim, queries) + kind.count(sizes, queries, keys, causal)


def norm_count(embed_dim: int, length: int) -> Count:
  return Count(num_params(norm_tensors(embed_dim)), 0, length * embed_dim)


def mlp_tensors(embed_dim: int, ffn_dim: int) -> dict[str, Tensor]:
  return norm_tensors(embed_dim) | {
      "up": Tensor((embed_dim, ffn_dim), ("embed", "ffn"), xavier(embed_dim, ffn_dim)),
      "up_bias": Tensor((ffn_dim,), ("ffn",), jax.nn.initializers.zeros),
      "down": Tensor((ffn_dim, embed_dim), ("ffn", "embed"), xavier(ffn_dim, embed_dim)),
      "down_bias": Tensor((embed_dim,), ("embed",), jax.nn.initializers.zeros),
  }


def mlp_block(activation: str, params: Tensors, x: Float[Array, "B T D"], keep: Keep | None = None,
              noise: Noise | None = None, pre_norm: bool = True) -> Float[Array, "B T D"]:
  """x + W₂ act(W₁ norm(x)), or norm(x + W₂ act(W₁ x))."""
  inner = norm(params, x, keep) if pre_norm else x
  hidden = inner @ params["up"].astype(x.dtype) + params["up_bias"].astype(x.dtype)
  hidden = masks.zero(ACTIVATIONS[activation](hidden), None if keep is None else keep.ffn)
  if noise is not None and noise.hidden is not None:
    hidden = masks.dropout(jax.random.fold_in(noise.key, 1), hidden, noise.hidden)
  out = hidden @ params["down"].astype(x.dtype) + params["down_bias"].astype(x.dtype)
  return add_branch(params, x, masks.zero(out, None if keep is None else keep.embed), keep, noise, pre_norm)


def mlp_count(embed_dim: int, ffn_dim: int, length: int) -> Count:
  return Count(num_params(mlp_tensors(embed_dim, ffn_dim)), 2 * length * embed_dim * ffn_dim, length * embed_dim)


def _drop_path(x, noise):
  """Dropout of what a block adds; leaves it out for whole examples and scales up the rest (Huang et al. 2016)."""
  if noise is None:
    return x
  if noise.branch is not None:
    x = masks.dropout(jax.random.fold_in(noise.key, 3), x, noise.branch)
  if noise.drop_path is None:
    return x
  stay = jax.random.bernoulli(noise.key, 1 - noise.drop_path, (x.shape[0], 1, 1))
  return jnp.where(stay, x / (1 - noise.drop_path).astype(x.dtype), 0)
