"""A total shared out among parts: its compositions, the ways to write it as a sum of positive whole numbers in order.

Genes of parts are independent of one another for whoever varies them, and so they seldom add up. Here they are settled: what
was chosen is read as shares, and the nearest composition is taken. Nothing is drawn and rejected.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

_FAR = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Compositions:
  """Compositions of `total` into as many parts as there are, the methods being valid under jit, and on the host for NumPy.

  Attributes:
    total: what the parts add up to.
    sizes: what a part may be, by option, in rising order.
    numbers: of parts, by option.
    allowed: which options each part may have.
  """

  total: int
  sizes: tuple[int, ...]
  numbers: tuple[int, ...]
  allowed: Bool[np.ndarray, "L K"]

  @functools.cached_property
  def possible(self) -> Bool[np.ndarray, "N"]:
    """Which numbers of parts have a composition of allowed sizes."""
    return np.array([self._ways(number, self.allowed)[0, self.total] > 0 for number in self.numbers])

  @functools.cached_property
  def ways(self) -> Float[np.ndarray, "N L_and_1 T"]:
    """In how many ways the parts from one on add up to what is left; any option is allowed where that leaves no way."""
    return np.stack([self._ways(number, options) for number, options in zip(self.numbers, self._options)])

  @functools.cached_property
  def _options(self) -> Bool[np.ndarray, "N L K"]:
    return self.allowed | ~self.possible[:, None, None]

  def _ways(self, number: int, options: Bool[np.ndarray, "L K"]) -> Float[np.ndarray, "L_and_1 T"]:
    ways = np.zeros((len(options) + 1, self.total + 1))
    ways[number:, 0] = 1
    for part in reversed(range(number)):
      for k in np.flatnonzero(options[part]):
        ways[part, self.sizes[k] :] += ways[part + 1, : self.total + 1 - self.sizes[k]]
    return ways

  def settle(self, chosen: Int[Array | np.ndarray, "*P L"], number: Int[Array | np.ndarray, "*P"],
             keep: Bool[Array | np.ndarray, "*P L"] | None = None) -> Int[Array | np.ndarray, "*P L"]:
    """Options of parts that add up, near what was chosen; what adds up already stays, and so do parts beyond the number.

    Every part gets 1, and what is then left of the total is shared out in proportion to what parts have beyond 1, by
    rounding the running sum. A part that may not have its size takes the nearest with which the others can still add up.

    Args:
      chosen: option of each part.
      number: of parts that there are, as an option.
      keep: parts that stay and let the others share the rest, if all of them can.
    """
    xp = np if isinstance(chosen, np.ndarray) else jnp
    here = xp.arange(chosen.shape[-1]) < xp.asarray(self.numbers)[number][..., None]
    sizes = xp.where(here, xp.asarray(self.sizes)[chosen], 0)
    keep = here & (False if keep is None else keep)
    spare = lambda keep: self.total - xp.where(keep, sizes, here).sum(-1, keepdims=True)
    keep = keep & (spare(keep) >= 0) & (here & ~keep).any(-1, keepdims=True)
    others = here & ~keep
    beyond = xp.where(others, sizes - 1, 0)
    beyond = xp.where(beyond.any(-1, keepdims=True), beyond, others)
    whole = beyond.sum(-1, keepdims=True)
    shared = (2 * xp.cumsum(beyond, -1) * spare(keep) + whole) // (2 * whole)
    goal = shared + xp.cumsum(xp.where(keep, sizes, here), -1)

    def nearest(part, left, ways):
      distance = abs(xp.asarray(self.sizes) - (goal[..., part] - self.total + left)[..., None])
      return xp.where(ways > 0, distance, _FAR).argmin(-1)

    if self.allowed.all():  # every part may have what it is to get
      option = np.searchsorted(self.sizes, np.arange(self.total + 1))
      settled = xp.asarray(option)[xp.diff(goal, prepend=0)]
    else:
      settled = self._walk(xp, chosen, number, nearest)
    return xp.where((sizes.sum(-1, keepdims=True) == self.total) | ~here, chosen, settled).astype(chosen.dtype)

  def draw(self, place: Float[Array, "*P L"], chosen: Int[Array, "*P L"], number: Int[Array, "*P"]) -> Int[Array, "*P L"]:
    """Options of parts by their place in [0, 1), so that uniform places give every composition alike; the others as chosen."""

    def option(part, left, ways):
      ways = ways.cumsum(-1)
      return (ways > place[..., part, None] * ways[..., -1:]).argmax(-1)

    return self._walk(jnp, chosen, number, option).astype(chosen.dtype)

  def _walk(self, xp: Any, chosen: Any, number: Any, pick: Callable) -> Any:
    """Part by part, `pick(part, what is left, ways to go on by option)`."""
    sizes, ways, options, numbers = map(xp.asarray, (self.sizes, self.ways, self._options, self.numbers))

    def step(left, part):
      after = left[..., None] - sizes
      going = options[number, part] * ways[number[..., None], part + 1, xp.maximum(after, 0)]
      option = pick(part, left, xp.where(after >= 0, going, 0))
      here = part < numbers[number]
      return xp.where(here, left - sizes[option], left), xp.where(here, option, chosen[..., part])

    left, parts = xp.full(number.shape, self.total), xp.arange(chosen.shape[-1])
    if xp is jnp:
      return jnp.moveaxis(jax.lax.scan(step, left, parts)[1], 0, -1)
    found = []
    for part in parts:
      left, option = step(left, part)
      found.append(option)
    return np.stack(found, -1)

  def links(self, number: int, parts: Sequence[int], helper: int) -> tuple[tuple[tuple[int, ...], np.ndarray], ...]:
    """What adds up, as tables over few variables each: number, a part, and the sums before and after it (see `Space.links`).

    Args:
      number: position of the number of parts.
      parts: positions of the parts.
      helper: position of the first sum.
    """
    sums, links = np.arange(self.total + 1), []
    for i, part in enumerate(parts):
      first, last = i == 0, i == len(parts) - 1
      count, size, before, after = np.ix_(
          self.numbers, self.sizes, sums[:1] if first else sums, sums[-1:] if last else sums)
      fits = before + np.where(i < count, size, 0) == after
      between = tuple(helper + k for k, named in ((i - 1, not first), (i, not last)) if named)
      links.append(((number, part, *between), fits.reshape(*fits.shape[:2], *(len(sums) for _ in between))))
    return tuple(links)
