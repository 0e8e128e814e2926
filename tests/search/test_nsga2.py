"""The steps of NSGA-II, and its fronts against pymoo's on the problems of Zitzler, Deb and Thiele (2000), discretised."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.ops.stats import hypervolume_2d
from nasformer.search import loop
from nasformer.search.domain import Domain
from nasformer.search.nsga2 import Nsga2, State
from nasformer.space.base import Gene, Space
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Grid(Space):
  """Ordinal genes: numbers from 0 to 1 in equal steps."""

  num: int = 8
  options: int = 17

  @functools.cached_property
  def genes(self):
    values = tuple((np.arange(self.options) / (self.options - 1)).tolist())
    return tuple(Gene(f"x.{i}", values) for i in range(self.num))


GRID = Domain(Grid(), {}, {})


def test_the_best_of_parents_and_children_survive():
  """By hand: row 1 is dominated by row 3; the copy of row 0 and the failure are behind all; 4 is lonelier than 2."""
  genes = jnp.arange(6, dtype=jnp.int32)[:, None] * jnp.ones((1, 3), jnp.int32)
  state = State(genes[:2], jnp.array([[0.0, 10], [3, 3]]))
  offspring = genes[jnp.array([0, 2, 3, 4, 5])]
  scores = jnp.array([[99.0, 99], [9, 2], [8, 4], [10, 0], [jnp.nan, 50]])
  kept = Nsga2(population=4).tell(state, offspring, scores)
  np.testing.assert_array_equal(kept.genes[:, 0], [0, 4, 3, 2])
  np.testing.assert_array_equal(kept.scores, [[0, 10], [10, 0], [8, 4], [9, 2]])


def test_parents_win_binary_tournaments():
  """Place r of n wins with probability (2 (n - r) - 1) / n²; without crossover a child is its parent but for one gene."""
  strategy = Nsga2(population=6000, crossover_rate=0.0, mutation_rate=1e-6)
  parents = jnp.tile(jnp.arange(4, dtype=jnp.int32)[:, None] * 3, (1, 8))
  children = jax.jit(lambda key: strategy.ask(key, State(parents, jnp.zeros((4, 1))), GRID).genes)(jax.random.key(0))
  differing = np.asarray((children[:, None] != parents).sum(-1))
  assert (differing.min(1) == 1).all()
  share = np.bincount(differing.argmin(1), minlength=4) / 6000
  assert np.abs(share - np.array([7, 5, 3, 1]) / 16).max() < 5 * np.sqrt(0.25 / 6000)  # 5 standard errors


def test_crossover_mixes_two_parents():
  strategy = Nsga2(population=2000, crossover_rate=0.5, mutation_rate=1e-6)
  parents = jnp.tile(jnp.array([[0], [16]], jnp.int32), (1, 8))
  children = jax.jit(lambda key: strategy.ask(key, State(parents, jnp.zeros((2, 1))), GRID).genes)(jax.random.key(0))
  mixed = ((np.asarray(children) == 0).sum(1) > 1) & ((np.asarray(children) == 16).sum(1) > 1)
  # tournaments give different parents in 2 · 3/4 · 1/4 of all pairs; 1 - 2 (1 + 8) / 2⁸ of their crossovers show it, and
  # one mutation may hide it
  assert 0.1 < mixed.mean() < 0.5 * 0.375


def front(problem, seed, num, strategy):
  """Objectives, minimised, of the first `num` evaluations."""
  talk = loop.rounds(jax.random.key(seed), GRID, strategy, {}, ())
  found, send = np.zeros((0, 2)), None
  while len(found) < num:
    new = np.stack(talk.send(send).new)
    values = problem.evaluate(new / 16.0)
    found, send = np.concatenate([found, values]), [tuple(row) for row in -values]
  return found[:num]


def pymoo_front(problem, seed, num, population):
  """The same by pymoo with its operators for whole numbers."""
  from pymoo.algorithms.moo.nsga2 import NSGA2
  from pymoo.core.problem import Problem
  from pymoo.operators.crossover.sbx import SBX
  from pymoo.operators.mutation.pm import PM
  from pymoo.operators.repair.rounding import RoundingRepair
  from pymoo.operators.sampling.rnd import IntegerRandomSampling
  from pymoo.optimize import minimize

  class Discrete(Problem):
    def __init__(self):
      super().__init__(n_var=8, n_obj=2, xl=0, xu=16, vtype=int)
      self.found = np.zeros((0, 2))

    def _evaluate(self, x, out, *args, **kwargs):
      out["F"] = problem.evaluate(x / 16.0)
      self.found = np.concatenate([self.found, out["F"]])

  discrete = Discrete()
  whole = dict(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair())
  minimize(discrete, NSGA2(population, sampling=IntegerRandomSampling(), crossover=SBX(**whole), mutation=PM(**whole),
                           eliminate_duplicates=True), ("n_eval", num), seed=seed, copy_algorithm=False)
  return discrete.found[:num]


@pytest.mark.parametrize("name", ["zdt1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zdt2", "zdt3", "zdt6"))])
def test_fronts_are_as_good_as_those_of_pymoo(name):
  """Mean hypervolume over 4 seeds, at equal populations and evaluations, beyond the front of a random sample."""
  problems = pytest.importorskip("pymoo.problems", reason="compares with pymoo")
  problem = problems.get_problem(name, n_var=8)
  volume = lambda values: hypervolume_2d(values, np.array([1.1, 6.0]), (False, False))
  ours = np.mean([volume(front(problem, seed, 1000, Nsga2(population=24))) for seed in range(4)])
  theirs = np.mean([volume(pymoo_front(problem, seed, 1000, 24)) for seed in range(4)])
  random = volume(problem.evaluate(np.random.default_rng(0).integers(0, 17, (1000, 8)) / 16.0))
  assert ours > random and ours >= 0.98 * theirs


@pytest.mark.parametrize("fields, told", [
    ({"population": 1}, "population=1"), ({"crossover_rate": 1.5}, "crossover_rate=1.5 must lie between 0 and 1"),
    ({"mutation_rate": 2.0}, "mutation_rate=2.0"), ({"eta": -1.0}, "eta=-1.0"),
])
def test_senseless_settings_are_refused(fields, told):
  with pytest.raises(UserError, match=told):
    Nsga2(**fields)
