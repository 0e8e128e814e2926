"""The stages of a run, one function each. This is the only file that introduces the parts to each other.

Every stage reads and writes files of the work directory and nothing else, can be run again, and goes on where it was
stopped: train -> search -> derive -> retrain -> evaluate -> report.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from typing import Any, Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from nasformer import derive as derivation
from nasformer import evaluate as evaluation
from nasformer.data.batching import eval_batches, train_batches
from nasformer.experiment import Training
from nasformer.nets.blocks import decayed
from nasformer.progress import bar
from nasformer.score import counts
from nasformer.search import loop as search_loop
from nasformer.search import winner as choose
from nasformer.search.costs import CostTable
from nasformer.search.domain import Domain
from nasformer.store import files
from nasformer.store.trials import TrialLog
from nasformer.store.writers import JsonlWriter
from nasformer.supernet.population import PopulationPass, fastest_chunk
from nasformer.supernet.sampling import supernet_loss
from nasformer.train import loop, mesh, state, step
from nasformer.types import Params, Score, UserError
from nasformer.workdir import Run, device

_CAPACITY = 128  # members of one population pass: HAT's generations fit
_EXAMPLES = 8  # images on which a derived network is compared with the supernet


# -- training -------------------------------------------------------------------------------------------------------------


def train(run: Run) -> None:
  """Trains the supernet of every seed, once it is certain that the later stages can do what they were asked for."""
  experiment, supernet = run.experiment, run.supernet
  task = experiment.task
  _domains(run)
  for name in ("train", "retrain"):
    with _named(f"--config.{name}"):
      batches = train_batches(run.splits.get("train", "train"), getattr(experiment, name).batch_size, seed=0)
      mesh.shard_batch(next(batches), mesh.data_mesh())
  loss = supernet_loss(supernet, experiment.sampling, task)
  for seed in experiment.seeds:
    fit(run, f"supernet, seed {seed}", run.supernet_dir(seed), seed, experiment.train, supernet.init, loss)


def retrain(run: Run) -> None:
  """Trains every winner from scratch, as a small network of its own."""
  experiment, supernet, task = run.experiment, run.supernet, run.experiment.task
  example = task.example(supernet.net, 1)
  for row in run.winners("retrain"):
    network = supernet.module(supernet.space.decode(np.array(row["genes"])))

    def loss(params, batch, keys, network=network):
      augment, noise = jax.random.split(keys.micro)
      batch = task.prepare(augment, batch)
      return task.loss(network.apply({"params": params}, task.inputs(batch), noise), batch).mean(), ({}, None)

    folder = run.model_dir("retrain", row["arm"], row["seed"])
    init = lambda key, network=network: network.init(key, example)["params"]
    params = fit(run, f"retrain {row['arm']}, seed {row['seed']}", folder, row["seed"], experiment.retrain, init, loss)
    run.checkpoints(folder / "model").save(experiment.retrain.steps, params)


def fit(run: Run, label: str, folder: pathlib.Path, seed: int, training: Training, init: Callable,
        loss: step.LossFn) -> Params:
  """Trains, or goes on training, with checkpoints in `folder`; gives the weights to evaluate.

  Args:
    run: where it belongs.
    label: what people see.
    folder: for checkpoints and metrics.
    seed: of weights, data order and noise.
    training: length and rule.
    init: key -> weights.
    loss: see `nasformer.train.step`.
  """
  devices = mesh.data_mesh()
  optimizer = training.optimizer.make(training.steps, decayed(jax.eval_shape(init, jax.random.key(0))))
  start = lambda key: state.init(init(key), optimizer, ema=training.ema_decay > 0)
  checkpoints = run.checkpoints(folder / "ckpt")
  done = checkpoints.latest_step()
  if done is None:
    current, done = jax.jit(start)(run.key(seed, "init")), 0
  else:
    current = checkpoints.restore(jax.eval_shape(start, jax.random.key(0)))
  if done < training.steps:
    current = mesh.replicate(current, devices)
    log = JsonlWriter(folder / "metrics.jsonl")
    log.truncate_after(done)
    split = run.splits.get("train", "train")
    batches = (mesh.shard_batch(batch, devices) for batch in train_batches(split, training.batch_size, seed, done))
    update = step.make_step(loss, optimizer, accumulate=training.accumulate, ema_decay=training.ema_decay,
                            freeze_unused=training.freeze_unused)
    began, first = time.perf_counter(), done
    rate = f"optimizer.peak_lr={training.optimizer.peak_lr:g}"
    with bar(run.console, label, training.steps, done) as show, _named(f"{label}, {rate}", loop.NonFiniteLoss):
      for done, current, metrics in loop.run(current, update, batches, training.steps, key=run.key(seed, "train"),
                                             report_every=training.report_every):
        log.write({"step": done, **metrics})
        show(done, f"loss {metrics['loss']:.3f}")
        if done % training.checkpoint_every == 0 or done == training.steps:
          checkpoints.save(done, current)
    seconds = time.perf_counter() - began
    run.note_timing("train", what=label, seed=seed, seconds=seconds,
                    images_per_second=(done - first) * training.batch_size / seconds)
  return current.params if current.ema is None else current.ema


def trained_supernet(run: Run, seed: int, stage: str) -> Params:
  """Weights of a supernet whose training has ended.

  Raises:
    UserError: it has not.
  """
  training = run.experiment.train
  checkpoints = run.checkpoints(run.supernet_dir(seed) / "ckpt")
  if checkpoints.latest_step() != training.steps:
    raise UserError(f"--stages={stage} needs the supernet of seed {seed} trained for {training.steps} steps; there are"
                    f" {checkpoints.latest_step() or 0}: run --stages=train first")
  optimizer = training.optimizer.make(training.steps, decayed(run.supernet.declared))
  start = lambda key: state.init(run.supernet.init(key), optimizer, ema=training.ema_decay > 0)
  current = checkpoints.restore(jax.eval_shape(start, jax.random.key(0)))
  return current.params if current.ema is None else current.ema


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
  consumed, winners, scorer = 0, [], Scorer(run)
  for seed in run.experiment.seeds:
    rows, score = [], functools.partial(scorer, trained_supernet(run, seed, "search"))
    for arm, domain in domains.items():
      mine = [trial for trial in known if (trial["arm"], trial["seed"]) == (arm, seed)]
      row, consumed = _search_arm(run, log, score, domain, arm, seed, mine, consumed)
      rows.append(row)
    winners += [*rows, _baseline(run, baseline_domain, score, seed, rows[0])]
    run.note_timing("search", seed=seed, chunk=scorer.chunk, chunk_seconds=scorer.chunk_seconds)
  log.truncate_to(consumed)
  limits = {name: value for name, value in dataclasses.asdict(config.limits).items() if value is not None}
  files.write_json(run.winner, {"main": next(iter(config.arms)), "limits": limits, "winners": winners})


def _domains(run: Run) -> tuple[dict[str, Domain], Domain]:
  """Where each arm may look, and where the hand-made networks are.

  Raises:
    UserError: a restriction means nothing in this space, or no network keeps the limits.
  """
  config, domains = run.experiment.search, {}
  for arm, rule in config.arms.items():
    with _named(f"--config.search.arms.{arm}"):
      domains[arm] = _domain(run, rule)
      domains[arm].check()
      _latency_checks(run, domains[arm])
  with _named("--config.search.baseline"):
    return domains, _domain(run, config.baseline)


def _domain(run: Run, rule: str) -> Domain:
  space = run.experiment.space
  narrow = dataclasses.replace(space, restrict=";".join(filter(None, (space.restrict, rule))))
  net = run.supernet.net
  costs = {"params": counts.NumParams(), "flops": counts.NumFlops()}
  tables = {name: CostTable(narrow, tuple(counts.terms(narrow, net, cost))) for name, cost in costs.items()}
  return Domain(narrow, tables, run.experiment.search.limits.counted())


@contextlib.contextmanager
def _named(where: str, kind: type[UserError] = UserError) -> Iterator[None]:
  """Says where in front of an error of this kind."""
  try:
    yield
  except kind as error:
    raise UserError(f"{where}: {error}") from error


def _search_arm(run: Run, log: TrialLog, score: search_loop.ScoreFn, domain: Domain, arm: str, seed: int,
                known: list[dict], consumed: int) -> tuple[dict, int]:
  """One search; gives its winner and how much of the log is in use so far."""
  config = run.experiment.search
  trials, found, began = [], None, time.perf_counter()
  checks = _latency_checks(run, domain)
  rounds = search_loop.run(run.key(seed, f"search {arm}"), domain, config.strategy, score, config.generations, known,
                           checks)
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
    raise UserError(f"search.limits.latency_ms={config.limits.latency_ms}: none of {found.asked} proposals of arm {arm!r}"
                    " keeps it; raise it or give smaller choices")
  best = choose.best(trials)
  if config.margin:
    best = choose.within_error(trials, len(run.splits.get("val", "search")), config.margin)
  run.note_timing("search arm", arm=arm, seed=seed, seconds=time.perf_counter() - began)
  effort = {name: getattr(found, name) for name in ("evaluated", "asked", "duplicates")}
  return _winner_row(run, best, arm, seed) | effort | {"rejected": dict(found.rejected)}, consumed


def _winner_row(run: Run, trial: dict, arm: str, seed: int) -> dict:
  spec = run.experiment.space.decode(np.array(trial["genes"]))
  return {"arm": arm, "seed": seed, "genes": list(trial["genes"]), "spec": spec.to_json(), "params": trial["params"],
          "flops": trial["flops"], "inherited": {"accuracy": trial["accuracy"], "loss": trial["loss"]}}


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
  checks = _latency_checks(run, domain).values()
  best = next((row for row in falling if all(check(row[None])[0] for check in checks)), falling[-1])
  parts = score(best[None]).parts
  trial = {"genes": best.tolist(), "params": int(domain.costs["params"].exact(best)),
           "flops": int(domain.costs["flops"].exact(best)), **{name: float(x[0]) for name, x in parts.items()}}
  return _winner_row(run, trial, "baseline", seed)


def _latency_checks(run: Run, domain: Domain) -> dict[str, Callable]:
  limit = run.experiment.search.limits.latency_ms
  if limit is None:
    return {}
  log = JsonlWriter(run.path / "latency_search.jsonl")
  measured = {tuple(row["genes"]): row["median_ms"] for row in log.read()}

  def latency(genes) -> float:
    name = tuple(int(gene) for gene in genes)
    if name not in measured:
      measured[name] = _measure(run, genes)["median_ms"]
      log.write({"genes": list(name), "median_ms": measured[name]})
    return measured[name]

  least = latency(domain.cheapest if domain.limits else _smallest(domain))
  if least > limit:
    raise UserError(f"search.limits.latency_ms={limit:g} cannot be met: the smallest network of this space takes"
                    f" {least:.3g} ms here")
  return {"latency_ms": lambda genes: np.array([latency(row) <= limit for row in genes])}


def _smallest(domain: Domain) -> np.ndarray:
  return np.asarray(domain.space.canonical(jnp.asarray(domain.costs["flops"].minimum()[1])))


def _measure(run: Run, genes) -> dict[str, float]:
  network = run.supernet.module(run.experiment.space.decode(np.asarray(genes)))
  task, latency = run.experiment.task, run.experiment.latency
  example = task.example(run.supernet.net, latency.batch_size)
  shapes = jax.eval_shape(network.init, jax.random.key(0), example)
  return latency.measure(task.timed(network), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes), example)


class Scorer:
  """Scores genomes with the weights of a supernet on the validation part; compiled once, for all seeds."""

  def __init__(self, run: Run):
    self.run = run
    config = run.experiment.search
    split = run.splits.get("val", "search")
    self.batches = [jax.device_put(batch) for batch in eval_batches(split, config.batch_size)]
    self.flops = CostTable(run.experiment.space, tuple(counts.terms(run.experiment.space, run.supernet.net,
                                                                    counts.NumFlops())))
    self.chunk, self.chunk_seconds = config.chunk, {}
    if not config.chunk:
      self.chunk = 1 if jax.default_backend() == "cpu" else self._measured_chunk()

  def __call__(self, params: Params, genes: np.ndarray) -> Score:
    pieces = [genes[i : i + _CAPACITY] for i in range(0, len(genes), _CAPACITY)]
    sums = [self.population(params, piece, self.flops.exact(piece), self.batches) for piece in pieces]
    means = evaluation.means({name: np.concatenate([s[name] for s in sums]) for name in sums[0]})
    return Score(self.run.experiment.search.score.value(means), means, "inherited", "val")

  @functools.cached_property
  def population(self) -> PopulationPass:
    return self._pass(self.chunk)

  def _pass(self, chunk: int) -> PopulationPass:
    return PopulationPass(self.run.supernet, self.run.experiment.task, _CAPACITY, chunk)

  def _measured_chunk(self) -> int:
    """The fastest chunk, measured once per work directory: scores differ in the last digits between chunk sizes."""
    path = self.run.path / "chunk.json"
    if not path.exists():
      genes = np.asarray(self.run.experiment.space.sample(jax.random.key(0), _CAPACITY))
      weights = jax.tree.map(jnp.zeros_like, jax.eval_shape(self.run.supernet.init, jax.random.key(0)))
      best, seconds = fastest_chunk(self._pass, weights, genes, self.flops.exact(genes), self.batches[0])
      files.write_json(path, {"chunk": best, "seconds": {str(chunk): value for chunk, value in seconds.items()}})
    found = files.read_json(path)
    self.chunk_seconds = found["seconds"]
    return found["chunk"]


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
        files.write_bytes(run.outputs(row["arm"], row["seed"]), "\n".join((*outputs[row["arm"], row["seed"]], "")).encode())
      rows.append({key: row[key] for key in ("arm", "seed", "spec", "params", "flops")}
                  | {"inherited": {"val": row["inherited"]}, "retrained": retrained})
      timings.append({"arm": row["arm"], "seed": row["seed"], **_measure(run, row["genes"])})
      show(number + 1, f"{row['arm']}: {experiment.task.headline} {retrained['test'][experiment.task.headline]:.4g}")
  for row in rows:
    if (row["arm"], row["seed"]) in outputs and row["arm"] != "baseline":
      row["against_baseline"] = experiment.task.compare(
          outputs[row["arm"], row["seed"]], outputs["baseline", row["seed"]], run.splits.get("test", "evaluate"))
  files.write_json(run.results, {"signatures": experiment.task.signatures(run.splits.info), "rows": rows})
  files.write_json(run.latency, {"device": device(), "batch": experiment.latency.batch_size, "rows": timings})


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


STAGES = {"train": train, "search": search, "derive": derive, "retrain": retrain, "evaluate": evaluate,
          "report": report}
