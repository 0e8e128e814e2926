import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from nasformer.ops import masks

X = jnp.ones((3, 5))
W = jnp.ones((5, 7))


@jax.custom_vjp
def _custom(x):
  return x @ W


_custom.defvjp(lambda x: (_custom(x), None), lambda _, g: (g @ W.T,))


@pytest.mark.parametrize("fn, products", [
    (lambda x: x + 1, 0),
    (lambda x: x @ W, 3 * 5 * 7),
    (jax.jit(lambda x: jnp.einsum("bi,bj->bij", x, x)), 3 * 5 * 5),
    (jax.checkpoint(lambda x: x @ W), 3 * 5 * 7),
    (_custom, 3 * 5 * 7),
    (jax.vmap(lambda row: row @ W), 3 * 5 * 7),
    (lambda x: jax.lax.scan(lambda c, row: (c + row @ W, None), jnp.zeros(7), x)[0], 3 * 5 * 7),
    (lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ W, lambda y: y[:, :1] @ W[:1], x), 3 * 5 * 7),
    (jax.grad(lambda x: (_custom(x) ** 2).sum()), 2 * 3 * 5 * 7),
])
def test_products_are_found_wherever_they_hide(count_products, fn, products):
  assert count_products(fn, X) == products


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(count_products, groups):
  def convolve(images, kernel):
    return jax.lax.conv_general_dilated(images, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                        feature_group_count=groups)

  shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 9, 9, 4), (3, 3, 4 // groups, 6))]
  assert count_products(convolve, *shapes) == 2 * 4 * 4 * 6 * (3 * 3 * 4 // groups)


def test_a_loop_of_unknown_length_is_refused(count_products):
  with pytest.raises(AssertionError, match="unknown length"):
    count_products(lambda x: jax.lax.while_loop(lambda y: y[0, 0] > 0, lambda y: y @ W[:, :5], x), X)


def test_annotations_are_checked():
  with pytest.raises(jaxtyping.TypeCheckError):
    masks.zero(X, jnp.ones(4, bool))


def test_two_devices():
  assert [device.platform for device in jax.devices()] == ["cpu", "cpu"]
