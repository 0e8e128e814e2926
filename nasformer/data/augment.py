"""Random changes of training images, as pure functions on the device, drawn for each image apart.

Pixels are grey levels of 0..255 throughout, before any standardisation. The order is crop, flip, RandAugment, erase.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from nasformer.data import randaugment
from nasformer.types import UserError

Pixels = Num[Array, "B height width channels"]

ERASED_AREA = (0.02, 1 / 3)  # Zhong et al. 2020, as in timm: smallest and largest share of the image
ERASED_ASPECT = (0.3, 1 / 0.3)  # and of height to width


@dataclasses.dataclass(frozen=True)
class Augment:
  """Random crop, flip, RandAugment and erasing; with everything off, images pass unchanged.

  Attributes:
    crop_padding: black pixels around the image, out of which its size is cut again; 4 is usual for 32 x 32.
    flip: mirrors left and right with probability 1/2; not for digits and letters.
    randaugment_ops: how many operations of RandAugment follow each other; 2 is usual.
    randaugment_magnitude: their strength, 0 to 10; 9 is usual.
    erase_probability: chance that a rectangle is overwritten with noise; 0.25 is usual.
  """

  crop_padding: int = 0
  flip: bool = False
  randaugment_ops: int = 0
  randaugment_magnitude: float = 9.0
  erase_probability: float = 0.0

  def __post_init__(self):
    for field, high in (("crop_padding", float("inf")), ("randaugment_ops", float("inf")),
                        ("randaugment_magnitude", 10), ("erase_probability", 1)):
      if not 0 <= getattr(self, field) <= high:
        raise UserError(f"{field}={getattr(self, field)} must lie between 0 and {high}")

  def __call__(self, key: Array, images: Pixels) -> Pixels:
    """Changes each image in its own way; shape and dtype stay.

    Args:
      key: consumed.
      images: grey levels of 0..255.
    """
    crop_key, flip_key, rand_key, erase_key = jax.random.split(key, 4)
    if self.crop_padding:
      images = crop(crop_key, images, self.crop_padding)
    if self.flip:
      images = flip(flip_key, images)
    if self.randaugment_ops:
      images = randaugment.randaugment(rand_key, images, self.randaugment_ops, self.randaugment_magnitude)
    if self.erase_probability:
      images = erase(erase_key, images, self.erase_probability)
    return images


def crop(key: Array, images: Pixels, padding: int) -> Pixels:
  """Shifts each image by up to `padding` pixels either way; what comes in is black (He et al. 2016, section 4.2).

  Args:
    key: consumed.
    images: any dtype.
    padding: the largest shift.
  """
  corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)
  padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  cut = lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])
  return jax.vmap(cut)(padded, corners)


def flip(key: Array, images: Pixels) -> Pixels:
  """Mirrors each image left and right with probability 1/2.

  Args:
    key: consumed.
    images: any dtype.
  """
  mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
  return jnp.where(mirrored, images[:, :, ::-1], images)


def erase(key: Array, images: Pixels, probability: float) -> Pixels:
  """Overwrites a rectangle with uniform noise (Zhong et al. 2020, Random Erasing, RE-R).

  Area and logarithm of the aspect are uniform. A side that would leave the image is cut to it; the paper draws again.

  Args:
    key: consumed.
    images: any dtype.
    probability: chance for each image.
  """
  which_key, area_key, aspect_key, place_key, noise_key = jax.random.split(key, 5)
  num, height, width, _ = images.shape
  area = height * width * jax.random.uniform(area_key, (num,), minval=ERASED_AREA[0], maxval=ERASED_AREA[1])
  low, high = jnp.log(jnp.array(ERASED_ASPECT))
  aspect = jnp.exp(jax.random.uniform(aspect_key, (num,), minval=low, maxval=high))
  place = jax.random.uniform(place_key, (2, num))
  rows = _between(height, jnp.sqrt(area * aspect), place[0])
  columns = _between(width, jnp.sqrt(area / aspect), place[1])
  chosen = jax.random.bernoulli(which_key, probability, (num,))
  inside = chosen[:, None, None] & rows[:, :, None] & columns[:, None, :]
  noise = jax.random.randint(noise_key, images.shape, 0, 256).astype(images.dtype)
  return jnp.where(inside[..., None], noise, images)


def _between(size: int, length: Array, place: Array) -> Array:
  """Whether each of `size` positions lies in a stretch of this length, at `place` from leftmost 0 to rightmost 1."""
  length = jnp.clip(jnp.round(length), 1, size)
  start = jnp.floor(place * (size - length + 1))
  positions = jnp.arange(size)
  return (positions >= start[:, None]) & (positions < (start + length)[:, None])
