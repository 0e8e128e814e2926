"""RandAugment: a few operations drawn at random for each image, all at one strength.

Source: Cubuk et al. 2020, RandAugment (arXiv 1909.13719), its 14 operations and AutoAugment's invert. Strengths are
those of timm's `rand-m9-inc1`, where every operation gets stronger with the magnitude. All operations are computed for
all images and one is selected, which is what a switch under `vmap` does too: 10 ms for 64 images of 32 x 32 x 3 and two
operations on 2 CPU cores.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

OPS = ("identity", "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "color", "contrast",
       "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y")

MAX_ROTATE = 30.0  # degrees, at magnitude 10, as all of these
MAX_SHEAR = 0.3
MAX_TRANSLATE = 0.45  # of the side
MAX_ENHANCE = 0.9  # color, contrast, brightness and sharpness are multiplied by 1 plus or minus this
FILL = 128.0  # grey that comes in from outside, as in the paper's code

Levels = Float[Array, "B height width channels"]
PerImage = Num[Array, "B"]


def randaugment(key: Array, images: Num[Array, "B height width channels"], num_ops: int,
                magnitude: float) -> Num[Array, "B height width channels"]:
  """Applies `num_ops` random operations in turn; shape and dtype stay.

  Args:
    key: consumed.
    images: grey levels of 0..255.
    num_ops: operations for each image.
    magnitude: 0 to 10.
  """

  def one(levels: Levels, key: Array) -> tuple[Levels, None]:
    op_key, sign_key = jax.random.split(key)
    op = jax.random.randint(op_key, (len(images),), 0, len(OPS))
    sign = jax.random.rademacher(sign_key, (len(images),), jnp.float32)
    return apply(levels, op, sign, magnitude), None

  levels, _ = jax.lax.scan(one, images.astype(jnp.float32), jax.random.split(key, num_ops))
  return (jnp.round(levels) if jnp.issubdtype(images.dtype, jnp.integer) else levels).astype(images.dtype)


def apply(images: Levels, op: Int[Array, "B"], sign: Float[Array, "B"], magnitude: float) -> Levels:
  """Applies one operation to each image.

  Args:
    images: grey levels of 0..255.
    op: index into `OPS`.
    sign: 1 or -1, the direction of operations that have one.
    magnitude: 0 to 10.
  """
  return photometric(warp(images, *_motion(images.shape, op, sign, magnitude / 10)), op, sign, magnitude / 10)


def _motion(shape: tuple[int, ...], op: PerImage, sign: PerImage,
            strength: float) -> tuple[Float[Array, "B 2 2"], Float[Array, "B 2"]]:
  """Where a pixel of the result comes from, as matrix and shift in (y, x) from the centre; identity for other ops."""
  amount = lambda name, value: jnp.where(op == OPS.index(name), sign * strength * value, 0.0)
  angle = jnp.deg2rad(amount("rotate", MAX_ROTATE))
  matrix = jnp.stack([jnp.cos(angle), amount("shear_y", MAX_SHEAR) + jnp.sin(angle),
                      amount("shear_x", MAX_SHEAR) - jnp.sin(angle), jnp.cos(angle)], -1)
  down, right = amount("translate_y", MAX_TRANSLATE * shape[1]), amount("translate_x", MAX_TRANSLATE * shape[2])
  return matrix.reshape(-1, 2, 2), jnp.stack([down, right], -1)


def warp(images: Levels, matrix: Float[Array, "B 2 2"], shift: Float[Array, "B 2"]) -> Levels:
  """Moves pixels along an affine map, with bilinear interpolation; `FILL` comes in from outside.

  Args:
    images: grey levels of 0..255.
    matrix: from (y, x) in the result to (y, x) in the source, both counted from the centre.
    shift: added to that, in pixels.
  """
  num, height, width, channels = images.shape
  centre = jnp.array([height - 1, width - 1]) / 2
  grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1) - centre
  source = jnp.einsum("bij,hwj->bhwi", matrix, grid, precision="highest") + shift[:, None, None] + centre
  corner = jnp.floor(source)
  part = source - corner
  flat = images.reshape(num, -1, channels)
  result = jnp.zeros_like(images)
  for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
    y, x = (corner[..., 0] + down).astype(jnp.int32), (corner[..., 1] + right).astype(jnp.int32)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
    values = jax.vmap(lambda pixels, where: pixels[where])(flat, index.reshape(num, -1)).reshape(images.shape)
    weight = jnp.abs(1 - down - part[..., 0]) * jnp.abs(1 - right - part[..., 1])
    result += jnp.where(inside[..., None], values, FILL) * weight[..., None]
  return result


def photometric(images: Levels, op: Int[Array, "B"], sign: Float[Array, "B"], strength: float) -> Levels:
  """Applies the operations that change colours and leave pixels where they are; others are passed over.

  Args:
    images: grey levels of 0..255.
    op: index into `OPS`.
    sign: 1 or -1, the direction of operations that have one.
    strength: 0 to 1.
  """
  factor = (1 + sign * strength * MAX_ENHANCE)[:, None, None, None]
  enhance = lambda dull: jnp.clip(dull + factor * (images - dull), 0, 255)
  grey = _grey(images)
  step = 2.0 ** (8 - max(1, 4 - int(4 * strength)))  # timm keeps no bit at all at magnitude 10; one is kept here
  results = {
      "autocontrast": _autocontrast(images),
      "equalize": _equalize(images),
      "invert": 255 - images,
      "posterize": jnp.floor(images / step) * step,
      "solarize": jnp.where(images >= 256 - int(256 * strength), 255 - images, images),
      "color": enhance(grey),
      "contrast": enhance(grey.mean((1, 2, 3), keepdims=True)),
      "brightness": enhance(0.0),
      "sharpness": enhance(_smooth(images)),
  }
  for name, result in results.items():
    images = jnp.where((op == OPS.index(name))[:, None, None, None], result, images)
  return images


def _grey(images: Levels) -> Float[Array, "B height width 1"]:
  """Luma of ITU-R 601 for three channels, as Pillow has it; the mean for any other number."""
  if images.shape[-1] != 3:
    return images.mean(-1, keepdims=True)
  return (images * jnp.array([0.299, 0.587, 0.114])).sum(-1, keepdims=True)


def _smooth(images: Levels) -> Levels:
  """Pillow's SMOOTH: the mean of 3 x 3 pixels, the middle one counted five times; the border stays as it is."""
  height, width = images.shape[1:3]
  near = sum(images[:, y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3))
  inner = (near + 4 * images[:, 1:-1, 1:-1]) / 13
  return images.at[:, 1:-1, 1:-1].set(inner)


def _autocontrast(images: Levels) -> Levels:
  low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
  return jnp.where(high > low, (images - low) * 255 / jnp.maximum(high - low, 1e-6), images)


def _equalize(images: Levels) -> Levels:
  """Spreads the grey levels of each channel evenly, by Pillow's integer rule."""
  num, height, width, channels = images.shape
  rows = jnp.clip(jnp.round(images), 0, 255).astype(jnp.int32).transpose(0, 3, 1, 2).reshape(num * channels, -1)

  def one(levels: Int[Array, "pixels"]) -> Float[Array, "pixels"]:
    counts = jnp.zeros(256, jnp.int32).at[levels].add(1)
    step = (height * width - counts[levels.max()]) // 255
    table = (step // 2 + jnp.cumsum(counts) - counts) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.clip(table, 0, 255), jnp.arange(256))[levels].astype(jnp.float32)

  return jax.vmap(one)(rows).reshape(num, channels, height, width).transpose(0, 2, 3, 1)
