"""One order of a population under any number of objectives, all maximised; failures are last. Valid under jit.

One objective orders by itself. Several order as in NSGA-II (Deb et al. 2002, IEEE Transactions on Evolutionary
Computation 6(2), section III): by front, and within a front by crowding distance, so that lonely networks come first.
Equals keep the order in which they were given.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def failed(scores: Float[Array, "P M"]) -> Bool[Array, "P"]:
  """Which rows must never win: those with an entry that is not finite."""
  return ~jnp.isfinite(scores).all(-1)


def first_met(genes: Int[Array, "P G"], scores: Float[Array, "P M"]) -> Float[Array, "P M"]:
  """The scores, with -inf throughout for a failure and for every genome that stands further up already."""
  again = jnp.tril((genes[:, None] == genes).all(-1), -1).any(-1)
  return jnp.where((failed(scores) | again)[:, None], -jnp.inf, scores)


def best_first(scores: Float[Array, "P M"]) -> Int[Array, "P"]:
  """Positions of the rows, the best one first."""
  scores = jnp.where(failed(scores)[:, None], -jnp.inf, scores)
  if scores.shape[1] == 1:
    return jnp.argsort(-scores[:, 0])
  front = fronts(scores)
  return jnp.lexsort((-crowding(scores, front), front))


def fronts(scores: Float[Array, "P M"]) -> Int[Array, "P"]:
  """The front of each row: 0 if no other dominates it, 1 if none but those of front 0 do, and so on.

  A row dominates another if it is nowhere worse and somewhere better. Rows that failed are behind all fronts.

  Args:
    scores: one column per objective.
  """
  num, lost = len(scores), failed(scores)
  dominates = (scores[:, None] >= scores).all(-1) & (scores[:, None] > scores).any(-1) & ~lost[:, None]

  def peel(carry):
    number, front, waiting = carry
    free = waiting & ~(dominates & waiting[:, None]).any(0)
    return number + 1, jnp.where(free, number, front), waiting & ~free

  start = (0, jnp.full(num, num, jnp.int32), ~lost)
  return jax.lax.while_loop(lambda carry: carry[2].any(), peel, start)[1]


def crowding(scores: Float[Array, "P M"], front: Int[Array, "P"]) -> Float[Array, "P"]:
  """Crowding distance: over the objectives, the sum of the gaps between the neighbours of a row in its front.

  Each gap is relative to the spread of the front; the ends of a front are infinitely far from others. A row that
  repeats an earlier one is at distance 0, and does not count as a neighbour.

  Args:
    scores: one column per objective.
    front: of each row, see `fronts`.
  """
  num = len(scores)
  again = jnp.tril((scores[:, None] == scores).all(-1), -1).any(-1)
  group = jnp.where(again | failed(scores), num + 1, front)  # repeated and failed rows have a front of their own

  def along(values):
    order = jnp.lexsort((values, group))
    value, of = values[order], group[order]
    first = jnp.concatenate([jnp.ones(1, bool), of[1:] != of[:-1]])
    last = jnp.concatenate([first[1:], jnp.ones(1, bool)])
    low = jax.ops.segment_min(value, of, num + 2)[of]
    high = jax.ops.segment_max(value, of, num + 2)[of]
    gap = (jnp.roll(value, -1) - jnp.roll(value, 1)) / jnp.where(high > low, high - low, 1)
    return jnp.zeros(num).at[order].set(jnp.where(first | last, jnp.inf, gap))

  distance = sum(along(values) for values in jnp.where(failed(scores)[:, None], 0, scores).T)
  return jnp.where(group > num, 0, distance)
