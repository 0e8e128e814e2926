"""The suite runs on two CPU devices, and every call is checked against its annotations of shapes and types."""

import math

import jax
import jaxtyping
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jaxtyping.install_import_hook("nasformer", "beartype.beartype")


@pytest.fixture
def count_products():
  """Function (fn, *args) -> multiply-adds of all matrix products and convolutions that fn does; args may be shapes."""
  return lambda fn, *args: _products(jax.make_jaxpr(fn)(*args).jaxpr)


def _products(jaxpr):
  return sum(map(_equation_products, jaxpr.eqns))


def _equation_products(equation):
  inner = [_products(getattr(part, "jaxpr", part)) for value in equation.params.values()
           for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, (Jaxpr, ClosedJaxpr))]
  match equation.primitive.name:
    case "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      lhs = equation.invars[0].aval.shape
      return equation.outvars[0].aval.size * math.prod(lhs[i] for i in contracted)
    case "conv_general_dilated":
      kernel, out_features = equation.invars[1].aval, equation.params["dimension_numbers"].rhs_spec[0]
      return equation.outvars[0].aval.size * kernel.size // kernel.shape[out_features]
    case "scan":
      return equation.params["length"] * sum(inner)
    case "cond":
      return max(inner)
    case "while":
      assert not sum(inner), "products in a loop of unknown length cannot be counted"
  return sum(inner)
