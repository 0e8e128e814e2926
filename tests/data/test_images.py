"""Images made on demand equal images made at once, and broken ones are named."""

import numpy as np
import pytest
from PIL import Image

from nasformer.data import images
from nasformer.types import UserError


@pytest.fixture
def noise():
  return np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def lazy(noise):
  return images.Lazy(list(noise), lambda item: item, noise.shape)


def test_lazy_indexes_as_an_array(noise, lazy):
  for where in (np.array([4]), np.array([29, 0, 0, 7]), np.arange(30)):
    np.testing.assert_array_equal(lazy[where], noise[where])
    np.testing.assert_array_equal(images.pick(lazy, where)[np.arange(len(where))], images.pick(noise, where))


def test_in_memory_respects_the_limit(noise, lazy, monkeypatch):
  np.testing.assert_array_equal(images.in_memory(lazy), noise)
  monkeypatch.setattr(images, "IN_MEMORY_BYTES", noise.nbytes - 1)
  assert images.in_memory(lazy) is lazy


def test_moments_of_arrays_and_of_samples(noise, lazy):
  for mean, std in (images.moments(noise), images.moments(lazy)):  # 30 images are fewer than a sample takes
    np.testing.assert_allclose(mean, noise.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, noise.std((0, 1, 2)), rtol=1e-9)
  mean, std = images.moments(np.full((2, 3, 3, 1), 9, np.uint8))
  assert (mean[0], std[0]) == (9, 1)


def test_resized_is_pillows_bicubic(noise):
  made = images.resized(noise, 9)[np.array([3])][0]
  np.testing.assert_array_equal(made, np.asarray(Image.fromarray(noise[3]).resize((9, 9), Image.Resampling.BICUBIC)))
  grey = noise[..., :1]
  np.testing.assert_array_equal(images.resized(grey, 9)[np.array([3])].shape, (1, 9, 9, 1))
  square = noise[:, :5]
  assert images.resized(square, 5) is square


def test_decode_exact_insists_on_the_shape(write, noise):
  content = write.encode(noise[0], "PNG")
  np.testing.assert_array_equal(images.decode_exact((6, 5, 3), ("x", content)), noise[0])
  with pytest.raises(UserError, match=r"a/b.png is 6x5 RGB.*32x32"):
    images.decode_exact((32, 32, 3), ("a/b.png", content))
  with pytest.raises(UserError, match=r"a/b.png is 6x5 L"):
    images.decode_exact((6, 5, 3), ("a/b.png", write.encode(noise[0][..., :1], "PNG")))


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:12], lambda raw: b"",
                                    lambda raw: b"no image at all"])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_broken_images_are_named(write, damage, form, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
  path = tmp_path / "broken.img"
  path.write_bytes(damage(write.encode(pixels, form)))
  with pytest.raises(UserError, match="broken.img cannot be read as an image"):
    images.decode_square(40, path)
  with pytest.raises(UserError, match="broken.img cannot be read as an image"):
    images.decode_exact((40, 40, 3), ("broken.img", path.read_bytes()))


def test_decode_square_cuts_the_centre(tmp_path):
  pixels = np.zeros((10, 30, 3), np.uint8)
  pixels[:, 10:20] = 255  # the middle third is white, and it is all that is left
  path = tmp_path / "wide.png"
  Image.fromarray(pixels).save(path)
  np.testing.assert_array_equal(images.decode_square(10, path), np.full((10, 10, 3), 255))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_decode_square_makes_rgb_of_all_modes(mode, tmp_path):
  path = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
  Image.new("RGB", (12, 12), (200, 200, 200)).convert(mode).save(path)
  made = images.decode_square(6, path)
  assert made.shape == (6, 6, 3) and made.dtype == np.uint8
  if mode != "1":  # which dithers
    np.testing.assert_allclose(made, 200, atol=8)  # a palette has few colours


def test_decode_square_turns_photographs_upright(tmp_path):
  pixels = np.zeros((8, 8, 3), np.uint8)
  pixels[:4] = 255
  exif = Image.Exif()
  exif[0x0112] = 3  # taken upside down
  Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
  np.testing.assert_array_equal(images.decode_square(8, tmp_path / "x.png"), pixels[::-1])


def test_deep_pixels_are_refused(tmp_path):
  Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
  with pytest.raises(UserError, match="deep.png has more than 8 bits"):
    images.decode_square(4, tmp_path / "deep.png")
