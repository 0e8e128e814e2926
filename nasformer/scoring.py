"""Scores of architectures with the weights of a trained supernet, and the training that those come from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from nasformer import evaluate as evaluation
from nasformer.data.batching import eval_batches
from nasformer.fitting import Fitting
from nasformer.score import counts
from nasformer.score.generated import Bleu
from nasformer.search.costs import CostTable
from nasformer.store import files
from nasformer.supernet.population import PopulationPass, fastest_chunk
from nasformer.types import Params, Score, UserError
from nasformer.workdir import Run

_CAPACITY = 128  # members of one population pass: HAT's generations fit


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
      here = jax.device_get(params)
      means["bleu"] = np.array([self._bleu(here, row, score.sentences) for row in genes])
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
