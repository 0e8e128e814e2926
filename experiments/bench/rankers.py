"""How well predictors rank networks they have not seen, against the number of labels they learned from.

  python experiments/bench/rankers.py --data_dir=DATA [--splits=20] [--only=pairwise] [--tables=nas_bench_bert]

Every split is a seeded permutation of a table: its last rows are held out, the first n are labelled; all ways see the same
splits. Columns: Kendall tau on the rows held out; regret, in the unit of the target, of the network ranked first and of the
best of the five ranked first, against the best one held out. Mean and standard deviation over the splits. "params" and
"flops" need no labels, `tables.py` says how they are counted; nor does "supernet", the accuracy on ImageNet with the weights
of AutoFormer's supernet, where the table has it. The fields of every predictor are its defaults unless the row says otherwise.
The settings of "pairwise" (and the steps of "nar" and the leaf size of "lightgbm") were chosen on held-out rows of these same
tables, with the same splits, so the figures of these rows are somewhat flattering; on other tables nothing was chosen.
Most of the time goes to compiling, once per predictor and number of labels: 3 min 24 s of CPU for the six targets of
"autoformer" with 20 splits, of which the first target takes more than the other five.
"""

import functools
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

import tables
from nasformer import registry, workdir
from nasformer.ops import stats
from nasformer.predict import TABLE, features
from nasformer.predict.hat_mlp import HatMlp
from nasformer.predict.linear import Linear
from nasformer.predict.pairwise import Pairwise
from nasformer.progress import bar

LABELS = 10, 25, 50, 100, 150, 250
HELD = {"nas_bench_bert": 100, "autoformer": 50}
FREE = {"params": "params", "flops": "flops", "supernet": "imagenet_super_acc"}  # columns that rank without labels
RIDGES = tuple(10.0 ** np.arange(-3, 2.5, 0.5))
WAYS = {  # predictor, features
    "linear, means": (Linear(), "means"),
    "ridge by leave-one-out, both": (Linear(RIDGES), "both"),
    "MLP regression, both": (HatMlp(64, 2, 1e-3, 32, 300), "both"),
    "lightgbm, means": ("lightgbm", "means"),
    "lightgbm, both": ("lightgbm", "both"),
    "nar, blocks": ("nar", "blocks"),
    "additive, blocks": ("additive", "blocks"),
    "pairwise, means as they are": (Pairwise(products=False), "means"),
    "pairwise, means": ("pairwise", "means"),
    "pairwise, blocks": ("pairwise", "blocks"),
    "pairwise with 16 hidden units, blocks": (Pairwise(width=16, learning_rate=0.01), "blocks"),
}

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the tables; or NASFORMER_DATA.")
_SPLITS = flags.DEFINE_integer("splits", 20, "Random splits.")
_TABLES = flags.DEFINE_list("tables", list(tables.TABLES), "Which tables.")
_ONLY = flags.DEFINE_string("only", "", "Rows whose name has this in it.")


def main(_):
  logging.set_verbosity(logging.WARNING)
  data_dir = pathlib.Path(_DATA_DIR.value or os.environ["NASFORMER_DATA"])
  for name in _TABLES.value:
    space, genes, values = tables.load(name, data_dir)
    inputs = {row: jax.jit(registry.lookup(features.TABLE, row)(), static_argnums=0)(space, genes)
              for row in features.TABLE}
    for target in tables.TABLES[name]:
      _bench(name, target, inputs, values)


def _bench(name, target, inputs, values):
  y, num_held = values[target], HELD[name]
  orders = np.stack([np.random.default_rng(seed).permutation(len(y)) for seed in range(_SPLITS.value)])
  held = orders[:, -num_held:]
  rng = np.random.default_rng(0)
  free = {"random": rng.random(held.shape)} | {way: values[column][held] for way, column in FREE.items() if column in values}
  rows = {way: {0: _judge(scores, y[held])} for way, scores in free.items()}
  seconds, ways = {}, [way for way in WAYS if _ONLY.value in way]
  console = Console(width=140)
  with bar(console, f"{name}, {target}", len(ways)) as show:
    for number, way in enumerate(ways):
      (predictor, row), start, rows[way] = WAYS[way], time.perf_counter(), {}
      predictor = registry.lookup(TABLE, predictor)() if isinstance(predictor, str) else predictor
      for num in (num for num in LABELS if num + num_held <= len(y) and num >= predictor.least):
        rows[way][num] = _judge(_learn(predictor, inputs[row], y, orders[:, :num], held), y[held])
      seconds[way] = time.perf_counter() - start
      show(number + 1, way)
  _print(console, name, target, rows, seconds, y)


def _learn(predictor, x, y, labelled, held):
  """Predictions of the rows held out, by split."""
  args = x, jnp.asarray(y, jnp.float32), jax.random.split(jax.random.key(0), len(labelled)), labelled, held
  return np.asarray(_learn_all(predictor, *args) if predictor.jittable
                    else np.stack([_learn_one(predictor, *args[:2], *split) for split in zip(*args[2:])]))


def _learn_one(predictor, x, y, key, labelled, held):
  model = predictor.fit(key, x[labelled], y[labelled], jnp.ones(len(labelled)))
  return predictor.predict(model, x[held])


@functools.partial(jax.jit, static_argnums=0)
def _learn_all(predictor, x, y, *splits):
  return jax.lax.map(lambda split: _learn_one(predictor, x, y, *split), splits)


def _judge(scores, truth):
  """(tau, regret of the first, of the best of five) by split."""
  first = np.argsort(-scores, axis=1, kind="stable")
  best = truth.max(1)
  ranked = np.take_along_axis(truth, first, 1)
  tau = [stats.kendall_tau(*pair) for pair in zip(scores, truth)]
  return np.stack([tau, best - ranked[:, 0], best - ranked[:, :5].max(1)])


def _print(console, name, target, rows, seconds, y):
  nums = [num for num in LABELS if num + HELD[name] <= len(y)]
  for which, what in enumerate(("Kendall tau", "regret of the first", "regret of the best of five")):
    table = Table("", *(f"n = {num}" for num in nums), *(["s"] if which == 0 else []),
                  title=f"{name}, {target} ({y.min():.1f} to {y.max():.1f}): {what}; {_SPLITS.value} splits,"
                  f" {HELD[name]} held out of {len(y)}; {workdir.device()}, jax {jax.__version__}")
    for way, found in rows.items():
      cells = [_cell(found[num if num in found else 0][which]) if num in found or 0 in found else "" for num in nums]
      table.add_row(way, *cells, *([f"{seconds[way]:.0f}" if way in seconds else ""] if which == 0 else []))
    console.print(table)


def _cell(values):
  mean, spread = stats.mean_and_spread(values)
  return f"{mean:.3f} ± {spread:.3f}"


if __name__ == "__main__":
  app.run(main)
