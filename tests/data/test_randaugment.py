"""Each operation against Pillow's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from nasformer.data import randaugment
from nasformer.data.randaugment import OPS

SIDE = 32
STRENGTH = 0.9  # magnitude 9
NUM = 2 * len(OPS)
BOTH = (jnp.tile(jnp.arange(len(OPS)), 2), jnp.repeat(jnp.array([1.0, -1.0]), len(OPS)))  # every operation, both ways
apply = jax.jit(randaugment.apply, static_argnums=3)


def repeated(image):
  return jnp.broadcast_to(jnp.asarray(image, jnp.float32), (NUM, SIDE, SIDE, 3))


@pytest.fixture(scope="module")
def images():
  """Smooth pictures, so that interpolation rules differ little, with uneven histograms and all levels below 230."""
  y, x = np.mgrid[:SIDE, :SIDE] / SIDE
  waves = [np.stack([np.sin(a * x + b * y + c) for c in (0, 1, 2)], -1) for a, b in ((3, 1), (2, 4), (5, 2), (1, 1))]
  return np.round(20 + 105 * (np.stack(waves) ** 3 + 1)).astype(np.uint8)


def affine(image, matrix, shift):
  """Pillow's affine transform for a map (y, x) -> matrix (y, x) + shift, about the centre of the image."""
  (a, b), (c, d) = matrix
  centre = SIDE / 2  # Pillow counts from the corner of the first pixel
  data = (d, c, centre - d * centre - c * centre + shift[1], b, a, centre - b * centre - a * centre + shift[0])
  return image.transform((SIDE, SIDE), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=(128,) * 3)


SHEAR, SHIFT = 0.3 * STRENGTH, 0.45 * STRENGTH * SIDE
ORACLE = {
    "identity": lambda image, sign: image,
    "autocontrast": lambda image, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, sign: ImageOps.equalize(image),
    "invert": lambda image, sign: ImageOps.invert(image),
    "rotate": lambda image, sign: image.rotate(30 * STRENGTH * sign, Image.Resampling.BILINEAR, fillcolor=(128,) * 3),
    "posterize": lambda image, sign: ImageOps.posterize(image, 1),  # 4 - int(0.9 x 4) bits
    "solarize": lambda image, sign: ImageOps.solarize(image, 26),  # 256 - int(0.9 x 256)
    "color": lambda image, sign: ImageEnhance.Color(image).enhance(1 + sign * 0.81),
    "contrast": lambda image, sign: ImageEnhance.Contrast(image).enhance(1 + sign * 0.81),
    "brightness": lambda image, sign: ImageEnhance.Brightness(image).enhance(1 + sign * 0.81),
    "sharpness": lambda image, sign: ImageEnhance.Sharpness(image).enhance(1 + sign * 0.81),
    "shear_x": lambda image, sign: affine(image, ((1, 0), (sign * SHEAR, 1)), (0, 0)),
    "shear_y": lambda image, sign: affine(image, ((1, sign * SHEAR), (0, 1)), (0, 0)),
    "translate_x": lambda image, sign: affine(image, ((1, 0), (0, 1)), (0, sign * SHIFT)),
    "translate_y": lambda image, sign: affine(image, ((1, 0), (0, 1)), (sign * SHIFT, 0)),
}
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OPS)
def test_operations_are_pillows(images, name, sign):
  num = len(images)
  made = np.asarray(apply(jnp.asarray(images, jnp.float32), jnp.full(num, OPS.index(name)), jnp.full(num, float(sign)),
                          10 * STRENGTH))
  expected = np.stack([np.asarray(ORACLE[name](Image.fromarray(image), sign)) for image in images]).astype(float)
  error = np.abs(made - expected)
  if name in MOVES:  # at its edge Pillow repeats the source, where this blends it with the fill
    error = error[:, inner(name, sign)]
    assert abs((made == 128).mean() - (expected == 128).mean()) < 0.1
  assert error.max() <= 2 and error.mean() < 0.6  # Pillow rounds or cuts to whole levels after each step


def inner(name, sign):
  """Pixels of the result that come from two pixels or more inside the source, by Pillow's own map."""
  ring = np.zeros((SIDE, SIDE, 3), np.uint8)
  ring[2:-2, 2:-2] = 255
  return np.asarray(ORACLE[name](Image.fromarray(ring), sign))[..., 0] == 255


def test_each_image_gets_its_own_operation(images):
  together = apply(repeated(images[0]), *BOTH, 9.0)
  for i, (op, sign) in enumerate(zip(*BOTH)):
    alone = apply(repeated(images[0]), jnp.full(NUM, op), jnp.full(NUM, sign), 9.0)
    np.testing.assert_array_equal(together[i], alone[0])
  assert len({image.tobytes() for image in np.asarray(together)}) == 6 + 2 * 9  # nine operations have a direction


def test_strength_nought_leaves_most_operations_without_effect(images):
  made = apply(repeated(images[0]), *BOTH, 0.0)
  for i, op in enumerate(BOTH[0]):
    if OPS[op] not in ("autocontrast", "equalize", "invert", "posterize"):
      np.testing.assert_allclose(made[i], images[0], atol=1e-3, err_msg=OPS[op])


def test_all_operations_are_drawn_alike(images):
  many = jnp.asarray(np.repeat(images[:1], 600, 0))
  made = np.asarray(jax.jit(randaugment.randaugment, static_argnums=(2, 3))(jax.random.key(0), many, 1, 9.0))
  _, counts = np.unique(made.reshape(600, -1), axis=0, return_counts=True)
  assert len(counts) == 6 + 2 * 9
  assert counts.max() <= 40 + 4 * 6.2 and counts.min() >= 20 - 4 * 4.5  # 600 / 15 and half of it, 4 standard deviations


def test_two_operations_follow_each_other(images):
  """Every result is that of some operation after some other."""
  once = apply(repeated(images[0]), *BOTH, 9.0)
  twice = np.concatenate([apply(once, jnp.full(NUM, op), jnp.full(NUM, sign), 9.0) for op, sign in zip(*BOTH)])
  for image in randaugment.randaugment(jax.random.key(0), repeated(images[0])[:16], 2, 9.0):
    assert np.abs(twice - image).mean((1, 2, 3)).min() < 0.1


def test_tiny_and_flat_images():
  """Nothing divides by nought: eight pixels a side have too few for equalize, a flat image has no contrast."""
  for image in (jnp.zeros((len(OPS), 8, 8, 1)), jnp.full((len(OPS), 2, 2, 3), 255.0)):
    made = apply(image, jnp.arange(len(OPS)), jnp.ones(len(OPS)), 9.0)
    assert made.shape == image.shape and bool(jnp.isfinite(made).all())
