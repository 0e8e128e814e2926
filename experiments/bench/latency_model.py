"""Latency predictors on HAT's tables of measured latencies, and how far the tables can be predicted at all.

  python experiments/bench/latency_model.py --data_dir=DATA [--tables=FILE,...] [--seeds=5] [--mlp_seeds=1] [--max_spread=0.1]

The target is the sum of encoder and decoder in milliseconds. Every seed is a permutation of a table: the first 80 % train,
10 % validation, the last 10 % test; all models see the same rows. Rows are dropped beforehand where the standard deviation
of their runs is `max_spread` of their mean or more (--max_spread=0 keeps all); this looks at the spread alone, not at what a
model says.

The tables are in the order of measurement, and whole stretches of rows are slower than the others by a common factor: the
state of the machine. What a search needs is the latency on the machine in one state: "ours" in the mean state, "usual" in
the median one. The last two columns compare there: test rows that were measured in the usual state (the factor read off the
training rows is within 3 % of its median) and whose runs scattered by less than `steady` (RankNAS's filter).

Three rows tell what the rest of the error is, with what no new architecture has. "+ state": the factor of a test row is read
off the training rows before and after it. "told of the row": trees that see the time of the encoder in the same row and the
scatter of both parts beside the features, and correct the linear model.

Transfer: settings chosen on the validation rows of one table, refitted on the others; judged as in the last two columns.
"""

import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jaxtyping import Float
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

SETTINGS = {"ours": Additive(), "ours, heavier tail": Additive(tail=4.0), "ours, no products": Additive(products=False)}

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that holds hat_latency/; or NASFORMER_DATA.")
_TABLES = flags.DEFINE_list("tables", None, "CSV files with HAT's columns, compressed or not; all of hat_latency/.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Splits.")
_MLP_SEEDS = flags.DEFINE_integer("mlp_seeds", 1, "Splits for HAT's MLP, which takes a minute each.")
_MAX_SPREAD = flags.DEFINE_float("max_spread", 0.1, "Rows are dropped from this ratio of deviation to mean on; 0: none.")
_STEADY = flags.DEFINE_float("steady", 0.015, "Test rows of the last columns scatter by less than this.")


class Rows(NamedTuple):
  """What is known of the rows of a table: features, latency, and what only its measurement tells."""

  x: Float[np.ndarray, "E 1 Q"]
  y: Float[np.ndarray, "E"]
  spread: Float[np.ndarray, "E"]
  own: Float[np.ndarray, "E 1 3"]


def main(_):
  logging.set_verbosity(logging.WARNING)
  console, chosen = Console(width=150), {}
  for path in _paths():
    name, (rows, dropped) = path.name.split(".")[0], _read(path)
    found, settings = {}, []
    for seed in range(_SEEDS.value):
      split = _split(len(rows.y), seed)
      weights = np.isin(np.arange(len(rows.y)), split[0]).astype(np.float32)
      ways, usual = _ways(jax.random.key(seed), rows, weights, seed < _MLP_SEEDS.value)
      for way, predicted in ways.items():
        found.setdefault(way, []).append(_judge(predicted, rows, split[2], usual))
      settings.append({label: _setting(predictor, rows, weights, split, usual, ways["linear"])
                       for label, predictor in SETTINGS.items()})
    console.print(_table(name, found, rows, dropped))
    chosen[name] = settings
  if len(chosen) > 1:
    console.print(_transfer(chosen))


def _paths():
  if _TABLES.value:
    return [pathlib.Path(table) for table in _TABLES.value]
  folder = pathlib.Path(_DATA_DIR.value or os.environ["NASFORMER_DATA"]) / "hat_latency"
  return sorted((*folder.glob("*.csv"), *folder.glob("*.csv.gz")))


def _read(path):
  """The rows that scatter little, and how many do not."""
  table = tables.load_latency(path)
  y, std = table.mean_ms.sum(1), np.hypot(*table.std_ms.T)
  own = np.concatenate([table.mean_ms[:, :1], table.std_ms / table.mean_ms], 1)[:, None]
  fine = (std < _MAX_SPREAD.value * y) | (_MAX_SPREAD.value <= 0)
  everything = Rows(table.features[:, None].astype(np.float32), y, std / y, own.astype(np.float32))
  return Rows(*(column[fine] for column in everything)), int((~fine).sum())


