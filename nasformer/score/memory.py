"""Peak memory of a compiled program, as its compiler planned it: nothing is run.

Arguments, results and what is needed in between; an argument whose buffer a result takes over counts once.
"""

import dataclasses
from typing import Any, Callable, ClassVar

from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class PeakMemory:
  """Megabytes (10⁶ bytes) that the compiled program of a network takes: weights, inputs, outputs, and what is in between."""

  unit: ClassVar[str] = "MB"

  def measure(self, program: Callable, *shapes: Any) -> float:
    """Compiles a function, or takes a compiled step, for arguments of these shapes.

    Args:
      program: a jitted function.
      shapes: trees of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      UserError: the compiler of this device does not tell.
    """
    return self.planned(program.lower(*shapes).compile())

  def planned(self, compiled: Any) -> float:
    """The same of what `jax.jit(...).lower(...).compile()` gave."""
    plan = compiled.memory_analysis()
    if plan is None:
      raise UserError("the compiler of this device does not tell how much memory a program takes: leave memory_mb and"
                      " training_memory_mb out of search.limits and search.minimise")
    total = (plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
             - plan.alias_size_in_bytes)
    return total / 1e6
