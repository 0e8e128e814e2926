import jax
import jax.numpy as jnp
import pytest

from nasformer.compilations import counted


def test_every_new_shape_is_a_program():
  double = jax.jit(lambda x: 2 * x)
  inputs = [jnp.ones(size) for size in (3, 3, 4, 3, 5)]
  with counted() as count:
    for x in inputs:
      double(x)
  assert count.num == 3 and count.seconds > 0
  with counted() as again:
    double(inputs[0])
  assert again.num == 0 and count.num == 3


def test_blocks_may_be_nested_and_end_with_an_error():
  triple = jax.jit(lambda x: 3 * x)
  one, two = jnp.ones(6), jnp.ones(7)
  with counted() as outer:
    with pytest.raises(KeyError), counted() as inner:
      triple(one)
      raise KeyError
    triple(two)
  assert (inner.num, outer.num) == (1, 2)
