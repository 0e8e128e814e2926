"""The vision Transformer: patch embedding, pre-norm layers, final norm, mean over the patches, linear head.

It follows the classifier of the mixed CIFAR-10 space (OpenNLPLab/mixFormer, after AutoFormer): a class token takes part
in attention but the head reads the mean of the patches, positions are learned, the MLP uses ReLU.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from nasformer.attention.base import Kind, Tensor, Tensors, xavier
from nasformer.nets import encoder
from nasformer.nets.blocks import Keep
from nasformer.nets.encoder import EncoderNet
from nasformer.ops import masks
from nasformer.types import UserError


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
    encoder.check(self)


@dataclasses.dataclass(frozen=True)
class VisionNet(EncoderNet):
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

  def stem_products(self, embed_dim: int) -> int:
    return self.num_patches * self.config.patch_size**2 * self.image_shape[2] * embed_dim

  def pool(self, x: Float[Array, "B T D"], mask: Bool[Array, "B T"] | None = None) -> Float[Array, "B D"]:
    """Mean of the patches."""
    return x[:, int(self.config.class_token):].mean(1)


def _patches(images: Float[Array, "B height width channels"], size: int) -> Float[Array, "B patches patch_dim"]:
  batch, height, width, channels = images.shape
  x = images.reshape(batch, height // size, size, width // size, size, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)
