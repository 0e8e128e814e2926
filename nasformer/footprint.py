"""Peak memory of the networks of a run, in use and in training."""

import jax
import numpy as np
from jaxtyping import Int

from nasformer.data.batching import train_batches
from nasformer.fitting import alone, lone_fitting
from nasformer.score.memory import PeakMemory
from nasformer.train import step
from nasformer.workdir import Run

Genes = Int[np.ndarray, "G"]


def in_use(run: Run, genes: Genes) -> float:
  """Megabytes of the program that latency is measured on."""
  task = run.experiment.task
  network = run.supernet.module(run.experiment.space.decode(np.asarray(genes)))
  example = task.example(run.supernet.net, run.experiment.latency.batch_size)
  weights = jax.eval_shape(network.init, jax.random.key(0), example)
  return PeakMemory().measure(jax.jit(task.timed(network)), weights, example)


def in_training(run: Run, genes: Genes) -> float:
  """Megabytes of one update of the final training: weights, moments, a batch, and activations."""
  training = run.experiment.retrain
  network = run.supernet.module(run.experiment.space.decode(np.asarray(genes)))
  fitting = lone_fitting(run, "", run.path, 0, training, network)
  state = jax.eval_shape(fitting.start, jax.random.key(0))
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _longest(run))
  update = step.make_step(alone(network, run.experiment.task), fitting.optimizer, accumulate=training.accumulate,
                          ema_decay=training.ema_decay)
  return PeakMemory().measure(update, state, batch, jax.eval_shape(jax.random.key, 0))


def _longest(run: Run):
  """The largest batch of the first few: sentences come in several lengths."""
  batches = train_batches(run.splits.get("train", "train"), run.experiment.retrain.batch_size, seed=0)
  return max((next(batches) for _ in range(20)), key=lambda batch: sum(x.nbytes for x in jax.tree.leaves(batch)))
