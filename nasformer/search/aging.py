"""Regularised evolution (Real et al. 2019, arXiv 1802.01548, algorithm 1): the oldest die, not the worst.

Ours differs in two points: a generation is a batch of children, each of its own tournament over one and the same queue
(as the paper's parallel workers do), and a mutant may differ from its parent in more than one gene.
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
  """The queue, oldest first; before the first scores it is empty.

  Attributes:
    genes: canonical genomes.
    scores: one column per objective, larger is better.
    place: of each member in the order of all, 0 for the best.
  """

  genes: Int[Array, "P G"]
  scores: Float[Array, "P M"]
  place: Int[Array, "P"]


@dataclasses.dataclass(frozen=True)
class AgingEvolution:
  """Aging evolution: mutants of tournament winners replace the oldest, so that nothing survives by one lucky score.

  Attributes:
    population: length of the queue, and genomes of the first generation.
    tournament: how many are drawn from the queue, with replacement, for each child; the best of them is its parent.
    num_children: mutants of every later generation.
    mutation_rate: probability of a gene of a mutant to change; at least one does. None changes one on average.
    eta: how much changes of ordinal genes prefer near options; 0 not at all.
  """

  population: int = 100
  tournament: int = 25
  num_children: int = 50
  mutation_rate: float | None = None
  eta: float = 0.0

  def __post_init__(self):
    if self.population < 2:
      raise UserError(f"strategy.population={self.population} must be at least 2")
    for name in ("tournament", "num_children"):
      if not 1 <= getattr(self, name) <= self.population:
        raise UserError(f"strategy.{name}={getattr(self, name)} must be between 1 and"
                        f" strategy.population={self.population}")
    variation.check_rates(self.mutation_rate, self.eta)

  def init(self, key: Array, domain: Domain) -> State:
    """Nobody yet."""
    return State(jnp.zeros((0, domain.space.num_genes), jnp.int32), jnp.zeros((0, 1)), jnp.zeros(0, jnp.int32))

  def ask(self, key: Array, state: State, domain: Domain) -> Draw:
    """Samples the first generation; afterwards mutates winners of tournaments."""
    num = len(state.genes)
    if num == 0:
      return domain.sample(key, self.population)
    draw, mutate, repair = jax.random.split(key, 3)
    drawn = (jax.random.uniform(draw, (self.num_children, self.tournament)) * num).astype(jnp.int32)
    winner = drawn[jnp.arange(self.num_children), state.place[drawn].argmin(1)]
    rate = variation.mutation_rate(self.mutation_rate, domain.space)
    return domain.repair(repair, variation.mutate(mutate, domain.space, state.genes[winner], rate, self.eta))

  def tell(self, state: State, genes: Int[Array, "P G"], scores: Float[Array, "P M"]) -> State:
    """Adds the children and lets the oldest die."""
    genes = jnp.concatenate([state.genes, genes])[-self.population :]
    scores = jnp.concatenate([state.scores.reshape(-1, scores.shape[1]), scores])[-self.population :]
    return State(genes, scores, jnp.argsort(order.best_first(scores)))
