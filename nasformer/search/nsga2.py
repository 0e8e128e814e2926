"""NSGA-II (Deb et al. 2002, IEEE Transactions on Evolutionary Computation 6(2)) on genomes.

Selection, elitism and their order are those of the paper. Variation is made for genomes: uniform crossover instead of
simulated binary crossover, and mutation to other options, rather near ones where genes are ordinal. A network that is met
again is behind all others.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from nasformer.search import order, variation
from nasformer.search.domain import Domain, Draw
from nasformer.types import UserError


@struct.dataclass
class State:
  """The parents, best first by front and crowding; before the first scores there are none.

  Attributes:
    genes: canonical genomes.
    scores: one column per objective, larger is better; -inf for a failed evaluation.
  """

  genes: Int[Array, "P G"]
  scores: Float[Array, "P M"]


@dataclasses.dataclass(frozen=True)
class Nsga2:
  """NSGA-II: the whole front of several objectives, by non-dominated rank and crowding; the best of all survive.

  Attributes:
    population: parents, and children of every generation.
    crossover_rate: probability of a child to have two parents before it is mutated.
    mutation_rate: probability of a gene of a child to change; at least one does. None changes one on average.
    eta: how much changes of ordinal genes prefer near options; 0 not at all.
  """

  population: int = 100
  crossover_rate: float = 0.9
  mutation_rate: float | None = None
  eta: float = 3.0

  def __post_init__(self):
    if self.population < 2:
      raise UserError(f"strategy.population={self.population} must be at least 2")
    if not 0 <= self.crossover_rate <= 1:
      raise UserError(f"strategy.crossover_rate={self.crossover_rate} must lie between 0 and 1")
    variation.check_rates(self.mutation_rate, self.eta)

  def init(self, key: Array, domain: Domain) -> State:
    """No parents yet."""
    return State(jnp.zeros((0, domain.space.num_genes), jnp.int32), jnp.zeros((0, 1)))

  def ask(self, key: Array, state: State, domain: Domain) -> Draw:
    """Samples the first generation; afterwards breeds as many children as there are parents."""
    if len(state.genes) == 0:
      return domain.sample(key, self.population)
    pick, pair, cross, mutate, repair = jax.random.split(key, 5)
    rivals = (jax.random.uniform(pick, (2, 2, self.population)) * len(state.genes)).astype(jnp.int32)
    one, two = state.genes[rivals.min(1)]  # binary tournaments: the better one stands further up
    both = jax.random.uniform(pair, (self.population, 1)) < self.crossover_rate
    children = jnp.where(both, domain.space.cross(cross, one, two), one)
    rate = variation.mutation_rate(self.mutation_rate, domain.space)
    return domain.repair(repair, variation.mutate(mutate, domain.space, children, rate, self.eta))

  def tell(self, state: State, genes: Int[Array, "P G"], scores: Float[Array, "P M"]) -> State:
    """Keeps the best of parents and children."""
    genes = jnp.concatenate([state.genes, genes])
    scores = order.first_met(genes, jnp.concatenate([state.scores.reshape(-1, scores.shape[1]), scores]))
    best = order.best_first(scores)[: self.population]
    return State(genes[best], scores[best])
