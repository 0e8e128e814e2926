"""Random search: the baseline that every other strategy must beat (Li and Talwalkar 2019, arXiv 1902.07638)."""

import dataclasses

from jaxtyping import Array, Float, Int

from nasformer.search.domain import Domain, Draw
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Uniform:
  """Random search: a fresh sample of the networks within the limits in every generation.

  Attributes:
    population: genomes of a generation.
  """

  population: int = 125

  def __post_init__(self):
    if self.population < 1:
      raise UserError(f"strategy.population={self.population} must be at least 1")

  def init(self, key: Array, domain: Domain) -> tuple:
    """Nothing is remembered."""
    return ()

  def ask(self, key: Array, state: tuple, domain: Domain) -> Draw:
    """Draws a generation."""
    return domain.sample(key, self.population)

  def tell(self, state: tuple, genes: Int[Array, "P G"], scores: Float[Array, "P M"]) -> tuple:
    """Learns nothing."""
    return state
