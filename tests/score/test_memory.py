"""The peak of a program is what its compiler planned, by hand where that is possible."""

from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from nasformer.score.memory import PeakMemory
from nasformer.types import UserError


def test_arguments_and_results_are_counted_and_donated_buffers_once():
  shape = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)  # 4 MB
  add = lambda x, y: x + y
  assert PeakMemory().measure(jax.jit(add), shape, shape) == pytest.approx(12, abs=0.1)
  assert PeakMemory().measure(jax.jit(add, donate_argnums=0), shape, shape) == pytest.approx(8, abs=0.1)


def test_what_is_needed_in_between_is_counted():
  shape = jax.ShapeDtypeStruct((1000, 1), jnp.float32)
  square = lambda x: (x @ x.T) @ x  # a matrix of 4 MB that is neither argument nor result
  assert 4 <= PeakMemory().measure(jax.jit(square), shape) <= 9


def test_a_compiler_that_does_not_tell():
  program = mock.Mock()
  program.lower.return_value.compile.return_value.memory_analysis.return_value = None
  with pytest.raises(UserError, match="does not tell how much memory"):
    PeakMemory().measure(program)
