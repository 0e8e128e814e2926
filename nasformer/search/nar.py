"""NAR (arXiv 2201.12725): networks are sorted into tiers of quality, and new ones are drawn as the best tier is made.

Where the costs of the best tier tell it from the worst ones, caps on cost are drawn from its histogram and candidates from
what keeps them; half of the candidates know no cap. A ranker sorts all, and the best by score among those it puts into the
first tier are scored. The paper picks the best of its rounds by test accuracy; here every score that is read counts.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nasformer.predict import features
from nasformer.predict.nar import Nar as Ranker
from nasformer.predict.nar import tiers_of
from nasformer.search.archive import Archive, most_promising
from nasformer.search.domain import Domain, Draw
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Nar:
  """NAR: draws networks as the best tier of those scored is made, and scores what a ranker puts into that tier.

  Attributes:
    labels: random networks that are scored first.
    batch: networks scored in every later generation.
    ranker: sorts networks into tiers.
    pool: candidates drawn in every generation, half of them under caps.
    group: candidates that share one draw of caps.
    bins: of the histogram of a cost over the best tier.
    gate: least divergence of that histogram from those of the two worst tiers for the tier to decide the caps.
    memory: networks that are learned from; the worst of more are forgotten.
  """

  labels: int = 100
  batch: int = 10
  ranker: Ranker = Ranker()
  pool: int = 512
  group: int = 32
  bins: int = 8
  gate: float = 0.05
  memory: int = 256

  def __post_init__(self):
    for name in ("labels", "batch", "group", "bins"):
      if getattr(self, name) < 1:
        raise UserError(f"strategy.{name}={getattr(self, name)} must be at least 1")
    if self.pool < 2 * self.batch or self.pool % (2 * self.group):
      raise UserError(f"strategy.pool={self.pool} must be a multiple of 2 x strategy.group = {2 * self.group} and at least"
                      f" 2 x strategy.batch = {2 * self.batch}")
    if self.memory < self.labels + self.batch or self.labels < self.ranker.least:
      raise UserError(f"strategy.labels={self.labels}, strategy.memory={self.memory}: at least {self.ranker.least} labels are"
                      " needed, and a memory that holds them and a batch")

  def init(self, key: Array, domain: Domain) -> Archive:
    """Nothing is known."""
    return Archive.empty(domain.space.num_genes)

  def ask(self, key: Array, state: Archive, domain: Domain) -> Draw:
    """A random sample; afterwards the best candidates of the first tier."""
    if not len(state.scores):
      return domain.sample(key, self.labels)
    learn, draw, caps = jax.random.split(key, 3)
    blocks, weights = features.Blocks(), state.alive.astype(jnp.float32)
    model = self.ranker.fit(learn, blocks(domain.space, state.genes), state.labels(), weights)
    pool = domain.sample(draw, self.pool)
    inputs = blocks(domain.space, pool.genes)
    first = self.ranker.tiers(model, inputs).argmax(-1) == 0
    free = jnp.arange(self.pool) >= self.pool // 2
    sought = (free | self._under_caps(caps, state, domain, pool.genes)) & ~state.knows(pool.genes)
    score = self.ranker.predict(model, inputs)
    span = jnp.ptp(score) + 1
    worth = jnp.where(sought, score + span * first, score - 2 * span)  # first tier, then the rest, then what was met
    genes, _ = most_promising(pool.genes, worth, self.batch)
    return Draw(genes, pool.rejected)

  def tell(self, state: Archive, genes: Int[Array, "P G"], scores: Float[Array, "P M"]) -> Archive:
    """Remembers the labels."""
    return state.add(genes, scores, self.memory)

  def _under_caps(self, key: Array, state: Archive, domain: Domain, genes: Int[Array, "P G"]):
    """Which candidates keep the caps that their group drew."""
    groups = self.pool // self.group
    tiers = tiers_of(state.labels(), state.alive.astype(jnp.float32), self.ranker.num_tiers)
    kept = jnp.ones(len(genes), bool)
    for number, cost in enumerate(domain.costs.values()):
      values = cost.rough(state.genes)
      edges, likely = self._histogram(values, tiers, state.alive)
      place = jax.random.categorical(jax.random.fold_in(key, number), jnp.log(likely), shape=(groups,))
      kept &= cost.rough(genes) <= jnp.repeat(edges[place], self.group)
    return kept

  def _histogram(self, values: Float[Array, "P"], tiers: Int[Array, "P"], alive) -> tuple[Array, Array]:
    """Upper edges of the bins of a cost, and how likely each is drawn."""
    low, high = jnp.where(alive, values, jnp.inf).min(), jnp.where(alive, values, -jnp.inf).max()
    place = jnp.clip(((values - low) / jnp.maximum(high - low, 1e-6) * self.bins).astype(jnp.int32), 0, self.bins - 1)
    last = self.ranker.num_tiers - 1
    share = lambda tier: _normal(jax.ops.segment_sum((alive & (tiers == tier)).astype(jnp.float32), place, self.bins))
    best = share(0)
    telling = jnp.minimum(*(divergence(best, share(tier)) for tier in (last, max(last - 1, 1)))) >= self.gate
    edges = low + (high - low) * (1 + jnp.arange(self.bins)) / self.bins
    return edges, jnp.where(telling, best, 1 / self.bins)


def divergence(one: Float[Array, "K"], two: Float[Array, "K"]) -> Float[Array, ""]:
  """KL(softmax of shares || softmax of shares), over the number of bins, as the released code measures it."""
  log_one, log_two = jax.nn.log_softmax(one * len(one)), jax.nn.log_softmax(two * len(two))
  return (jnp.exp(log_one) * (log_one - log_two)).sum() / len(one)


def _normal(counts: Float[Array, "K"]) -> Float[Array, "K"]:
  return counts / jnp.maximum(counts.sum(), 1)