def _split(num, seed):
  """Rows of training, validation and test."""
  order = np.random.default_rng(seed).permutation(num)
  return np.split(order, [int(0.8 * num), int(0.9 * num)])


def _ways(key, rows, weights, with_mlp):
  """Predictions of all rows by every way, learned from the rows of weight 1; which rows were measured in the usual state."""
  x = jnp.asarray(rows.x)

  def fit(predictor, x=rows.x, y=rows.y):
    return base.checked(predictor, key, x, np.where(weights > 0, y, np.nan), weights)

  def plain(predictor, x=x, y=rows.y):
    return np.asarray(predictor.predict(fit(predictor, np.asarray(x), y), x), float)

  ours, flat = Additive(), Additive(products=False)
  model, flat_model = fit(ours), fit(flat)
  linear = plain(Linear())
  told = plain(Boosted(leaf_rows=20), jnp.concatenate([x, jnp.asarray(rows.own)], -1), rows.y / linear) * linear
  found = {"linear": linear, **({"HAT's MLP": plain(HatMlp())} if with_mlp else {}),
           "boosted trees": plain(Boosted(leaf_rows=20)),
           "ours": ours.predict(model, x), "ours, usual state": ours.predict(model, x) * model.usual,
           "linear + state": flat.measured(flat_model, x), "ours + state": ours.measured(model, x), "told of the row": told}
  usual = np.abs(np.asarray(model.state) / float(model.usual) - 1) < 0.03
  return {name: np.asarray(values, float) for name, values in found.items()}, usual


def _judge(predicted, rows, test, usual):
  """RMSE, MAPE, median error, Kendall tau on the test rows; RMSE on those steady and in the usual state, and their number."""
  y, same = rows.y, _steady(test, rows, usual)
  return [stats.rmse(predicted[test], y[test]), stats.mape(predicted[test], y[test]),
          float(np.median(np.abs(predicted[test] / y[test] - 1))), stats.kendall_tau(predicted[test], y[test]),
          stats.rmse(predicted[same], y[same]), len(same)]


def _steady(part, rows, usual):
  return part[usual[part] & (rows.spread[part] < _STEADY.value)]


def _setting(predictor, rows, weights, split, usual, linear):
  """RMSE on steady validation and test rows in the usual state as a share of linear's."""
  model = base.checked(predictor, jax.random.key(0), rows.x, np.where(weights > 0, rows.y, np.nan), weights)
  predicted = np.asarray(predictor.predict(model, jnp.asarray(rows.x)) * model.usual, float)
  return [stats.rmse(predicted[part], rows.y[part]) / stats.rmse(linear[part], rows.y[part])
          for part in (_steady(part, rows, usual) for part in split[1:])]


def _table(name, found, rows, dropped):
  same = np.mean([judged[-1] for judged in found["linear"]])
  table = Table("", "RMSE (ms)", "of linear", "MAPE", "median error", "Kendall tau", "RMSE, steady, usual state",
                "of linear", "splits",
                title=f"{name}: {len(rows.y)} rows ({dropped} dropped), mean {rows.y.mean():.0f} ms; {same:.0f} test rows steady"
                f" and in the usual state; {workdir.device()}, jax {jax.__version__}")
  for way, judged in found.items():
    rmse, mape, middle, tau, steady, _ = (stats.mean_and_spread(column) for column in np.transpose(judged))
    linear = np.mean(found["linear"][: len(judged)], 0)
    table.add_row(way, f"{rmse[0]:.2f} ± {rmse[1]:.2f}", f"{rmse[0] / linear[0]:.0%}", f"{mape[0]:.2%}", f"{middle[0]:.2%}",
                  f"{tau[0]:.3f}", f"{steady[0]:.2f} ± {steady[1]:.2f}", f"{steady[0] / linear[4]:.0%}", str(len(judged)))
  return table


def _transfer(chosen):
  """By table on which the settings were chosen, RMSE in the usual state as a share of linear's."""
  table = Table("chosen on", "settings", *chosen, title="steady test rows in the usual state: RMSE as a share of linear's")
  for source, found in chosen.items():
    setting = min(SETTINGS, key=lambda label: np.mean([row[label][0] for row in found]))
    table.add_row(source, setting, *(f"{np.mean([row[setting][1] for row in rows]):.0%}" for rows in chosen.values()))
  return table


if __name__ == "__main__":
  app.run(main)
