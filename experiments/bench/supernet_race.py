"""How many evaluations of the supernet each strategy needs to find what HAT's evolution finds, on a trained supernet.

  python experiments/bench/supernet_race.py --workdir=DIR [--seeds=3] [--generations=30] [--batches=0]

DIR is the work directory of any run whose supernet is trained. HAT's evolution runs with its released settings; the goal
is the best inherited score that it ends with. RankNAS and NAR score 100 random networks first and 10 in every later
generation, the others a generation of HAT's size. A network that any of them scored is not scored twice, but counts for
each that asked for it.
"""

import pathlib

import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from nasformer import config, stages
from nasformer.experiment import Experiment
from nasformer.registry import lookup
from nasformer.scoring import Scorer, trained_supernet
from nasformer.search import TABLE, loop
from nasformer.store import files
from nasformer.types import Score, UserError
from nasformer.workdir import Run

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory with a trained supernet.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where data sets lie.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Searches of every strategy.")
_GENERATIONS = flags.DEFINE_integer("generations", 30, "Rounds of each.")
_BATCHES = flags.DEFINE_integer("batches", 0, "Score on so many validation batches; 0 for all.")
_STRATEGIES = flags.DEFINE_list("strategies", sorted(TABLE), "Who takes part; evolution always does.")


class Remembered:
  """The supernet's score of every network, computed once."""

  def __init__(self, run: Run, seed: int):
    self.scorer, self.params, self.known = Scorer(run), trained_supernet(run, seed, "search"), {}
    self.scorer.batches = self.scorer.batches[: _BATCHES.value or None]

  def __call__(self, genes):
    new = [row for row in genes if row.tobytes() not in self.known]
    if new:
      self.known.update({row.tobytes(): value for row, value in zip(new, self.scorer(self.params, np.stack(new)).value)})
    values = np.array([self.known[row.tobytes()] for row in genes])
    return Score(values, {}, "inherited")


def best_so_far(strategy, domain, score, seed, run):
  """The best score after every evaluation."""
  rounds = loop.run(run.key(seed, "race"), domain, strategy, score, _GENERATIONS.value)
  return np.maximum.accumulate([trial["fitness"] for found in rounds for trial in found.trials])


def main(_):
  path = pathlib.Path(_WORKDIR.value)
  experiment = config.from_json(Experiment, files.read_json(path / "experiment.json")["config"])
  run = Run(experiment, path, pathlib.Path(_DATA_DIR.value) if _DATA_DIR.value else None)
  domain = next(iter(stages._domains(run)[0].values()))
  score = Remembered(run, experiment.seeds[0])
  names = ["evolution", *(name for name in _STRATEGIES.value if name != "evolution")]
  paths = {name: [best_so_far(lookup(TABLE, name, "strategy")(), domain, score, seed, run) for seed in range(_SEEDS.value)]
           for name in names}
  table = Table(title=f"{path}: best {type(experiment.search.score).__name__.lower()} with inherited weights, mean over"
                f" {_SEEDS.value} seeds")
  for head in ("strategy", "evaluations", "best", "evaluations to evolution's best", "share of evolution's", "at a tenth"):
    table.add_column(head, justify="left" if head == "strategy" else "right")
  spent = np.mean([len(line) for line in paths["evolution"]])
  for name, lines in paths.items():
    needed = [np.flatnonzero(line >= goal[-1]) for line, goal in zip(lines, paths["evolution"])]
    reached = [hits[0] + 1 for hits in needed if len(hits)]
    mean = np.mean(reached) if reached else np.nan
    tenth = np.mean([line[min(int(spent / 10), len(line)) - 1] for line in lines])
    table.add_row(name, f"{np.mean([len(line) for line in lines]):.0f}", f"{np.mean([line[-1] for line in lines]):.4f}",
                  f"{mean:.0f} ({len(reached)} of {len(lines)} seeds)", f"{mean / spent:.1%}", f"{tenth:.4f}")
  Console(width=150).print(table)


def run_main():
  try:
    app.run(main)
  except UserError as error:
    raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
  run_main()
