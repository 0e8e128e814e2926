"""The vision Transformer: patch embedding, pre-norm layers, final norm, mean over the patches, linear head.

It follows the classifier of the mixed CIFAR-10 space (OpenNLPLab/mixFormer, after AutoFormer): a class token takes part
in attention but the head reads the mean of the patches, positions are learned, the MLP uses ReLU.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from nasformer.attention.base import Context, Count, Kind, Sizes, Tensor, Tensors, xavier
from nasformer.nets import blocks
from nasformer.nets.blocks import Keep, Noise
from nasformer.ops import masks
from nasformer.types import EncoderSpec, LayerSpec, UserError


@dataclasses.dataclass(frozen=True)
class Vision:
  """Vision Transformer; everything that search does not choose.

  Attributes:
    patch_size: side of the square patches, in pixels.
    activation: "relu" or "gelu", in the MLP.
    class_token: add a token that takes part in attention (the head reads the mean of the patches all the same).
    scale_embedding: multiply the tokens by sqrt(width) before positions are added, as the released CIFAR-10 code does.
    dropout: rate on the hidden activations at the largest width; a narrower network gets proportionally less.
    stochastic_depth: drop probability of the last layer, rising linearly from 0 at the first.
    dtype: compute type, "float32" or "bfloat16"; parameters, norms and softmax stay in float32.
  """

  patch_size: int = 16
  activation: str = "relu"
  class_token: bool = True
  scale_embedding: bool = False
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  dtype: str = "float32"

  def __post_init__(self):
    if self.activation not in blocks.ACTIVATIONS:
      raise UserError(f"net.activation={self.activation!r}: it must be one of {', '.join(blocks.ACTIVATIONS)}")
    if self.dtype not in ("float32", "bfloat16"):
      raise UserError(f"net.dtype={self.dtype!r}: it must be 'float32' or 'bfloat16'")
    for name in ("dropout", "stochastic_depth"):
      if not 0 <= getattr(self, name) <= 0.99:  # a rate that rounds to 1 would leave nothing to scale up
        raise UserError(f"net.{name}={getattr(self, name)}: it must lie between 0 and 0.99")
    if self.patch_size < 1:
      raise UserError(f"net.patch_size={self.patch_size}: it must be at least 1")


@dataclasses.dataclass(frozen=True)
class VisionNet:
  """A vision Transformer for given images and classes, of any size: tensors, functions and costs of its parts.

  Attributes:
    config: what search does not choose.
    image_shape: height, width, channels.
    num_classes: size of the output.
    kinds: attention kinds by name.
    mean: per channel, of pixel values from 0 to 255.
    std: likewise.
  """

  config: Vision
  image_shape: tuple[int, int, int]
  num_classes: int
  kinds: tuple[tuple[str, Kind], ...]
  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (255.0,)

  def __post_init__(self):
    height, width, _ = self.image_shape
    patch = self.config.patch_size
    if height % patch or width % patch:
      raise UserError(f"net.patch_size={patch} does not divide images of {height}x{width}: choose a common divisor, such"
                      f" as {max(d for d in range(1, patch + 1) if height % d == width % d == 0)}")

  def kind(self, name: str) -> Kind:
    return dict(self.kinds)[name]

  @property
  def grid(self) -> tuple[int, int]:
    """Patches along height and width."""
    return self.image_shape[0] // self.config.patch_size, self.image_shape[1] // self.config.patch_size

  @property
  def num_patches(self) -> int:
    return math.prod(self.grid)

  @property
  def length(self) -> int:
    """Number of tokens."""
    return self.num_patches + self.config.class_token

  @property
  def counting(self) -> str:
    """The rule of counting, in words."""
    return ("FLOPs = 2 x multiply-adds of all matrix products for one image, embedding and classifier included;"
            " parameters = all trained numbers")

  # -- the ends of the network --------------------------------------------------------------------------------------

  def stem_tensors(self, embed_dim: int) -> dict[str, Tensor]:
    patch_dim = self.config.patch_size**2 * self.image_shape[2]
    small = jax.nn.initializers.truncated_normal(0.02)
    tensors = {
        "patch": Tensor((patch_dim, embed_dim), (None, "embed"), xavier(patch_dim, embed_dim)),
        "patch_bias": Tensor((embed_dim,), ("embed",), jax.nn.initializers.zeros),
        "position": Tensor((self.length, embed_dim), (None, "embed"), small),
    }
    return tensors | ({"class": Tensor((embed_dim,), ("embed",), small)} if self.config.class_token else {})

  def stem(self, params: Tensors, images: Shaped[Array, "B height width channels"],
           keep: Keep | None = None) -> Float[Array, "B T D"]:
    """Images with pixel values from 0 to 255 to tokens."""
    dtype = jnp.dtype(self.config.dtype)
    pixels = (images.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)
    x = _patches(pixels.astype(dtype), self.config.patch_size) @ params["patch"].astype(dtype)
    x = x + params["patch_bias"].astype(dtype)
    if self.config.class_token:
      first = jnp.broadcast_to(params["class"].astype(dtype), (x.shape[0], 1, x.shape[2]))
      x = jnp.concatenate([first, x], axis=1)
    if self.config.scale_embedding:
      x = x * jnp.sqrt(x.shape[-1] if keep is None else keep.embed.sum()).astype(dtype)
    return masks.zero(x + params["position"].astype(dtype), None if keep is None else keep.embed)

  def head_tensors(self, embed_dim: int) -> dict[str, Tensor]:
    return blocks.norm_tensors(embed_dim) | {
        "classes": Tensor((embed_dim, self.num_classes), ("embed", None), xavier(embed_dim, self.num_classes)),
        "classes_bias": Tensor((self.num_classes,), (None,), jax.nn.initializers.zeros),
    }

  def head(self, params: Tensors, x: Float[Array, "B T D"], keep: Keep | None = None) -> Float[Array, "B C"]:
    """Tokens to logits, in float32."""
    x = blocks.norm(params, x.astype(jnp.float32), keep)[:, int(self.config.class_token):].mean(1)
    return x @ params["classes"] + params["classes_bias"]

  # -- layers -------------------------------------------------------------------------------------------------------

  def attention_tensors(self, embed_dim: int, layer: LayerSpec) -> dict[str, Tensor]:
    sizes = Sizes(embed_dim, layer.num_heads, layer.head_dim, grid=self.grid)
    return blocks.norm_tensors(embed_dim) | self.kind(layer.kind).params(sizes)

  def attention(self, kind: str, params: Tensors, x: Float[Array, "B T D"], keep: Keep | None = None,
                noise: Noise | None = None, carry=None) -> tuple[Float[Array, "B T D"], object]:
    mine = blocks.found(carry, kind)
    x, mine = blocks.attention_block(self.kind(kind), params, x, Context(grid=self.grid), keep, noise, mine)
    return x, blocks.passed(carry, kind, mine)

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
    """Cost of one part for one image; roles and sizes are those of `nasformer.space.encoder`."""
    if role == "ends":
      tensors = [self.stem_tensors(sizes["embed_dim"]), self.head_tensors(sizes["embed_dim"])]
      patch_dim = self.config.patch_size**2 * self.image_shape[2]
      products = sizes["embed_dim"] * (self.num_patches * patch_dim + self.num_classes)
      return Count(sum(map(blocks.num_params, tensors)), products)
    if role == "attention":
      layer = Sizes(sizes["embed_dim"], sizes["num_heads"], sizes["head_dim"], grid=self.grid)
      return blocks.attention_count(self.kind(sizes["kind"]), layer, self.length, self.length)
    return blocks.mlp_count(sizes["embed_dim"], sizes["ffn_dim"], self.length)

  def count_spec(self, spec: EncoderSpec) -> Count:
    """Cost of a whole network for one image."""
    total = self.count("ends", embed_dim=spec.embed_dim)
    for layer in spec.layers:
      total += self.count("attention", embed_dim=spec.embed_dim, kind=layer.kind, num_heads=layer.num_heads,
                          head_dim=layer.head_dim)
      total += self.count("mlp", embed_dim=spec.embed_dim, ffn_dim=layer.ffn_dim)
    return total


class VisionTransformer(nn.Module):
  """One small network, as derived from a search: `VisionTransformer(net, spec).apply({"params": params}, images)`.

  Attributes:
    net: images, classes and all that search does not choose.
    spec: sizes and attention kinds.
    width_share: its width as a share of the largest in the space, which scales dropout.
  """

  net: VisionNet
  spec: EncoderSpec
  width_share: float = 1.0

  @nn.compact
  def __call__(self, images: Shaped[Array, "B height width channels"], key: Array | None = None) -> Float[Array, "B C"]:
    """Images with pixel values from 0 to 255 to logits; a key switches training noise on."""
    net, spec = self.net, self.spec
    x = net.stem(self._tensors("stem", net.stem_tensors(spec.embed_dim)), images)
    carry = None
    for i, layer in enumerate(spec.layers):
      attention_noise, mlp_noise = layer_noise(net, key, i, spec.depth, self.width_share)
      params = self._tensors(f"layer_{i}_attention", net.attention_tensors(spec.embed_dim, layer))
      x, carry = net.attention(layer.kind, params, x, noise=attention_noise, carry=carry)
      params = self._tensors(f"layer_{i}_mlp", net.mlp_tensors(spec.embed_dim, layer.ffn_dim))
      x = net.mlp(params, x, noise=mlp_noise)
    return net.head(self._tensors("head", net.head_tensors(spec.embed_dim)), x)

  def _tensors(self, name: str, declared: dict[str, Tensor]) -> Tensors:
    return self.param(name, functools.partial(blocks.initialise, declared=declared))


def layer_noise(net: VisionNet, key: Array | None, layer: int | Array, depth: int,
                width_share: float | Array) -> tuple[Noise | None, Noise | None]:
  """Noise of the two blocks of a layer."""
  if key is None or not (net.config.dropout or net.config.stochastic_depth):
    return None, None
  return tuple(net.noise(part, layer, depth, width_share) for part in jax.random.split(key))


def _patches(images: Float[Array, "B height width channels"], size: int) -> Float[Array, "B patches patch_dim"]:
  batch, height, width, channels = images.shape
  x = images.reshape(batch, height // size, size, width // size, size, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)
