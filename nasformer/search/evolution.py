"""Evolutionary search of HAT (arXiv 2005.14187, section 3.3; the released settings).

Ours differs from the release in four points: parents keep their scores instead of being scored again, one network is a
parent only once, offspring above a limit are repaired instead of redrawn, and the last offspring are scored too.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from nasformer.search import order
from nasformer.search.domain import Domain, Draw
from nasformer.types import UserError


@struct.dataclass
class State:
  """The parents, best first; before the first scores there are none.

  Attributes:
    genes: canonical genomes.
    scores: one column per objective, larger is better; -inf for a failed evaluation.
  """

  genes: Int[Array, "P G"]
  scores: Float[Array, "P M"]


@dataclasses.dataclass(frozen=True)
class Evolution:
  """Evolution as in HAT: the best are parents of mutants and of uniform crossovers.

  Attributes:
    population: genomes of the first generation.
    num_parents: how many survive a generation.
    num_mutations: mutants of every later generation.
    num_crossovers: children of two different parents in every later generation.
    mutation_rate: probability of a gene of a mutant to be drawn anew.
  """

  population: int = 125
  num_parents: int = 25
  num_mutations: int = 50
  num_crossovers: int = 50
  mutation_rate: float = 0.3

  def __post_init__(self):
    if not 2 <= self.num_parents <= self.population:
      raise UserError(f"strategy.num_parents={self.num_parents} must be between 2 and"
                      f" strategy.population={self.population}")
    if min(self.num_mutations, self.num_crossovers) < 0 or self.num_mutations + self.num_crossovers == 0:
      raise UserError(f"strategy.num_mutations={self.num_mutations} and strategy.num_crossovers={self.num_crossovers}"
                      " must be at least 0 and not both 0")
    if not 0 < self.mutation_rate <= 1:
      raise UserError(f"strategy.mutation_rate={self.mutation_rate} must be above 0 and at most 1")

  def init(self, key: Array, domain: Domain) -> State:
    """No parents yet."""
    return State(jnp.zeros((0, domain.space.num_genes), jnp.int32), jnp.zeros((0, 1)))

  def ask(self, key: Array, state: State, domain: Domain) -> Draw:
    """Samples the first generation; afterwards breeds mutants, then crossovers."""
    num = len(state.scores)
    if num == 0:
      return domain.sample(key, self.population)
    pick, mutate, cross, repair = jax.random.split(key, 4)
    one, two = jax.random.uniform(pick, (2, self.num_mutations + self.num_crossovers))
    one = (one * num).astype(jnp.int32)
    two = (one + 1 + (two * (num - 1)).astype(jnp.int32)) % num  # never the same
    first, other = state.genes[one], state.genes[two]
    mutants = domain.space.mutate(mutate, first[: self.num_mutations], self.mutation_rate)
    children = domain.space.cross(cross, first[self.num_mutations :], other[self.num_mutations :])
    return domain.repair(repair, jnp.concatenate([mutants, children]))

  def tell(self, state: State, genes: Int[Array, "P G"], scores: Float[Array, "P M"]) -> State:
    """Keeps the best distinct networks among parents and offspring; a score that is not finite counts as the worst."""
    genes = jnp.concatenate([state.genes, genes])
    scores = order.first_met(genes, jnp.concatenate([state.scores.reshape(-1, scores.shape[1]), scores]))
    best = order.best_first(scores)[: self.num_parents]
    return State(genes[best], scores[best])
