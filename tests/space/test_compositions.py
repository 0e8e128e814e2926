"""Compositions of small totals, all of which are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.space.compositions import Compositions


def make(total=6, numbers=(1, 3), forbidden=()):
  sizes = tuple(range(1, total + 1))
  allowed = np.ones((max(numbers), total), bool)
  for part, size in forbidden:
    allowed[part, size - 1] = False
  return Compositions(total, sizes, numbers, allowed)


def known(this, number):
  """By definition: allowed sizes of this many parts that add up."""
  options = [[size for size, can in zip(this.sizes, row) if can] for row in this.allowed[:number]]
  return {sizes for sizes in itertools.product(*options) if sum(sizes) == this.total}


def settled(this, sizes, keep=None):
  number = np.array(this.numbers.index(len(sizes)))
  pad = [0] * (len(this.allowed) - len(sizes))
  keep = None if keep is None else np.array([*keep, *pad], bool)
  return tuple((this.settle(np.array([*(size - 1 for size in sizes), *pad]), number, keep) + 1)[: len(sizes)].tolist())


FORBIDDEN = [(), ((0, 1), (2, 4), (2, 1)), ((1, 2), (1, 3), (1, 4))]


@pytest.mark.parametrize("forbidden", FORBIDDEN)
def test_ways_are_counted(forbidden):
  this = make(forbidden=forbidden)
  assert [this.ways[n, 0, this.total] for n in range(2)] == [len(known(this, number)) for number in this.numbers]


@pytest.mark.parametrize("forbidden", FORBIDDEN)
def test_whatever_is_chosen_settles(forbidden):
  """On the host and under jit alike; what adds up stays, whether allowed or not, and so do parts that are not there."""
  this = make(forbidden=forbidden)
  chosen = np.array(list(itertools.product(range(6), repeat=3)), np.int32)
  for n, number in enumerate(this.numbers):
    found = this.settle(chosen, np.full(len(chosen), n))
    np.testing.assert_array_equal(jax.jit(this.settle)(chosen, np.full(len(chosen), n)), found)
    assert found.dtype == np.int32 and (found[:, number:] == chosen[:, number:]).all()
    for before, after in zip(chosen[:, :number] + 1, found[:, :number] + 1):
      assert tuple(after) in known(this, number) if before.sum() != 6 else (before == after).all()


def test_restrictions_elsewhere_change_nothing():
  """Where some part may not have any size, it is gone from part to part, and comes to the same if that part is not there."""
  free, bound = make(numbers=(1, 2, 4)), make(numbers=(1, 2, 4), forbidden=((3, 1),))
  chosen = np.array(list(itertools.product(range(6), repeat=4)), np.int32)
  for n in range(2):
    number = np.full(len(chosen), n)
    np.testing.assert_array_equal(free.settle(chosen, number), bound.settle(chosen, number))


def test_kept_parts_stay_where_they_can():
  """Parts that are kept leave at least 1 to each of the others; of those that cannot, none is kept."""
  this = make(6, (4,))
  chosen = np.array(list(itertools.product(range(6), repeat=4)), np.int32)
  number, sizes = np.zeros(len(chosen), int), chosen + 1
  shares = this.settle(chosen, number)
  for keep in itertools.product((False, True), repeat=4):
    found = this.settle(chosen, number, np.tile(keep, (len(chosen), 1)))
    assert (found + 1).sum(1).tolist() == [6] * len(chosen)
    can = (np.where(keep, sizes, 1).sum(1) <= 6) & (not all(keep))
    assert (found == chosen)[can][:, np.array(keep)].all()
    np.testing.assert_array_equal(found[~can], shares[~can])


@pytest.mark.parametrize("sizes, keep, wanted", [
    ((12,) * 6, None, (2,) * 6),
    ((1,) * 6, None, (2,) * 6),
    ((12, 1, 1, 1, 1, 1), None, (7, 1, 1, 1, 1, 1)),
    ((4, 2), None, (9, 3)),  # of the 10 beyond 1 each, 3/4 (7.5, rounded up) and 1/4
    ((6, 6, 1, 1, 1, 1), (0, 0, 0, 0, 1, 1), (4, 4, 1, 1, 1, 1)),
    ((6, 3, 3, 1, 3, 5), (1, 0, 0, 0, 0, 0), (6, 1, 1, 1, 2, 1)),  # 1 beyond: of 10 shares the fifth part brings the half
    ((4, 2), (1, 0), (4, 8)),
    ((5,), (1,), (12,))])
def test_by_hand(sizes, keep, wanted):
  assert settled(make(12, (1, 2, 6)), sizes, keep) == wanted


def test_every_composition_is_as_likely():
  this, num = make(5, (1, 3), ((0, 2),)), 4000
  place, twos = jax.random.uniform(jax.random.key(0), (num, 3)), jnp.full((num, 3), 2)
  found = jax.jit(this.draw)(place, twos, jnp.ones(num, int))
  count = {sizes: 0 for sizes in known(this, 3)}
  for row in np.asarray(found):
    count[tuple((row + 1).tolist())] += 1
  share = 1 / len(count)
  assert max(abs(n / num - share) for n in count.values()) < 5 * np.sqrt(share * (1 - share) / num)  # 5 standard errors
  assert (this.draw(place, twos, jnp.zeros(num, int)) == jnp.array([4, 2, 2])).all()


def test_numbers_without_a_composition_are_known():
  this = make(6, (1, 2, 3), [(part, size) for part in range(3) for size in (1, 2, 4, 5, 6)])
  assert this.possible.tolist() == [False, True, False]
  assert settled(this, (1, 6)) == (3, 3) and sum(settled(this, (1, 1, 1))) == 6


def test_links_hold_where_it_adds_up():
  """Over all options, and all sums in between: some fit if the parts that are there are a composition, and no others."""
  this = make(4, (1, 3))
  links = this.links(0, (1, 2, 3), 4)
  assert [scope for scope, _ in links] == [(0, 1, 4), (0, 2, 4, 5), (0, 3, 5)]
  (_, first), (_, middle), (_, last) = links
  fits = np.einsum("nau,nbuv,ncv->nabc", *(table.astype(int) for table in (first, middle, last)))
  for n, *chosen in np.ndindex(fits.shape):
    assert fits[n, *chosen] == (sum(this.sizes[k] for k in chosen[: this.numbers[n]]) == 4)
