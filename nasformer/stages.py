"""The stages of a run, one function each. This is the only file that introduces the parts to each other.

Every stage reads and writes files of the work directory and nothing else, can be run again, and goes on where it was
stopped: train -> search -> derive -> retrain -> evaluate -> report.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Any, Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nasformer import derive as derivation
from nasformer import evaluate as evaluation
from nasformer.data.batching import eval_batches, train_batches
from nasformer.fitting import Fitting, named
from nasformer.progress import bar
from nasformer.score import counts
from nasformer.score.generated import Bleu
from nasformer.search import loop as search_loop
from nasformer.search import winner as choose
from nasformer.search.costs import CostTable
from nasformer.search.domain import Domain
from nasformer.store import files
from nasformer.store.trials import TrialLog
from nasformer.store.writers import JsonlWriter
from nasformer.supernet.population import PopulationPass, fastest_chunk
from nasformer.supernet.sampling import supernet_loss
from nasformer.train import mesh
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
    with named(f"--config.{name}"):
      batches = train_batches(run.splits.get("train", "train"), getattr(experiment, name).batch_size, seed=0)
      mesh.shard_batch(next(batches), mesh.data_mesh())
  loss = supernet_loss(supernet, experiment.sampling, task)
  for seed in experiment.seeds:
    supernet_fitting(run, seed).fit(loss)


def retrain(run: Run) -> None:
  """Trains every winner from scratch, as a small network of its own."""
  task = run.experiment.task
  for row in run.winners("retrain"):
    network = run.supernet.module(run.supernet.space.decode(np.array(row["genes"])))
    fitting = _retraining(run, row, network)

    def loss(params, batch, keys, network=network):
      augment, noise = jax.random.split(keys.micro)
      batch = task.prepare(augment, batch)
      return task.loss(network.apply({"params": params}, task.inputs(batch), noise), batch).mean(), ({}, None)

    fitting.fit(loss)
    run.checkpoints(fitting.folder / "model").save(run.experiment.retrain.steps, fitting.weights())


def _retraining(run: Run, row: dict, network: Any) -> Fitting:
  experiment, example = run.experiment, run.experiment.task.example(network.net, 1)
  judge = evaluation.evaluator(lambda p, x: network.apply({"params": p}, x), experiment.task)
  validate = lambda params: judge(params, eval_batches(run.splits.get("val", "retrain"), experiment.search.batch_size))
  return Fitting(run, f"retrain {row['arm']}, seed {row['seed']}", run.model_dir("retrain", row["arm"], row["seed"]),
                 row["seed"], experiment.retrain, lambda key: network.init(key, example)["params"], validate)


def supernet_fitting(run: Run, seed: int) -> Fitting:
  """The training of the supernet of a seed."""
  training, rank = run.experiment.train, None
  if training.stability_networks:
    genes = np.asarray(run.experiment.space.sample(run.key(seed, "stability"), training.stability_networks))
    rank = lambda params: Scorer(run)(params, genes).parts["loss"]
  return Fitting(run, f"supernet, seed {seed}", run.supernet_dir(seed), seed, training, run.supernet.init, rank=rank)


def trained_supernet(run: Run, seed: int, stage: str) -> Params:
  """Weights of a supernet whose training has ended.

  Raises:
    UserError: it has not.
  """
  fitting = supernet_fitting(run, seed)
  if not fitting.ended:
    raise UserError(f"--stages={stage} needs the supernet of seed {seed} trained for {run.experiment.train.steps} steps;"
                    f" there are {fitting.checkpoints.latest_step() or 0}: run --stages=train first")
  return fitting.weights()


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
    with named(f"--config.search.arms.{arm}"):
      domains[arm] = _domain(run, rule, config.limits.counted())
      domains[arm].check(config.minimise)
      _latency_checks(run, domains[arm])
  with named("--config.search.baseline"):
    limits = config.limits.counted() if config.baseline_flops is None else {"flops": config.baseline_flops}
    return domains, _domain(run, config.baseline, limits)


def _domain(run: Run, rule: str, limits: Mapping[str, float]) -> Domain:
  space = run.experiment.space
  narrow = dataclasses.replace(space, restrict=";".join(filter(None, (space.restrict, rule))))
  net = run.supernet.net
  costs = {"params": counts.NumParams(), "flops": counts.NumFlops()}
  tables = {name: CostTable(narrow, tuple(counts.terms(narrow, net, cost))) for name, cost in costs.items()}
  return Domain(narrow, tables, limits)


def _search_arm(run: Run, log: TrialLog, score: search_loop.ScoreFn, domain: Domain, arm: str, seed: int,
                known: list[dict], consumed: int) -> tuple[dict, int]:
  """One search; gives its winner and how much of the log is in use so far."""
  config = run.experiment.search
  trials, found, began = [], None, time.perf_counter()
  checks = _latency_checks(run, domain)
  rounds = search_loop.run(run.key(seed, f"search {arm}"), domain, config.strategy, score, config.generations, known,
                           checks, config.minimise)
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
    score = self.run.experiment.search.score
    if isinstance(score, Bleu):
      means["bleu"] = np.array([self._bleu(params, row, score.sentences) for row in genes])
    return Score(score.value(means), means, "inherited", "val")

  def _bleu(self, params: Params, genes: np.ndarray, sentences: int) -> float:
    run = self.run
    spec = run.experiment.space.decode(genes)
    split = run.splits.get("val", "search")
    return run.experiment.task.judge(run.supernet.module(spec), run.supernet.derive(params, spec), split, run.splits.info,
                                     sentences)["bleu"]

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
        _write_lines(run.outputs(row["arm"], row["seed"]), outputs[row["arm"], row["seed"]])
      rows.append({key: row[key] for key in ("arm", "seed", "spec", "params", "flops")}
                  | {"inherited": {"val": row["inherited"]}, "retrained": retrained}
                  | experiment.task.facts(run.supernet.net, spec))
      timings.append({"arm": row["arm"], "seed": row["seed"], **_measure(run, row["genes"])})
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
  """One example a line: a network that spells bytes may well have put an end of line inside."""
  files.write_bytes(path, "".join(" ".join(line.splitlines()) + "\n" for line in lines).encode())


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
