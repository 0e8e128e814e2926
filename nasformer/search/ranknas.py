"""RankNAS (arXiv 2109.07383): label a few networks, learn to rank them, and let evolution look for what ranks first.

The first generation is a random sample, the labels. From then on a ranker is fitted to all that was scored, HAT's
evolution runs on its word alone, and only the networks that it ranks first are scored in truth, which checks the ranker where
evolution leads it (it was trained on random networks and is exploited far from them) and teaches it. The unimportant roles of
genes can be fixed meanwhile: the paper's pruning, here of the space and not of the ranker's inputs.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nasformer.predict import features
from nasformer.predict.importance import importance
from nasformer.predict.pairwise import Pairwise
from nasformer.search.archive import Archive, most_promising
from nasformer.search.domain import Domain, Draw
from nasformer.search.evolution import Evolution
from nasformer.space.base import Space
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class RankNas:
  """RankNAS: a ranker learned from few labels guides an evolution; only what ranks first is scored.

  Attributes:
    labels: random networks that are scored first.
    batch: networks scored in every later generation.
    ranker: what learns to rank; see `nasformer.predict`.
    inputs: the features it sees.
    evolution: the search on the ranker's word.
    turns: generations of that, for each of ours.
    keep: roles of genes that stay free, the most important ones; the others are fixed to the value with the best mean
      score. 0 prunes nothing.
    memory: networks that are learned from, the best ones.
    remember: further ones that are not proposed again. What is no longer learned from could otherwise rank first for ever.
  """

  labels: int = 100
  batch: int = 10
  ranker: Any = dataclasses.field(default_factory=Pairwise, metadata={"table": "nasformer.predict", "what": "ranker"})
  inputs: Any = dataclasses.field(default_factory=features.Both,
                                  metadata={"table": "nasformer.predict.features", "what": "features"})
  evolution: Evolution = Evolution()
  turns: int = 15
  keep: int = 0
  memory: int = 256
  remember: int = 768

  def __post_init__(self):
    for name in ("labels", "batch", "turns"):
      if getattr(self, name) < 1:
        raise UserError(f"strategy.{name}={getattr(self, name)} must be at least 1")
    if self.memory < self.labels + self.batch:
      raise UserError(f"strategy.memory={self.memory} must hold strategy.labels + strategy.batch = {self.labels + self.batch}"
                      " networks")
    if not isinstance(self.ranker, str) and self.labels < self.ranker.least:
      raise UserError(f"strategy.labels={self.labels}: {type(self.ranker).__name__} learns from {self.ranker.least} on")
    if self.keep < 0:
      raise UserError(f"strategy.keep={self.keep} must be 0 for no pruning, or a number of roles that stay free")
    if self.remember < 0:
      raise UserError(f"strategy.remember={self.remember} must be at least 0")

  @property
  def jittable(self) -> bool:
    """Whether a generation can be one compiled program."""
    return self.ranker.jittable

  def init(self, key: Array, domain: Domain) -> Archive:
    """Nothing is known."""
    return Archive.empty(domain.space.num_genes)

  def ask(self, key: Array, state: Archive, domain: Domain) -> Draw:
    """A random sample; afterwards the networks that rank first among those not met."""
    if not len(state.scores):
      return domain.sample(key, self.labels)
    learn, start, mend, walk = jax.random.split(key, 4)
    met, state = state, state.best(self.memory)
    space, num = domain.space, self.evolution.population
    view = lambda genes: self.inputs(space, genes)
    model = self.ranker.fit(learn, view(state.genes), state.labels(), state.alive.astype(jnp.float32))
    fixed = self._fixed(space, state)
    worth = lambda genes: self.ranker.predict(model, view(genes))
    new = lambda genes: jnp.where(met.knows(genes), -jnp.inf, worth(genes))

    drawn = domain.sample(start, num + self.batch).genes
    fresh, rest = self._prune(mend, domain, fixed, drawn[:num]), drawn[num:]
    pool = jnp.concatenate([jnp.where(state.alive[:, None], state.genes, fresh[:1]), fresh])
    parents = self.evolution.tell(self.evolution.init(start, domain), pool, worth(pool)[:, None])
    found = most_promising(pool, new(pool), self.batch)

    def turn(i, carry):
      parents, (genes, values), rejected = carry
      breed, repair = jax.random.split(jax.random.fold_in(walk, i))
      draw = self.evolution.ask(breed, parents, domain)
      children = self._prune(repair, domain, fixed, draw.genes)
      parents = self.evolution.tell(parents, children, worth(children)[:, None])
      everyone = jnp.concatenate([genes, children])
      return (parents, most_promising(everyone, jnp.concatenate([values, new(children)]), self.batch),
              rejected + draw.rejected)

    none = jnp.zeros(len(domain.limits), jnp.int32)
    _, (genes, values), rejected = self._repeat(turn, (parents, found, none))
    return Draw(jnp.where(jnp.isfinite(values)[:, None], genes, rest), rejected)

  def tell(self, state: Archive, genes: Int[Array, "P G"], scores: Float[Array, "P M"]) -> Archive:
    """Remembers the labels."""
    return state.add(genes, scores, self.memory + self.remember)

  def _repeat(self, turn, carry):
    if self.jittable:
      return jax.lax.fori_loop(0, self.turns, turn, carry)
    return functools.reduce(lambda carry, i: turn(i, carry), range(self.turns), carry)

  def _fixed(self, space: Space, state: Archive) -> tuple[Bool[Array, "G"], Int[Array, "G"]] | None:
    """Which genes are fixed for now, and to which option."""
    if not self.keep:
      return None
    role = np.array(_role_numbers(space))
    weights, labels = state.alive.astype(jnp.float32), state.labels()
    column_role = np.array([role[column.genes[0]] for column in features.columns(space)])
    worth = importance(features.Means()(space, state.genes)[:, 0], labels, weights)
    by_role = jax.ops.segment_max(worth, column_role, role.max() + 1)
    place = jnp.argsort(jnp.argsort(-by_role, stable=True), stable=True)
    uses = jax.nn.one_hot(state.genes, space.allowed.shape[1]) * space.active(state.genes)[..., None] * weights[:, None, None]
    pool = lambda table: jax.ops.segment_sum(table, role, role.max() + 1)[role]
    total, number = pool(jnp.einsum("pgk,p->gk", uses, labels)), pool(uses.sum(0))
    mean = jnp.where((number > 0) & space.allowed, total / jnp.maximum(number, 1), -jnp.inf)
    return (place >= self.keep)[role], mean.argmax(-1).astype(jnp.int32)

  def _prune(self, key: Array, domain: Domain, fixed, genes: Int[Array, "P G"]) -> Int[Array, "P G"]:
    if fixed is None:
      return genes
    genes = domain.space.canonical(jnp.where(fixed[0] & domain.space.active(genes), fixed[1], genes))
    return domain.repair(key, genes).genes


def _role_numbers(space: Space) -> list[int]:
  found = {i: number for number, at in enumerate(features.roles(space).values()) for i in at}
  return [found[i] for i in range(space.num_genes)]
