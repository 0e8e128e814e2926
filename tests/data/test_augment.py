"""Every image changes in its own way, and only as it should."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.data import augment
from nasformer.data.augment import Augment
from nasformer.types import UserError

ALL = Augment(crop_padding=2, flip=True, randaugment_ops=2, erase_probability=0.5)
EACH = [Augment(crop_padding=2), Augment(flip=True), Augment(randaugment_ops=2), Augment(erase_probability=0.5)]
change_all = jax.jit(ALL)  # compiled once for all tests


@pytest.fixture(scope="module")
def images():
  return jnp.asarray(np.random.default_rng(0).integers(1, 256, (32, 12, 10, 3)), jnp.uint8)


def test_off_is_the_identity(images):
  same = jax.make_jaxpr(Augment())(jax.random.key(0), images)
  assert same.jaxpr.outvars[0] is same.jaxpr.invars[1]


@pytest.mark.parametrize("change", EACH)
def test_each_part_works_alone(images, change):
  made = jax.jit(change)(jax.random.key(0), images)
  assert made.shape == images.shape and made.dtype == images.dtype
  assert (made != images).any()


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32])
def test_dtype_and_range_stay(images, dtype):
  made = change_all(jax.random.key(0), images.astype(dtype))
  assert made.dtype == dtype and float(made.min()) >= 0 and float(made.max()) <= 255


def test_whole_and_real_levels_agree(images):
  whole, real = (change_all(jax.random.key(0), images.astype(dtype)) for dtype in (jnp.uint8, jnp.float32))
  assert np.abs(np.asarray(whole, np.float32) - real).max() <= 0.5


def test_a_key_means_a_result_and_images_are_independent(images):
  made = change_all(jax.random.key(1), images)
  np.testing.assert_array_equal(made, change_all(jax.random.key(1), images))
  assert (made != change_all(jax.random.key(2), images)).any()
  others = change_all(jax.random.key(1), images.at[1:].set(7))
  np.testing.assert_array_equal(made[0], others[0])


def test_equal_images_become_different(images):
  made = change_all(jax.random.key(1), jnp.broadcast_to(images[:1], images.shape))
  assert len({image.tobytes() for image in np.asarray(made)}) > 24


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels(channels):
  assert jax.eval_shape(ALL, jax.random.key(0), jnp.zeros((2, 8, 8, channels), jnp.uint8)).shape == (2, 8, 8, channels)


def test_crop_shifts_and_fills_with_black(images):
  made = np.asarray(augment.crop(jax.random.key(0), images, 2))
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
  shifts = set()
  for image, source in zip(made, padded):
    shifts |= {(y, x) for y in range(5) for x in range(5) if (image == source[y : y + 12, x : x + 10]).all()}
  assert len(shifts) > 12  # of 25, in 32 draws


def test_flip_mirrors_about_half(images):
  made = np.asarray(augment.flip(jax.random.key(0), jnp.tile(images, (8, 1, 1, 1))))
  source = np.tile(images, (8, 1, 1, 1))
  kept, mirrored = ((made == each).all((1, 2, 3)) for each in (source, source[:, :, ::-1]))
  assert (kept ^ mirrored).all()
  assert 96 < mirrored.sum() < 160  # 128 expected of 256, 4 standard deviations


def test_erase_overwrites_one_rectangle():
  blank = jnp.full((512, 16, 16, 1), 300.0)  # a level that noise never has
  made = np.asarray(jax.jit(augment.erase, static_argnums=2)(jax.random.key(0), blank, 0.25))
  changed = (made != 300)[..., 0]
  hit = changed.any((1, 2))
  assert 89 < hit.sum() < 167  # 128 expected of 512, 4 standard deviations
  for mask in changed[hit]:
    assert mask.sum() == mask.any(1).sum() * mask.any(0).sum()  # a full rectangle
  shares = changed[hit].mean((1, 2))
  assert shares.max() < 0.4 and shares.min() < 0.06 and 0.13 < shares.mean() < 0.2  # 0.18, less what is cut
  noise = made[made != 300]
  assert abs(noise.mean() - 127.5) < 5 and noise.min() < 5 and noise.max() > 250


@pytest.mark.parametrize("field, value", [("crop_padding", -1), ("randaugment_ops", -1),
                                          ("randaugment_magnitude", 11.0), ("erase_probability", 1.5)])
def test_fields_are_checked(field, value):
  with pytest.raises(UserError, match=f"{field}={value} must lie between 0"):
    dataclasses.replace(Augment(), **{field: value})
