"""Latency predictors on HAT's tables of measured latencies, and how far the tables can be predicted at all.

  python experiments/bench/latency_model.py --data_dir=DATA [--seeds=5] [--mlp_seeds=1] [--max_spread=0.1]

The target is the sum of encoder and decoder in milliseconds. Every seed is a permutation of a table: the first 80 % train,
10 % validation, the last 10 % test; all models see the same rows. Rows are dropped beforehand where the standard deviation
of their runs is `max_spread` of their mean or more (RankNAS uses 0.015; --max_spread=0 keeps all); this looks at the spread
alone, not at what a model says.

The tables are in the order of measurement, and whole stretches of rows are slower than the others by a common factor: the
state of the machine. "+ state" means that the factor of a test row is read off the training rows before and after it; it
predicts the measurement. What a search needs is the latency on the machine in one state: the same model without the factor,
in the mean state ("ours") or the median one ("usual"). "same state" compares there: the test rows whose factor, read off
the training rows, is within 3 % of the median. All other rows of the printed table see the features of the architecture alone.

Transfer: settings chosen on the validation rows of one table, refitted on the others.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

import tables
from nasformer import workdir
from nasformer.ops import stats
from nasformer.predict import base
from nasformer.predict.additive import Additive
from nasformer.predict.boosted import Boosted
from nasformer.predict.hat_mlp import HatMlp
from nasformer.predict.linear import Linear

MODELS = {"linear": Linear(), "HAT's MLP": HatMlp(), "boosted trees": Boosted(leaf_rows=20), "ours": Additive(),
          "ours, usual state": Additive(),
          "linear + state": Additive(products=False), "ours + state": Additive()}
SETTINGS = {"linear + state": Additive(products=False), **{f"ours, tail {t:g}": Additive(tail=t) for t in (4.0, 30.0, 1e6)}}

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that holds hat_latency/; or NASFORMER_DATA.")
_FOLDER = flags.DEFINE_string("folder", "hat_latency", "The folder in it; every CSV file with HAT's columns is a table.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Splits.")
_MLP_SEEDS = flags.DEFINE_integer("mlp_seeds", 1, "Splits for HAT's MLP, which takes a minute each.")
_MAX_SPREAD = flags.DEFINE_float("max_spread", 0.1, "Rows are dropped from this ratio of deviation to mean on; 0: none.")


def main(_):
  logging.set_verbosity(logging.WARNING)
  folder = pathlib.Path(_DATA_DIR.value or os.environ["NASFORMER_DATA"]) / _FOLDER.value
  console, chosen = Console(width=150), {}
  for path in sorted((*folder.glob("*.csv"), *folder.glob("*.csv.gz"))):
    name, (x, y, run_std, dropped) = path.name.split(".")[0], _read(path)
    splits = [_split(len(y), seed) for seed in range(_SEEDS.value)]
    results = {model: [] for model in MODELS}
    for seed, split in enumerate(splits):
      state = None
      for model in reversed(MODELS):  # the last one says in which state the test rows were measured
        if model != "HAT's MLP" or seed < _MLP_SEEDS.value:
          predicted, found = _predict(model, MODELS[model], seed, x, y, split)
          state = found if state is None else state
          results[model].append(_judge(predicted, y, split[2], state))
    console.print(_table(name, results, y, run_std, dropped))
    chosen[name] = [{label: _rmse(predictor, seed, x, y, split) for label, predictor in SETTINGS.items()}
                    for seed, split in enumerate(splits)], np.mean([row[0] for row in results["linear"]])
  console.print(_transfer(chosen))


def _read(path):
  """Features, latencies, mean deviation of the runs of a row, and how many rows were dropped."""
  table = tables.load_latency(path)
  y, std = table.mean_ms.sum(1), np.hypot(*table.std_ms.T)
  fine = (std < _MAX_SPREAD.value * y) | (_MAX_SPREAD.value <= 0)
  return table.features[fine, None].astype(np.float32), y[fine], float(np.sqrt((std[fine] ** 2).mean())), int((~fine).sum())


def _split(num, seed):
  """Rows of training, validation and test."""
  order = np.random.default_rng(seed).permutation(num)
  return np.split(order, [int(0.8 * num), int(0.9 * num)])


def _predict(name, predictor, seed, x, y, split):
  """Predictions of all rows from the training rows, and the state of the machine where the model follows it."""
  weights = np.isin(np.arange(len(y)), split[0]).astype(np.float32)
  model = base.checked(predictor, jax.random.key(seed), x, np.where(weights > 0, y, np.nan), weights)
  inputs = jnp.asarray(x)
  follows = name.endswith("state")
  predicted = predictor.measured(model, inputs) if follows else predictor.predict(model, inputs)
  if name == "ours, usual state":
    predicted = predicted * model.usual
  return np.asarray(predicted, float), np.asarray(model.state) if follows else None


def _judge(predicted, y, test, state):
  """RMSE, MAPE, Kendall tau on the test rows, and RMSE on those measured in the machine's usual state."""
  same = test[np.abs(state[test] / np.median(state) - 1) < 0.03]
  return [stats.rmse(predicted[test], y[test]), stats.mape(predicted[test], y[test]),
          stats.kendall_tau(predicted[test], y[test]), stats.rmse(predicted[same], y[same])]


def _rmse(predictor, seed, x, y, split):
  predicted, _ = _predict("state", predictor, seed, x, y, split)
  return [stats.rmse(predicted[rows], y[rows]) for rows in split[1:]]


def _table(name, results, y, run_std, dropped):
  table = Table("", "RMSE (ms)", "of linear", "MAPE", "Kendall tau", "RMSE, same state", "splits",
                title=f"{name}: {len(y)} rows ({dropped} dropped), mean {y.mean():.0f} ms; the runs of one row scatter by"
                f" {run_std:.1f} ms; {workdir.device()}, jax {jax.__version__}")
  for model, rows in results.items():
    if rows:
      rmse, mape, tau, same = (stats.mean_and_spread(column) for column in np.transpose(rows))
      linear = np.mean([row[0] for row in results["linear"][: len(rows)]])
      table.add_row(model, f"{rmse[0]:.2f} ± {rmse[1]:.2f}", f"{rmse[0] / linear:.0%}", f"{mape[0]:.2%}", f"{tau[0]:.3f}",
                    f"{same[0]:.2f} ± {same[1]:.2f}", str(len(rows)))
  return table


def _transfer(chosen):
  """RMSE over that of the linear baseline, by table on which the settings were chosen."""
  table = Table("chosen on", "settings", *chosen, title="test RMSE of the chosen settings as a share of linear's")
  for source, (found, _) in chosen.items():
    setting = min(SETTINGS, key=lambda label: np.mean([row[label][0] for row in found]))
    shares = [np.mean([row[setting][1] for row in rows]) / linear for rows, linear in chosen.values()]
    table.add_row(source, setting, *(f"{share:.0%}" for share in shares))
  return table


if __name__ == "__main__":
  app.run(main)
