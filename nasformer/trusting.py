"""How far the scores of the supernet are to be believed: some networks are trained alone, and both orders are compared.

HAT (Wang et al. 2020, figure 11) finds Kendall's tau near 0.93 between inherited loss and the BLEU of networks trained from
scratch, over models of very different budgets, where any measure of size does well too. So the order is also asked for
among networks of about one budget, and the number of parameters and of FLOPs is judged beside the supernet.
"""

import collections
import dataclasses
from typing import Any, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from nasformer import processes
from nasformer.fitting import alone, lone_fitting
from nasformer.ops import stats
from nasformer.progress import bar
from nasformer.scoring import Scorer, trained_supernet
from nasformer.store import files
from nasformer.store.trials import TrialLog
from nasformer.types import UserError
from nasformer.workdir import Run

_POOL = 4096  # random networks that are chosen among

Genes = Int[np.ndarray, "G"]


def trust(run: Run) -> None:
  """Trains some networks of every seed alone and writes how well the supernet had foretold their order."""
  if processes.led(run.trust.exists):
    return
  experiment, rows = run.experiment, []
  for seed in experiment.seeds:
    chosen, inherited = processes.led(lambda: _scored(run, seed))
    with bar(run.console, f"trust, seed {seed}", len(chosen)) as show:
      for number, (group, genes) in enumerate(chosen):
        spec = experiment.space.decode(genes)
        count = run.supernet.net.count_spec(spec)
        rows.append({"seed": seed, "group": group, "genes": genes.tolist(), "spec": spec.to_json(), "params": count.params,
                     "flops": 2 * count.products,
                     "inherited": {name: float(values[number]) for name, values in inherited.items()},
                     "retrained": _retrained(run, seed, number, spec)})
        show(number + 1, f"loss {rows[-1]['inherited']['loss']:.3f} inherited, {rows[-1]['retrained']['loss']:.3f} retrained")
  processes.led(lambda: _write(run, rows))


def _write(run: Run, rows: list[dict]) -> None:
  found = summary(rows)
  files.write_json(run.trust, {"steps": _training(run).steps, "rows": rows, "tau": found})
  for row in found:
    run.console.print(f"trust: {row['num']} networks ({row['group']}): tau {row['tau']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
                      f" by {row['predictor']}", highlight=False)


def _scored(run: Run, seed: int) -> tuple[list[tuple[str, Genes]], Mapping[str, Float[np.ndarray, "P"]]]:
  """The networks to be trained, and what the supernet says of them."""
  params, scorer = trained_supernet(run, seed, "trust"), Scorer(run)
  chosen = networks(run, scorer, seed)
  return chosen, scorer(params, np.stack([genes for _, genes in chosen])).parts


def networks(run: Run, scorer: Scorer, seed: int) -> list[tuple[str, Genes]]:
  """Which networks are trained: "spread" from the smallest budget to the largest, the front of the search among them, and
  "budget", drawn at random among those that cost about as much as the search may spend."""
  experiment, trust = run.experiment, run.experiment.trust
  pool = np.unique(np.asarray(experiment.space.sample(run.key(seed, "trust"), _POOL)), axis=0)
  flops = scorer.flops.exact(pool)
  limit = experiment.search.limits.flops or float(np.median(flops))
  front = _front([trial for trial in TrialLog(run.trials).read() if trial["seed"] == seed])
  kept = [front[i] for i in np.unique(np.linspace(0, len(front) - 1, min(trust.front, len(front))).round().astype(int))]
  rising = pool[np.argsort(flops, kind="stable")]
  at_random = rising[np.linspace(0, len(rising) - 1, trust.spread).round().astype(int)]
  band = pool[np.abs(flops / limit - 1) <= trust.band]
  if len(band) < trust.budget:
    raise UserError(f"--config.trust.budget={trust.budget}: of {len(pool):,} random networks only {len(band)} are within"
                    f" {trust.band:.0%} of {limit:.3g} FLOPs; raise --config.trust.band or lower --config.trust.budget")
  shuffled = band[np.random.default_rng(seed).permutation(len(band))[: trust.budget]]
  found: dict[bytes, tuple[str, Genes]] = {}
  for group, rows in (("spread", kept), ("spread", at_random), ("budget", shuffled)):
    for genes in rows:
      found.setdefault(np.asarray(genes, np.int32).tobytes(), (group, np.asarray(genes, np.int32)))
  return list(found.values())


def summary(rows: Sequence[Mapping]) -> list[dict]:
  """Kendall's tau of every predictor with the retrained loss, mean over seeds, with a 95 % bootstrap interval."""
  predictors = {"inherited loss": lambda row: -row["inherited"]["loss"], "parameters": lambda row: row["params"],
                "FLOPs": lambda row: row["flops"]}
  found = []
  for group in ("all", "spread", "budget"):
    mine = [row for row in rows if group in ("all", row["group"])]
    if len(mine) < 2 or min(collections.Counter(row["seed"] for row in mine).values()) < 2:
      continue
    measured, seed = (np.array(column, float) for column in zip(*((-row["retrained"]["loss"], row["seed"]) for row in mine)))
    for name, read in predictors.items():
      columns = np.array([read(row) for row in mine], float), measured, seed
      low, high = stats.bootstrap_interval(np.random.default_rng(0), _mean_tau, *columns)
      found.append({"group": group, "predictor": name, "num": len(mine), "tau": _mean_tau(*columns), "low": low, "high": high})
  return found


def _mean_tau(predicted: Float[np.ndarray, "E"], measured: Float[np.ndarray, "E"], seed: Float[np.ndarray, "E"]) -> float:
  """Kendall's tau of each seed's networks, averaged; seeds of which a draw holds fewer than two are left out."""
  groups = [seed == value for value in np.unique(seed)]
  taus = [stats.kendall_tau(predicted[group], measured[group]) for group in groups if group.sum() > 1]
  return float(np.mean(taus)) if taus else float("nan")


def _front(trials: Sequence[Mapping]) -> list[list[int]]:
  """Genomes of the trials that none beats in both fitness and FLOPs, from the cheapest on."""
  if not trials:
    return []
  points = np.array([[trial["fitness"], trial["flops"]] for trial in trials], float)
  best = [trials[i] for i in np.flatnonzero(stats.pareto_mask(points, (True, False)))]
  return [trial["genes"] for trial in sorted(best, key=lambda trial: (trial["flops"], trial["genes"]))]


def _retrained(run: Run, seed: int, number: int, spec: Any) -> dict[str, float]:
  network = run.supernet.module(spec)
  fitting = lone_fitting(run, f"trust {number}, seed {seed}", run.model_dir("trust", str(number), seed), seed,
                         _training(run), network)
  fitting.fit(alone(network, run.experiment.task))
  return processes.led(lambda: fitting.validate(fitting.weights()))


def _training(run: Run):
  retrain, steps = run.experiment.retrain, run.experiment.trust.steps
  return dataclasses.replace(retrain, steps=steps) if steps else retrain
