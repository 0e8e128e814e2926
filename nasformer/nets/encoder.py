"""Encoders: pre-norm layers between a stem and a head. What the network families of encoder spaces share, whatever enters.

A family is a frozen dataclass with the fields `config`, `num_classes` and `kinds`; it says how inputs become tokens, which of
these are real, and what the head reads of them. Its configuration has the fields `patch_size`, `activation`, `dropout`,
`stochastic_depth` and `dtype` (`check`), with `dropout` the rate on hidden activations at the largest width, a narrower network getting less in
proportion, and `stochastic_depth` the drop probability of the last layer, rising linearly from 0 at the first.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nasformer.attention.base import Context, Count, Kind, Sizes, Tensor, Tensors, family, xavier
from nasformer.nets import blocks
from nasformer.nets.blocks import Keep, Noise
from nasformer.types import EncoderSpec, LayerSpec, UserError

Mask = Bool[Array, "B T"]


def check(config: Any) -> None:
  """Refuses what no encoder can be.

  Args:
    config: of a family.

  Raises:
    UserError: a field has a value that it cannot have.
  """
  if config.activation not in blocks.ACTIVATIONS:
    raise UserError(f"net.activation={config.activation!r}: it must be one of {', '.join(blocks.ACTIVATIONS)}")
  if config.dtype not in ("float32", "bfloat16"):
    raise UserError(f"net.dtype={config.dtype!r}: it must be 'float32' or 'bfloat16'")
  for name in ("dropout", "stochastic_depth"):
    if not 0 <= getattr(config, name) <= 0.99:  # a rate that rounds to 1 would leave nothing to scale up
      raise UserError(f"net.{name}={getattr(config, name)}: it must lie between 0 and 0.99")
  if config.patch_size < 1:
    raise UserError(f"net.patch_size={config.patch_size}: it must be at least 1")


class EncoderNet:
  """Base of the families: tensors, functions and costs of the parts of an encoder, of any size."""

  config: Any
  num_classes: int
  kinds: tuple[tuple[str, Kind], ...]

  def kind(self, name: str) -> Kind:
    return dict(self.kinds)[name]

  def family(self, name: str) -> str:
    """The first of the kinds that this one shares its tensors with, and what travels up."""
    return family(dict(self.kinds), name)

  # -- what a family says -------------------------------------------------------------------------------------------

  @property
  def grid(self) -> tuple[int, int] | None:
    """Height and width of the grid that tokens are; None where they are a sequence."""
    return None

  @property
  def length(self) -> int:
    """Number of tokens that costs are counted at."""
    raise NotImplementedError

  @property
  def counting(self) -> str:
    """The rule of counting, in words."""
    raise NotImplementedError

  def stem_tensors(self, embed_dim: int) -> dict[str, Tensor]:
    raise NotImplementedError

  def stem(self, params: Tensors, inputs: Any, keep: Keep | None = None) -> Float[Array, "B T D"]:
    """Inputs to tokens."""
    raise NotImplementedError

  def stem_products(self, embed_dim: int) -> int:
    """Multiply-adds of that for one example."""
    raise NotImplementedError

  def real(self, inputs: Any) -> Mask | None:
    """Which tokens are no padding; None where all are real."""
    return None

  def pool(self, x: Float[Array, "B T D"], mask: Mask | None) -> Float[Array, "B D"]:
    """What the classifier reads of normalised tokens."""
    raise NotImplementedError

  # -- the head -----------------------------------------------------------------------------------------------------

  def head_tensors(self, embed_dim: int) -> dict[str, Tensor]:
    return blocks.norm_tensors(embed_dim) | {
        "classes": Tensor((embed_dim, self.num_classes), ("embed", None), xavier(embed_dim, self.num_classes)),
        "classes_bias": Tensor((self.num_classes,), (None,), jax.nn.initializers.zeros),
    }

  def head(self, params: Tensors, x: Float[Array, "B T D"], keep: Keep | None = None,
           mask: Mask | None = None) -> Float[Array, "B C"]:
    """Tokens to logits, in float32."""
    x = self.pool(blocks.norm(params, x.astype(jnp.float32), keep), mask)
    return x @ params["classes"] + params["classes_bias"]

  # -- layers -------------------------------------------------------------------------------------------------------

  def attention_tensors(self, embed_dim: int, layer: LayerSpec) -> dict[str, Tensor]:
    sizes = Sizes(embed_dim, layer.num_heads, layer.head_dim, grid=self.grid)
    return blocks.norm_tensors(embed_dim) | self.kind(layer.kind).params(sizes)

  def attention(self, kind: str, params: Tensors, x: Float[Array, "B T D"], keep: Keep | None = None,
                noise: Noise | None = None, carry=None, mask: Mask | None = None) -> tuple[Float[Array, "B T D"], object]:
    context, name = Context(mask, mask, grid=self.grid), self.family(kind)
    x, mine = blocks.attention_block(self.kind(kind), params, x, context, keep, noise, blocks.found(carry, name))
    return x, blocks.passed(carry, name, mine)

  def mlp_tensors(self, embed_dim: int, ffn_dim: int) -> dict[str, Tensor]:
    return blocks.mlp_tensors(embed_dim, ffn_dim)

  def mlp(self, params: Tensors, x: Float[Array, "B T D"], keep: Keep | None = None,
          noise: Noise | None = None) -> Float[Array, "B T D"]:
    return blocks.mlp_block(self.config.activation, params, x, keep, noise)

  def noise(self, key: Array, layer: int | Array, depth: int, width_share: float | Array) -> Noise:
    """Randomness of layer number `layer` of a network of at most `depth`, at this share of the largest width."""
    drop_path = self.config.stochastic_depth * layer / max(depth - 1, 1)
    hidden = jnp.asarray(self.config.dropout * width_share, jnp.float32) if self.config.dropout else None
    drop_path = jnp.asarray(drop_path, jnp.float32) if self.config.stochastic_depth else None
    return Noise(jax.random.fold_in(key, layer), hidden=hidden, drop_path=drop_path)

  # -- exact costs --------------------------------------------------------------------------------------------------

  def count(self, role: str, **sizes) -> Count:
    """Cost of one part for one example; roles and sizes are those of `nasformer.space.encoder`."""
    if role == "ends":
      tensors = [self.stem_tensors(sizes["embed_dim"]), self.head_tensors(sizes["embed_dim"])]
      products = self.stem_products(sizes["embed_dim"]) + sizes["embed_dim"] * self.num_classes
      return Count(sum(map(blocks.num_params, tensors)), products)
    if role == "attention":
      layer = Sizes(sizes["embed_dim"], sizes["num_heads"], sizes["head_dim"], grid=self.grid)
      return blocks.attention_count(self.kind(sizes["kind"]), layer, self.length, self.length)
    return blocks.mlp_count(sizes["embed_dim"], sizes["ffn_dim"], self.length)

  def count_spec(self, spec: EncoderSpec) -> Count:
    """Cost of a whole network for one example."""
    total = self.count("ends", embed_dim=spec.embed_dim)
    for layer in spec.layers:
      total += self.count("attention", embed_dim=spec.embed_dim, kind=layer.kind, num_heads=layer.num_heads,
                          head_dim=layer.head_dim)
      total += self.count("mlp", embed_dim=spec.embed_dim, ffn_dim=layer.ffn_dim)
    return total


class EncoderTransformer(nn.Module):
  """One small network, as derived from a search: `EncoderTransformer(net, spec).apply({"params": params}, inputs)`.

  Attributes:
    net: its family: data, classes and all that search does not choose.
    spec: sizes and attention kinds.
    width_share: its width as a share of the largest in the space, which scales dropout.
  """

  net: EncoderNet
  spec: EncoderSpec
  width_share: float = 1.0

  @nn.compact
  def __call__(self, inputs: Any, key: Array | None = None) -> Float[Array, "B C"]:
    """Inputs to logits; a key switches training noise on."""
    net, spec = self.net, self.spec
    x, mask, carry = net.stem(self._tensors("stem", net.stem_tensors(spec.embed_dim)), inputs), net.real(inputs), None
    for i, layer in enumerate(spec.layers):
      attention_noise, mlp_noise = layer_noise(net, key, i, spec.depth, self.width_share)
      params = self._tensors(f"layer_{i}_attention", net.attention_tensors(spec.embed_dim, layer))
      x, carry = net.attention(layer.kind, params, x, noise=attention_noise, carry=carry, mask=mask)
      params = self._tensors(f"layer_{i}_mlp", net.mlp_tensors(spec.embed_dim, layer.ffn_dim))
      x = net.mlp(params, x, noise=mlp_noise)
    return net.head(self._tensors("head", net.head_tensors(spec.embed_dim)), x, mask=mask)

  def _tensors(self, name: str, declared: dict[str, Tensor]) -> Tensors:
    return self.param(name, functools.partial(blocks.initialise, declared=declared))


def layer_noise(net: EncoderNet, key: Array | None, layer: int | Array, depth: int,
                width_share: float | Array) -> tuple[Noise | None, Noise | None]:
  """Noise of the two blocks of a layer."""
  if key is None or not (net.config.dropout or net.config.stochastic_depth):
    return None, None
  return tuple(net.noise(part, layer, depth, width_share) for part in jax.random.split(key))
