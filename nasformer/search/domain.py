"""Where search may look: the networks of a space whose costs stay within hard limits."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nasformer.search.costs import CostTable, minimise
from nasformer.space.base import Space
from nasformer.types import UserError

_REDRAWS = 50  # of a sample before it is repaired


class Draw(NamedTuple):
  """Feasible genomes, and how many raw proposals broke each limit (in the order of `Domain.limits`) on the way."""

  genes: Int[Array, "P G"]
  rejected: Int[Array, "M"]


@dataclasses.dataclass(frozen=True, eq=False)
class Domain:
  """A space with upper limits on costs. The methods on genomes are valid under jit.

  Attributes:
    space: the networks.
    costs: every cost that is to be recorded, by name.
    limits: the largest value that some of them may have.
  """

  space: Space
  costs: Mapping[str, CostTable]
  limits: Mapping[str, float | int]

  def check(self, minimise: Sequence[str] = (), measured: Iterable[str] = ()) -> None:
    """Refuses limits that no network can meet, and objectives that are not there.

    Args:
      minimise: the costs that a search is to make small.
      measured: names of other costs that there are.

    Raises:
      UserError: with the nearest limit that can be met, or with the costs that there are.
    """
    known = sorted({*self.costs, *measured})
    for name in minimise:
      if name not in known:
        raise UserError(f"search.minimise={tuple(minimise)}: there is no cost {name!r} (there are: {', '.join(known)})")
    if len(set(minimise)) < len(minimise):
      raise UserError(f"search.minimise={tuple(minimise)} names a cost twice")
    for name, limit in self.limits.items():
      flag = f"search.limits.{name}={limit:.10g}"
      if name not in self.costs:
        raise UserError(f"{flag}: there is no such cost (there are: {', '.join(known)})")
      if not limit > 0:  # NaN neither
        raise UserError(f"{flag}: a limit must be above 0")
      least, _ = self.costs[name].minimum()
      if least > limit:
        raise UserError(f"{flag} cannot be met: the smallest network of this space needs {name}={least:.10g}")
    if not self.meets(self.cheapest[None])[0]:
      flags = " and ".join(f"search.limits.{name}={limit:.10g}" for name, limit in self.limits.items())
      nearest = ", ".join(f"{name}={self.costs[name].exact(self.cheapest):.10g}" for name in self.limits)
      raise UserError(f"no network was found that meets {flags} together: the nearest one has {nearest}")

  def meets(self, genes: Int[np.ndarray, "P G"]) -> Bool[np.ndarray, "P"]:
    """Whether every limit is kept, exactly and on the host."""
    kept = np.ones(len(genes), bool)
    for name, limit in self.limits.items():
      kept &= self.costs[name].exact(genes) <= limit
    return kept

  def excess(self, genes: Int[Array | np.ndarray, "P G"]) -> Float[Array, "P M"]:
    """How far each limited cost is above its limit, relative to the limit; 0 exactly where it is not."""
    columns = [self.costs[name].excess(genes, limit)[:, None] for name, limit in self.limits.items()]
    return jnp.concatenate([jnp.zeros((genes.shape[0], 0)), *columns], -1)

  def feasible(self, genes: Int[Array | np.ndarray, "P G"]) -> Bool[Array, "P"]:
    """Whether every limit is kept."""
    return (self.excess(genes) == 0).all(-1)

  def sample(self, key: Array, num: int) -> Draw:
    """Draws from the space's own distribution given the limits, by redrawing whatever breaks one.

    What is still outside after a fixed number of redraws is repaired, so a very tight limit is sampled less evenly.
    """
    draw, fix = jax.random.split(key)

    def redraw(carry):
      turn, genes, waiting, rejected = carry
      fresh = self.space.sample(jax.random.fold_in(draw, turn), num)
      broken = self.excess(fresh) > 0
      rejected += (broken & waiting[:, None]).sum(0)
      return turn + 1, jnp.where(waiting[:, None], fresh, genes), waiting & broken.any(-1), rejected

    genes, rejected = jnp.zeros((num, self.space.num_genes), jnp.int32), jnp.zeros(len(self.limits), jnp.int32)
    start = (0, genes, jnp.ones(num, bool), rejected)
    _, genes, _, rejected = jax.lax.while_loop(lambda carry: (carry[0] < _REDRAWS) & carry[2].any(), redraw, start)
    return Draw(self._descend(fix, genes), rejected)

  def repair(self, key: Array, genes: Int[Array, "P G"]) -> Draw:
    """Changes the genomes that break a limit until they keep all of them, and leaves the others alone."""
    return Draw(self._descend(key, genes), (self.excess(genes) > 0).sum(0))

  def _descend(self, key: Array, genes: Int[Array, "P G"]) -> Int[Array, "P G"]:
    """Redraws one gene of every infeasible genome at a time and keeps what lowers its excess.

    The inactive genes are drawn beforehand, so a gene that comes to life has a value. Whatever is infeasible after
    eight tries per option of the space gives way to the cheapest genome.
    """
    fill, walk = jax.random.split(key)
    num, num_genes = genes.shape

    def redraw(carry):
      turn, genes, excess = carry
      which, what = jax.random.split(jax.random.fold_in(walk, turn))
      gene = (jax.random.uniform(which, (num, 1)) * num_genes).astype(jnp.int32)
      here = jnp.arange(num_genes) == gene
      changed = self.space.settle(jnp.where(here, self.space.draw(what, num), genes), here)
      now = self.excess(changed).sum(-1)
      better = now < excess
      return turn + 1, jnp.where(better[:, None], changed, genes), jnp.where(better, now, excess)

    genes = jnp.where(self.space.active(genes), genes, self.space.draw(fill, num))
    start = (0, genes, self.excess(genes).sum(-1))
    turns = 8 * int(self.space.allowed.sum())
    _, genes, excess = jax.lax.while_loop(lambda carry: (carry[0] < turns) & (carry[2] > 0).any(), redraw, start)
    return self.space.canonical(jnp.where((excess > 0)[:, None], self.cheapest, genes))

  @functools.cached_property
  def cheapest(self) -> Int[np.ndarray, "G"]:
    """A genome within all limits, or the one nearest to it that was found; not canonical.

    With one limit it has the least cost. With several it is looked for from the network of the least cost of each, and
    of all relative to their limits, by changing whichever gene lowers the excess most until none does.
    """
    scaled = [
        [(scope, np.asarray(table * self.costs[name].unit / limit)) for scope, table in self.costs[name].factors]
        for name, limit in self.limits.items()
    ]
    starts = [minimise(factors, self.space)[1] for factors in [sum(scaled, []), *scaled]]
    return min(map(self._improve, starts), key=lambda genes: self._total(genes[None])[0])

  def _improve(self, genes: Int[np.ndarray, "G"]) -> Int[np.ndarray, "G"]:
    gene, option = np.nonzero(self.space.allowed)
    while True:
      near = np.tile(genes, (len(gene), 1))
      near[np.arange(len(gene)), gene] = option
      total = self._total(near)
      if total.min() >= self._total(genes[None])[0]:
        return genes
      genes = near[total.argmin()]

  def _total(self, genes: Int[np.ndarray, "P G"]) -> Float[np.ndarray, "P"]:
    """Total excess, on the host."""
    ratios = [self.costs[name].exact(genes) / limit for name, limit in self.limits.items()]
    return sum((np.maximum(ratio - 1, 0.0) for ratio in ratios), np.zeros(len(genes)))
