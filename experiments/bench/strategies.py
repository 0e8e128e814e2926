"""Search strategies at equal numbers of evaluations.

  python experiments/bench/strategies.py --data_dir=DATA --out=DIR [--seeds=20] [--parts=nk,nas_bench_bert,zdt]

nk: landscapes of Kauffman's NK model (Kauffman and Levin 1987), 10 ordinal genes of 4 options, each of which works together
with its next 2; one landscape for each seed, all 4^10 networks of which are enumerated, so the optimum is known.
nas_bench_bert: mean GLUE score of trained encoders (`tables.py` beside this file). Only 350 networks of the space were trained:
any other has the score of the one that differs from it in the fewest genes, the first of equals. The search is for the best of
the 350, over a landscape of 350 steps; how a strategy would do on the true one is not said.
Regret is the optimum less the best so far, over networks scored (a network is scored once, however often it is proposed). The
tables give its median and quartiles over the seeds, and the share of seeds that reached the optimum; the picture shows them with
regrets below 0.001 drawn there. Generations of all strategies are of one size; the labels that rankers learn from are networks
scored, and the first 40 of them random ones.
zdt: NSGA-II against pymoo's with its operators for whole numbers, on the problems of Zitzler, Deb and Thiele (2000), 10 numbers
of 33 steps: hypervolume above (1.1, 6) of everything evaluated, over 5 seeds.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import time

import jax
import numpy as np
from absl import app, flags, logging
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import tables
from nasformer import workdir
from nasformer.ops.stats import hypervolume_2d, mean_and_spread
from nasformer.progress import bar
from nasformer.report import palette
from nasformer.search import TABLE, loop
from nasformer.search.aging import AgingEvolution
from nasformer.search.domain import Domain
from nasformer.search.evolution import Evolution
from nasformer.search.local import LocalSearch
from nasformer.search.nar import Nar
from nasformer.search.nsga2 import Nsga2
from nasformer.search.ranknas import RankNas
from nasformer.search.uniform import Uniform
from nasformer.space.base import Gene, Space

STRATEGIES = {
    "random": Uniform(20),
    "evolution": Evolution(population=20, num_parents=10, num_mutations=10, num_crossovers=10),
    "aging_evolution": AgingEvolution(population=40, tournament=10, num_children=20),
    "nsga2": Nsga2(population=20),
    "local_search": LocalSearch(batch=20),
    "ranknas": RankNas(labels=40, batch=20),
    "nar": Nar(labels=40, batch=20),
}
FLOOR = 1e-3  # of the regrets in pictures
LINKS = 2  # genes that each gene of an NK landscape works together with
PROBLEMS = "zdt1", "zdt2", "zdt3", "zdt6"

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the tables; or NASFORMER_DATA.")
_OUT = flags.DEFINE_string("out", "runs/strategies", "Folder of the picture.")
_SEEDS = flags.DEFINE_integer("seeds", 20, "Seeds of nk and nas_bench_bert.")
_PARTS = flags.DEFINE_list("parts", ["nk", "nas_bench_bert", "zdt"], "What is run.")
_NK_BUDGET = flags.DEFINE_integer("nk_budget", 1000, "Evaluations of a search of nk.")
_BERT_BUDGET = flags.DEFINE_integer("bert_budget", 300, "Evaluations of a search of nas_bench_bert.")
_ZDT_BUDGET = flags.DEFINE_integer("zdt_budget", 2000, "Evaluations of a search of zdt.")


@dataclasses.dataclass(frozen=True)
class Grid(Space):
  """Ordinal genes with equally many options."""

  num: int = 10
  options: int = 4

  @functools.cached_property
  def genes(self):
    return tuple(Gene(f"gene.{i}", tuple(range(self.options))) for i in range(self.num))


def search(domain, strategy, value, budget, seed):
  """Objectives, all maximised, of the first networks that a strategy asks for; `value` gives a row for each genome."""
  talk = loop.rounds(jax.random.key(seed), domain, strategy, {}, ())
  found, send = [], None
  while len(found) < budget:
    new = talk.send(send).new
    send = value(np.stack(new)).tolist() if new else []
    found += send
  return np.array(found[:budget])


def best_so_far(domain, strategy, value, budget, seed):
  """The same for one objective: after each evaluation, the best until then."""
  return np.maximum.accumulate(search(domain, strategy, lambda genes: value(genes)[:, None], budget, seed)[:, 0])


# -- one objective -----------------------------------------------------------------------------------------------------


def nk_landscape(space, seed):
  """The value of genomes on a random landscape, and its optimum."""
  worth = np.random.default_rng(seed).uniform(size=(space.num, *(space.options,) * (LINKS + 1)))
  value = lambda genes: sum(
      worth[i][tuple(genes[:, (i + step) % space.num] for step in range(LINKS + 1))] for i in range(space.num)) / space.num
  everything = np.indices((space.options,) * space.num, np.int8).reshape(space.num, -1).T
  return value, value(everything).max()


def nk(console):
  """Regrets [strategy, seed, evaluation] on NK landscapes."""
  domain = Domain(Grid(), {}, {})
  return race(console, domain, lambda seed: nk_landscape(domain.space, seed), _NK_BUDGET.value)


def nas_bench_bert(console):
  """Regrets [strategy, seed, evaluation] on the table of encoders, in points of the mean GLUE score."""
  data_dir = pathlib.Path(_DATA_DIR.value or os.environ["NASFORMER_DATA"])
  space, members, values = tables.load("nas_bench_bert", data_dir)
  nearest = lambda genes: (genes[:, None] != members).sum(-1).argmin(1)
  landscape = (lambda genes: values["glue"][nearest(genes)]), values["glue"].max()
  return race(console, Domain(space, {}, {}), lambda seed: landscape, _BERT_BUDGET.value)


def race(console, domain, landscape, budget):
  """Regrets [strategy, seed, evaluation] of every row of the table of strategies; `landscape` of a seed: value, optimum."""
  regrets = {name: np.zeros((_SEEDS.value, budget)) for name in TABLE}
  with bar(console, "race", len(TABLE) * _SEEDS.value) as show:
    for number, (name, seed) in enumerate(itertools.product(TABLE, range(_SEEDS.value))):
      value, optimum = landscape(seed)
      regrets[name][seed] = optimum - best_so_far(domain, STRATEGIES[name], value, budget, seed)
      show(number + 1, name)
  return regrets


def tell(console, title, regrets):
  """The table of a part."""
  budget = next(iter(regrets.values())).shape[1]
  at = [budget * share // 10 for share in (1, 2, 4, 6, 8, 10)]
  table = Table("regret after", *map(str, at), "optimum found", title=title)
  for name, rows in regrets.items():
    quartiles = np.quantile(rows, (0.5, 0.25, 0.75), 0).T
    cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*quartiles[num - 1]) for num in at]
    table.add_row(name, *cells, f"{(rows[:, -1] <= 1e-9).mean():.0%}")
  console.print(table)


def draw(parts):
  """Median and quartiles of the regrets of every part."""
  figure = Figure((4.6 * len(parts), 3.6), layout="constrained")
  for axes, (title, regrets) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items()):
    for (name, rows), colour in zip(regrets.items(), (*palette.COLOURS.values(), *palette.SPARE_COLOURS)):
      low, median, high = np.maximum(np.quantile(rows, (0.25, 0.5, 0.75), 0), FLOOR)
      steps = np.arange(1, rows.shape[1] + 1)
      axes.plot(steps, median, color=colour, label=name)
      axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set(title=title, xlabel="networks scored", ylabel="regret (median and quartiles)", yscale="log")
  axes.legend(frameon=False)
  return figure


# -- several objectives ------------------------------------------------------------------------------------------------


def pymoo_found(problem, grid, budget, population, seed):
  """Objectives, minimised, of everything that pymoo's NSGA-II evaluates."""
  from pymoo.algorithms.moo.nsga2 import NSGA2
  from pymoo.core.problem import Problem
  from pymoo.operators.crossover.sbx import SBX
  from pymoo.operators.mutation.pm import PM
  from pymoo.operators.repair.rounding import RoundingRepair
  from pymoo.operators.sampling.rnd import IntegerRandomSampling
  from pymoo.optimize import minimize

  class Discrete(Problem):
    def __init__(self):
      super().__init__(n_var=grid.num, n_obj=2, xl=0, xu=grid.options - 1, vtype=int)
      self.found = []

    def _evaluate(self, x, out, *args, **kwargs):
      out["F"] = problem.evaluate(x / (grid.options - 1))
      self.found += out["F"].tolist()

  discrete, whole = Discrete(), dict(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair())
  algorithm = NSGA2(population, sampling=IntegerRandomSampling(), crossover=SBX(**whole), mutation=PM(**whole))
  minimize(discrete, algorithm, ("n_eval", budget), seed=seed, copy_algorithm=False)
  return np.array(discrete.found[:budget])


