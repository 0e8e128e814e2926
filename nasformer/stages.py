"""The stages of a run, one function each. This is the only file that introduces the parts to each other.

Every stage reads and writes files of the work directory and nothing else, can be run again, and goes on where it was
stopped: train -> search -> derive -> retrain -> evaluate -> report. On demand,
latency comes before all and trust after search.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Any, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nasformer import derive as derivation
from nasformer import evaluate as evaluation
from nasformer import footprint, processes, timing
from nasformer.data.batching import eval_batches
from nasformer.data.files import one_line
from nasformer.experiment import Experiment
from nasformer.fitting import alone, lone_fitting, named
from nasformer.progress import bar
from nasformer.score import counts, layers, prices
from nasformer.scoring import Scorer, supernet_fitting, trained_supernet
from nasformer.search import loop as search_loop
from nasformer.search import winner as choose
from nasformer.search.costs import CostTable
from nasformer.search.domain import Domain
from nasformer.store import files
from nasformer.store.known import Known
from nasformer.store.trials import TrialLog
from nasformer.store.writers import JsonlWriter
from nasformer.supernet.sampling import supernet_loss
from nasformer.train import mesh, step
from nasformer.trusting import trust
from nasformer.types import Params, UserError
from nasformer.workdir import Run, device

_MEASURED = 20  # most networks that are measured to find one that keeps a predicted limit
_EXAMPLES = 8  # images on which a derived network is compared with the supernet


# -- training -------------------------------------------------------------------------------------------------------------


def train(run: Run) -> None:
  """Trains the supernet of every seed, once it is certain that the later stages can do what they were asked for."""
  processes.led(lambda: _check_later(run))
  loss = supernet_loss(run.supernet, run.experiment.sampling, run.experiment.task)
  for seed in run.experiment.seeds:
    supernet_fitting(run, seed).fit(loss)


def _check_later(run: Run) -> None:
  """Refuses what a later stage would, or a later step: of the shapes of batches the rarest may come after hours.

  Raises:
    UserError: an arm has no network within the limits, or a batch cannot be shared.
  """
  _domains(run)
  for name in ("train", "retrain"):
    with named(f"--config.{name}"):
      training, split = getattr(run.experiment, name), run.splits.get("train", "train")
      _, count = processes.share()
      split.check(training.batch_size, count, training=True)
      shapes = split.rows(training.batch_size)
      for rows in shapes:
        mesh.check_rows(rows, mesh.data_mesh())
        step.check_rows(rows, training.accumulate)
      run.console.print(f"{name}: batches of {len(shapes)} shape{'s' * (len(shapes) > 1)}, each compiled once",
                        highlight=False)


def retrain(run: Run) -> None:
  """Trains every winner from scratch, as a small network of its own."""
  task = run.experiment.task
  for row in processes.led(lambda: run.winners("retrain")):
    network = run.supernet.module(run.supernet.space.decode(np.array(row["genes"])))
    fitting = lone_fitting(run, f"retrain {row['arm']}, seed {row['seed']}",
                           run.model_dir("retrain", row["arm"], row["seed"]), row["seed"], run.experiment.retrain, network)
    fitting.fit(alone(network, task))
    model = run.checkpoints(fitting.folder / "model")
    processes.led(lambda: model.save(run.experiment.retrain.steps, fitting.weights()))


# -- search ---------------------------------------------------------------------------------------------------------------


def search(run: Run) -> None:
  """Searches every arm of every seed, picks the winners, and the hand-made network of the same budget."""
  config = run.experiment.search
  log = TrialLog(run.trials)
  if run.repair:
    log.repair()
  known = log.read()
  if run.winner.exists():
    return
  domains, baseline_domain = _domains(run)
  consumed, winners, scorer, stopwatch = 0, [], Scorer(run), _stopwatch(run)
  for seed in run.experiment.seeds:
    rows, score = [], functools.partial(scorer, trained_supernet(run, seed, "search"))
    for arm, domain in domains.items():
      mine = [trial for trial in known if (trial["arm"], trial["seed"]) == (arm, seed)]
      row, consumed = _search_arm(run, log, score, domain, arm, seed, mine, consumed, stopwatch)
      rows.append(row)
    winners += [*rows, _baseline(run, baseline_domain, score, seed, rows[0])]
    run.note_timing("search", seed=seed, chunk=scorer.chunk, chunk_seconds=scorer.chunk_seconds)
  log.truncate_to(consumed)
  limits = {name: value for name, value in dataclasses.asdict(config.limits).items() if value is not None}
  files.write_json(run.winner, {"main": next(iter(config.arms)), "limits": limits, "winners": winners})


def _domains(run: Run) -> tuple[dict[str, Domain], Domain]:
  """Where each arm may look, and where the hand-made networks are.

  Raises:
    UserError: a restriction means nothing in this space, no network keeps the limits, or none has all blocks alike.
  """
  config, domains = run.experiment.search, {}
  for arm, rule in config.arms.items():
    with named(f"--config.search.arms.{arm}"):
      domains[arm] = _domain(run, rule, config.limits.counted(config.latency == "predicted"))
      domains[arm].check(config.minimise, _compiled(run))
      _measured(run, domains[arm])
  with named("--config.search.baseline"):
    limits = domains[next(iter(domains))].limits if config.baseline_flops is None else {"flops": config.baseline_flops}
    baseline = _domain(run, config.baseline, limits)
    if next(baseline.space.uniform_genomes(), None) is None:
      raise UserError(f"restrict={baseline.space.restrict!r} leaves no network with all blocks alike, as hand-made ones are: leave"
                      " one value to the same gene of all blocks")
    return domains, baseline


def _domain(run: Run, rule: str, limits: Mapping[str, float]) -> Domain:
  space = run.experiment.space
  narrow = dataclasses.replace(space, restrict=";".join(filter(None, (space.restrict, rule))))
  net = run.supernet.net
  costs = {"params": counts.NumParams(), "flops": counts.NumFlops()}
  tables = {name: CostTable(narrow, tuple(counts.terms(narrow, net, cost))) for name, cost in costs.items()}
  if run.experiment.search.latency == "predicted":
    tables["latency_ms"], _ = timing.predicted(run, narrow)
  if run.experiment.search.attention_table is not None:
    path = run.experiment.search.attention_table
    times = layers.layers(JsonlWriter(path).read(), f"search.attention_table={path}", net.length, device(),
                          dict(net.kinds))
    tables["attention_ms"] = CostTable(narrow, tuple(counts.terms(narrow, times, layers.AttentionTime())), prices.UNIT_MS)
  return Domain(narrow, tables, limits)


def _search_arm(run: Run, log: TrialLog, score: search_loop.ScoreFn, domain: Domain, arm: str, seed: int,
                known: list[dict], consumed: int, stopwatch: Known) -> tuple[dict, int]:
  """One search; gives its winner and how much of the log is in use so far."""
  config = run.experiment.search
  trials, found, began = [], None, time.perf_counter()
  measured = _measured(run, domain, config.minimise)
  rounds = search_loop.run(run.key(seed, f"search {arm}"), domain, config.strategy, score, config.generations, known,
                           measured, config.minimise)
  with bar(run.console, f"search {arm}, seed {seed}", config.generations) as show:
    for found in rounds:
      new = [{"arm": arm, "seed": seed, **trial} for trial in found.trials]
      if not found.replayed and new:
        log.truncate_to(consumed)
        log.append(new)
      consumed += len(new)
      trials += new
      if trials:
        show(found.number + 1, f"best {max(trial['accuracy'] for trial in trials):.2%} of {len(trials)}")
  if not trials:
    flags = " and ".join(f"search.limits.{name}={cost.limit}" for name, cost in measured.items() if cost.limit is not None)
    raise UserError(f"{flags}: none of {found.asked} proposals of arm {arm!r}"
                    " keeps it; raise it or give smaller choices")
  best = _best(run, domain, trials, stopwatch)
  run.note_timing("search arm", arm=arm, seed=seed, seconds=time.perf_counter() - began)
  effort = {name: getattr(found, name) for name in ("evaluated", "asked", "duplicates")}
  return _winner_row(run, best, arm, seed) | effort | {"rejected": dict(found.rejected)}, consumed


def _winner_row(run: Run, trial: dict, arm: str, seed: int) -> dict:
  spec = run.experiment.space.decode(np.array(trial["genes"]))
  row = {"arm": arm, "seed": seed, "genes": list(trial["genes"]), "spec": spec.to_json(), "params": trial["params"],
         "flops": trial["flops"], "inherited": {"accuracy": trial["accuracy"], "loss": trial["loss"]}}
  return row | ({"predicted_ms": trial["latency_ms"]} if run.experiment.search.latency == "predicted" else {})


def _baseline(run: Run, domain: Domain, score: search_loop.ScoreFn, seed: int, main: dict) -> dict:
  """The largest network with all layers alike that a person would build for the same budget."""
  limits = {"flops": main["flops"], **domain.limits} if "flops" not in domain.limits else domain.limits
  domain = dataclasses.replace(domain, limits=limits)
  genomes = np.stack(list(domain.space.uniform_genomes()))
  inside = genomes[domain.meets(genomes)]
  if not len(inside):
    inside = genomes[[domain.costs["flops"].exact(genomes).argmin()]]  # none is that small: the nearest there is
  flops, params = (domain.costs[name].exact(inside) for name in ("flops", "params"))
  falling = inside[np.lexsort((params, flops))[::-1]]
  limited = _measured(run, domain).values()
  best = next((row for row in falling if all(cost.of(row) <= cost.limit for cost in limited)), falling[-1])
  parts = score(best[None]).parts
  trial = {"genes": best.tolist(), **{name: cost.exact(best).item() for name, cost in domain.costs.items()},
           **{name: float(x[0]) for name, x in parts.items()}}
  return _winner_row(run, trial, "baseline", seed)


def _stopwatch(run: Run) -> Known:
  """Latency of candidates as it is; of winners that were predicted, on the machine as it was for the predictor."""
  if run.experiment.search.latency == "predicted":
    measure = timing.AtUsualSpeed(run)
  else:
    measure = lambda genes: timing.measure(run, genes)["median_ms"]
  return Known(measure, "median_ms", run.path / "latency_search.jsonl")


def _compiled(run: Run) -> dict[str, tuple[Known, str]]:
  """Costs that are known of a network only once it is compiled, and how they are told."""
  memory = lambda name, measure: Known(functools.partial(measure, run), name, run.path / f"{name[:-3]}_search.jsonl")
  return {"latency_ms": (_stopwatch(run), "takes {:.3g} ms here"),
          "memory_mb": (memory("memory_mb", footprint.in_use), "needs {:.4g} MB"),
          "training_memory_mb": (memory("training_memory_mb", footprint.in_training), "needs {:.4g} MB")}


def _measured(run: Run, domain: Domain, minimise: Sequence[str] = ()) -> dict[str, search_loop.Measured]:
  """Those of them that have a limit or are to be made small, but for what the domain takes care of.

  Raises:
    UserError: not even the smallest network keeps one of the limits.
  """
  found = {}
  for name, (cost, words) in _compiled(run).items():
    limit = None if name in domain.limits else getattr(run.experiment.search.limits, name)
    if limit is not None:
      least = cost(np.asarray(domain.cheapest if domain.limits else timing.cheapest(run, domain.space)))
      if least > limit:
        raise UserError(f"search.limits.{name}={limit:g} cannot be met: the smallest network of this space"
                        f" {words.format(least)}")
    if limit is not None or (name in minimise and name not in domain.costs):
      found[name] = search_loop.Measured(cost, limit)
  return found


def _best(run: Run, domain: Domain, trials: list[dict], measured: Known) -> Mapping:
  """The trial that wins; where latency was predicted, the best of those that keep the limit when they are measured."""
  config = run.experiment.search
  cost = config.minimise[0] if config.minimise else "flops"
  for _ in range(_MEASURED):
    best = choose.best(trials, cost=cost)
    if config.margin:
      best = choose.within_error(trials, len(run.splits.get("val", "search")), config.margin, cost=cost)
    if "latency_ms" not in domain.limits or measured(best["genes"]) <= domain.limits["latency_ms"]:
      return best
    trials = [trial for trial in trials if trial is not best]
    if not trials:
      break
  raise UserError(f"search.limits.latency_ms={domain.limits['latency_ms']:g}: none of the best networks that were predicted to"
                  " keep it does when it is measured: lower it, or measure more with --config.latency.networks")


# -- after the search -----------------------------------------------------------------------------------------------------


def derive(run: Run) -> None:
  """Cuts every winner out of its supernet and proves that the small network computes the same."""
  winners, cut = run.winners("derive"), derivation.checker(run.supernet)
  supernet_of = functools.lru_cache(maxsize=1)(lambda seed: trained_supernet(run, seed, "derive"))
  with bar(run.console, "derive", len(winners)) as show:
    for number, row in enumerate(winners):
      checkpoints = run.checkpoints(run.model_dir("derived", row["arm"], row["seed"]))
      if checkpoints.latest_step() is None:
        params = supernet_of(row["seed"])
        inputs = run.experiment.task.inputs(next(eval_batches(run.splits.get("val", "derive"), _EXAMPLES)))
        checkpoints.save(run.experiment.train.steps, cut(params, np.array(row["genes"], np.int32), inputs))
      show(number + 1)


def evaluate(run: Run) -> None:
  """Reads the test part, once, with the retrained winners; times them."""
  winners = run.winners("evaluate")
  experiment = run.experiment
  if run.results.exists() and run.latency.exists():
    return
  rows, timings, outputs = [], [], {}
  with bar(run.console, "evaluate", len(winners)) as show:
    for number, row in enumerate(winners):
      spec = experiment.space.decode(np.array(row["genes"]))
      network = run.supernet.module(spec)
      params = _retrained(run, row, network)
      judge = evaluation.evaluator(lambda p, x: network.apply({"params": p}, x), experiment.task)
      parts = {name: run.splits.get(name, "evaluate") for name in ("val", "test")}
      retrained = {name: judge(params, eval_batches(part, experiment.search.batch_size)) for name, part in parts.items()}
      retrained["test"] |= experiment.task.judge(network, params, parts["test"], run.splits.info)
      if "outputs" in retrained["test"]:
        outputs[row["arm"], row["seed"]] = retrained["test"].pop("outputs")
        _write_lines(run.outputs(row["arm"], row["seed"]), outputs[row["arm"], row["seed"]])
      rows.append({key: row[key] for key in ("arm", "seed", "spec", "params", "flops")}
                  | {"inherited": {"val": row["inherited"]}, "retrained": retrained}
                  | experiment.task.facts(run.supernet.net, spec))
      timings.append({"arm": row["arm"], "seed": row["seed"], **timing.measure(run, np.array(row["genes"]))})
      show(number + 1, f"{row['arm']}: {experiment.task.headline} {retrained['test'][experiment.task.headline]:.4g}")
  if outputs:
    for name, lines in (("source", parts["test"].sources), ("reference", parts["test"].targets)):
      _write_lines(run.path / "outputs" / f"{name}.txt", lines)
  for row in rows:
    if (row["arm"], row["seed"]) in outputs and row["arm"] != "baseline":
      row["against_baseline"] = experiment.task.compare(
          outputs[row["arm"], row["seed"]], outputs["baseline", row["seed"]], run.splits.get("test", "evaluate"))
  files.write_json(run.results, {"signatures": experiment.task.signatures(run.splits.info), "rows": rows})
  files.write_json(run.latency, {"device": device(), "batch": experiment.latency.batch_size, "rows": timings})


def _write_lines(path: pathlib.Path, lines: Sequence[str]) -> None:
  files.write_bytes(path, "".join(one_line(line) + "\n" for line in lines).encode())


def _retrained(run: Run, row: dict, network: Any) -> Params:
  folder = run.model_dir("retrain", row["arm"], row["seed"]) / "model"
  checkpoints = run.checkpoints(folder)
  if checkpoints.latest_step() != run.experiment.retrain.steps:
    raise UserError(f"--stages=evaluate needs {folder}, which is not there: run --stages=retrain first")
  example = run.experiment.task.example(network.net, 1)
  return checkpoints.restore(jax.eval_shape(network.init, jax.random.key(0), example)["params"])


def report(run: Run) -> None:
  """Writes the report and prints the table of results."""
  from nasformer.report import page, tables  # loads matplotlib, which the other stages do without
  from nasformer.report.load import load

  with bar(run.console, "report", 1) as show:
    where = page.write(run.path)
    show(1)
  run.console.print(tables.pareto_table(load(run.path)))
  run.console.print(f"report: {where}", soft_wrap=True, highlight=False)


STAGES = {"latency": timing.latency, "train": train, "search": search, "trust": trust, "derive": derive, "retrain": retrain, "evaluate": evaluate,
          "report": report}
OF_ALL = ("train", "trust", "retrain")  # where there are several processes: all of them train, the first does the rest
ON_DEMAND = ("latency", "trust")  # dear: they run where they are named, or where another stage cannot do without


def usual(experiment: Experiment) -> list[str]:
  """The stages that run where none are named."""
  needed = {"latency"} if experiment.search.latency == "predicted" and experiment.latency.table is None else set()
  return [name for name in STAGES if name not in ON_DEMAND or name in needed]
