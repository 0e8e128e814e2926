"""Local search with restarts: a strong baseline for architectures (White et al. 2021, arXiv 2005.02960)."""

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
  """Where the climber stands.

  Attributes:
    genes: its genome, one row.
    scores: one column per objective, larger is better; no row before the first scores.
    tried: the latest genomes that were asked for, oldest first; -1 where there are none yet. There is room for all
      neighbours of a genome and a batch more, so none is tried twice before the climber goes on.
  """

  genes: Int[Array, "1 G"]
  scores: Float[Array, "P M"]
  tried: Int[Array, "T G"]


@dataclasses.dataclass(frozen=True)
class LocalSearch:
  """Hill climbing over networks that differ in one gene, from a new start wherever it ends.

  Each generation tries neighbours in random order and moves to the best of them if it is better: the first improvement
  found by a small batch, the best of all by one with room for all. Where no neighbour is left, the climber starts anew
  from the best of a random sample.

  Attributes:
    batch: neighbours of a generation, and networks of a random sample.
  """

  batch: int = 100

  def __post_init__(self):
    if self.batch < 2:
      raise UserError(f"strategy.batch={self.batch} must be at least 2")

  def init(self, key: Array, domain: Domain) -> State:
    """Nowhere yet."""
    num, room = domain.space.num_genes, int(domain.space.allowed.sum()) + self.batch
    return State(jnp.zeros((1, num), jnp.int32), jnp.zeros((0, 1)), jnp.full((room, num), -1, jnp.int32))

  def ask(self, key: Array, state: State, domain: Domain) -> Draw:
    """Where the climber stands and neighbours that were not tried, filled up with random networks; or only those."""
    shuffle, fill = jax.random.split(key)
    fresh, rejected = domain.sample(fill, self.batch)
    if len(state.scores) == 0:
      return Draw(fresh, rejected)
    near, other = variation.neighbours(domain.space, state.genes[0])
    excess = domain.excess(near) > 0
    waiting = other & ~(near[:, None] == state.tried).all(-1).any(1)
    rejected += (excess & waiting[:, None]).sum(0)
    waiting &= ~excess.any(1)
    queue = jnp.argsort(jax.random.uniform(shuffle, waiting.shape) + ~waiting)[: self.batch - 1]
    asked = jnp.where(waiting[queue, None], near[queue], fresh[1 : 1 + len(queue)])
    first = jnp.where(waiting.any(), state.genes, fresh[:1])  # tells `tell` that there were neighbours
    return Draw(jnp.concatenate([first, asked, fresh[1 + len(queue) :]]), rejected)

  def tell(self, state: State, genes: Int[Array, "P G"], scores: Float[Array, "P M"]) -> State:
    """Moves to the best if it is better, or anyway if it is a new start."""
    here = state.scores.reshape(-1, scores.shape[1])
    if len(here):
      here = jnp.where((genes[0] == state.genes[0]).all(), here, -jnp.inf)
    tried = jnp.concatenate([state.tried, genes[1:]])[-len(state.tried) :]
    genes, scores = jnp.concatenate([state.genes[: len(here)], genes]), jnp.concatenate([here, scores])
    best = order.best_first(scores)[:1]
    return State(genes[best], scores[best], tried)
