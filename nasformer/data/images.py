"""Images as a split holds them: an array, or items that are decoded when they are asked for."""

import concurrent.futures
import dataclasses
import functools
import io
import math
import os
import pathlib
from typing import Any, Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps

from nasformer.types import UserError

IN_MEMORY_BYTES = 2**30  # a split up to this size is decoded once; a larger one batch by batch, every epoch again
SAMPLE = 1024  # images that the statistics of a split are taken from where it does not fit into memory


@dataclasses.dataclass(frozen=True, eq=False)
class Lazy:
  """Stands where an array of images could, and makes the images that it is indexed by.

  Attributes:
    items: what the images are made from, one each.
    decode: makes an image, uint8[height width channels], from an item.
    shape: as of the array.
  """

  items: Sequence | np.ndarray
  decode: Callable[[Any], np.ndarray]
  shape: tuple[int, int, int, int]

  def __getitem__(self, indices: Int[np.ndarray, "B"]) -> UInt8[np.ndarray, "B height width channels"]:
    made = np.empty((len(indices), *self.shape[1:]), np.uint8)

    def fill(rows: np.ndarray) -> None:
      for row in rows:
        made[row] = self.decode(self.items[indices[row]])

    threads = os.cpu_count()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:  # Pillow decodes outside Python's lock
      list(pool.map(fill, np.array_split(np.arange(len(made)), 4 * threads)))
    return made

  def pick(self, indices: Int[np.ndarray, "K"]) -> "Lazy":
    """The images at these positions, still not made."""
    return Lazy([self.items[i] for i in indices], self.decode, (len(indices), *self.shape[1:]))


Images = UInt8[np.ndarray, "_ _ _ _"] | Lazy


def pick(images: Images, indices: Int[np.ndarray, "K"]) -> Images:
  """The images at these positions, made only if `images` are."""
  return images.pick(indices) if isinstance(images, Lazy) else images[indices]


def in_memory(images: Images) -> Images:
  """Makes all images now, unless they would take more than `IN_MEMORY_BYTES`."""
  if isinstance(images, np.ndarray) or math.prod(images.shape) > IN_MEMORY_BYTES:
    return images
  return images[np.arange(images.shape[0])]


def resized(images: Images, size: int) -> Images:
  """The images with sides of `size` pixels; they are scaled when they are asked for."""
  if images.shape[1:3] == (size, size):
    return images
  return Lazy(images, functools.partial(_scale, size), (images.shape[0], size, size, images.shape[3]))


def moments(images: Images) -> tuple[Float[np.ndarray, "channels"], Float[np.ndarray, "channels"]]:
  """Mean and standard deviation of each channel, in grey levels, from exact counts: the same on every machine."""
  if isinstance(images, Lazy):
    images = images[np.linspace(0, len(images.items) - 1, min(len(images.items), SAMPLE)).astype(int)]
  counts = np.zeros((images.shape[3], 256), np.int64)
  for start in range(0, len(images), SAMPLE):
    for channel, row in enumerate(counts):
      row += np.bincount(images[start : start + SAMPLE, ..., channel].ravel(), minlength=256)
  level = np.arange(256)
  mean = counts @ level / counts.sum(1)
  variance = counts @ level**2 / counts.sum(1) - mean**2
  return mean, np.sqrt(np.maximum(variance, 1.0))  # no division by nothing where all pixels are alike


def decode_exact(shape: tuple[int, int, int], item: tuple[str, bytes]) -> UInt8[np.ndarray, "height width channels"]:
  """Decodes the bytes of an image that must have this shape.

  Args:
    shape: height, width and 3 for RGB.
    item: the name of the image, for error messages, and its bytes.
  """
  name, content = item
  with _opened(name, io.BytesIO(content)) as image:
    if (image.height, image.width, len(image.getbands())) != shape:
      raise UserError(f"{name} is {image.height}x{image.width} {image.mode}, and an image of this data set is "
                      f"{shape[0]}x{shape[1]} RGB: fetch the file again")
    return _guarded(name, lambda: np.asarray(image))


def decode_square(size: int, path: pathlib.Path) -> UInt8[np.ndarray, "height width 3"]:
  """Decodes a file to RGB, scales its shorter side to `size` and cuts out the centre."""
  with _opened(path, path) as image:
    if image.mode.startswith(("I", "F")):
      raise UserError(f"{path} has more than 8 bits a channel ({image.mode}): convert it to 8 bits, scaled as you want")
    image.draft("RGB", (size, size))  # a large JPEG is decoded at the smallest sufficient scale, which is much faster
    return _guarded(path, lambda: np.asarray(
        ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (size, size), Image.Resampling.BICUBIC)))


def _scale(size: int, pixels: UInt8[np.ndarray, "height width channels"]) -> UInt8[np.ndarray, "size size channels"]:
  image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
  return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).reshape(size, size, -1)


def _opened(name, file) -> Image.Image:
  return _guarded(name, lambda: Image.open(file))


def _guarded(name, read: Callable):
  try:
    return read()
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises on bad files
    reason = "no image format that is known" if isinstance(error, Image.UnidentifiedImageError) else error
    raise UserError(f"{name} cannot be read as an image ({reason}): replace or remove it") from error