def zdt(console):
  """Prints hypervolumes of both, mean and standard deviation."""
  from pymoo.problems import get_problem

  domain, population, budget = Domain(Grid(num=10, options=33), {}, {}), 40, _ZDT_BUDGET.value
  volume = lambda found: hypervolume_2d(found, np.array([1.1, 6.0]), (False, False))
  table = Table("hypervolume", *PROBLEMS, title=f"zdt: populations of {population}, {budget} evaluations, 5 seeds")
  ways = {
      "nsga2": lambda problem, seed: -search(
          domain, Nsga2(population), lambda genes: -problem.evaluate(genes / 32), budget, seed),
      "pymoo": lambda problem, seed: pymoo_found(problem, domain.space, budget, population, seed),
      "random": lambda problem, seed: -search(
          domain, Uniform(population), lambda genes: -problem.evaluate(genes / 32), budget, seed),
  }
  for name, way in ways.items():
    cells = []
    for problem in PROBLEMS:
      mean, spread = mean_and_spread(np.array([volume(way(get_problem(problem, n_var=10), seed)) for seed in range(5)]))
      cells.append(f"{mean:.3f} ± {spread:.3f}")
    table.add_row(name, *cells)
  console.print(table)


def main(_):
  logging.set_verbosity(logging.WARNING)
  console, out, found = Console(width=180), pathlib.Path(_OUT.value), {}
  out.mkdir(parents=True, exist_ok=True)
  console.print(f"{workdir.device()}, jax {jax.__version__}", highlight=False)
  for part in _PARTS.value:
    start = time.perf_counter()
    if part == "zdt":
      zdt(console)
    else:
      title = f"{part}: {_SEEDS.value} seeds"
      found[title] = {"nk": nk, "nas_bench_bert": nas_bench_bert}[part](console)
      tell(console, title, found[title])
      draw(found).savefig(out / "strategies.png", dpi=120)
    console.print(f"{part}: {time.perf_counter() - start:.0f} s", highlight=False)


if __name__ == "__main__":
  app.run(main)
