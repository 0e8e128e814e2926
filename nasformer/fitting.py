"""One training in a work directory: checkpoints, metrics, resume, early stop, and which weights come out of it."""

import contextlib
import dataclasses
import pathlib
import time
from typing import Any, Callable, Iterator, Mapping

import jax
import numpy as np
from jaxtyping import Float

from nasformer import processes
from nasformer.data.batching import eval_batches, train_batches
from nasformer.evaluate import evaluator
from nasformer.experiment import Training
from nasformer.nets.blocks import decayed
from nasformer.ops import stats
from nasformer.progress import bar
from nasformer.store.writers import JsonlWriter
from nasformer.train import loop, mesh, state, step
from nasformer.types import Params, UserError
from nasformer.workdir import Run


@contextlib.contextmanager
def named(where: str, kind: type[UserError] = UserError) -> Iterator[None]:
  """Says where in front of an error of this kind."""
  try:
    yield
  except kind as error:
    raise UserError(f"{where}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Fitting:
  """A training that belongs to a run.

  Attributes:
    run: where it belongs.
    label: what people see.
    folder: for checkpoints and metrics.
    seed: of weights, data order and noise.
    training: length and rule.
    init: key -> weights.
    validate: weights -> metrics on the validation part, with "loss" among them.
    rank: weights -> losses of a fixed list of architectures, for the early stop of a supernet.
  """

  run: Run
  label: str
  folder: pathlib.Path
  seed: int
  training: Training
  init: Callable
  validate: Callable[[Params], Mapping[str, float]] | None = None
  rank: Callable[[Params], Float[np.ndarray, "E"]] | None = None

  def fit(self, loss: step.LossFn) -> None:
    """Trains, or goes on training, until the training has ended."""
    training = self.training
    done, ended, current = processes.led(self._left_off)
    if ended:
      return
    devices = mesh.data_mesh()
    current = mesh.replicate(current if done else jax.jit(self.start)(self.run.key(self.seed, "init")), devices)
    split = self.run.splits.get("train", "train")
    batches = (mesh.shard_batch(batch, devices)
               for batch in train_batches(split, training.batch_size, self.seed, done, *processes.share()))
    update = step.make_step(loss, self.optimizer, accumulate=training.accumulate, ema_decay=training.ema_decay,
                            freeze_unused=training.freeze_unused)
    began, first, rate = time.perf_counter(), done, f"optimizer.peak_lr={training.optimizer.peak_lr:g}"
    with (bar(self.run.console, self.label, training.steps, done) as show,
          named(f"{self.label}, {rate}", loop.NonFiniteLoss)):
      for done, current, metrics in loop.run(current, update, batches, training.steps, key=self.run.key(self.seed, "train"),
                                             report_every=training.report_every):
        show(done, f"loss {metrics['loss']:.3f}")
        if processes.led(lambda: self._kept(done, metrics, mesh.local(current))):
          break
    if done < training.steps:
      self.run.console.print(f"{self.label}: the order of networks is stable, stopped at step {done}", highlight=False)
    seconds = time.perf_counter() - began
    self.run.note_timing("train", what=self.label, seed=self.seed, seconds=seconds,
                         examples_per_second=(done - first) * training.batch_size / seconds)

  @property
  def ended(self) -> bool:
    """Whether the training has reached its last step, or was stopped because the order of networks is stable."""
    done = self.checkpoints.latest_step()
    return done == self.training.steps or (done is not None and stable(self._ranks.read(), self.training))

  def weights(self) -> Params:
    """What came out of an ended training: the last weights (or their moving average), the mean of those of several last
    checkpoints, or those of the lowest validation loss.

    Raises:
      UserError: a checkpoint is missing or damaged.
    """
    pick = lambda current: current.params if current.ema is None else current.ema
    if self.training.keep_best:
      return self._best.restore(pick(jax.eval_shape(self.start, jax.random.key(0))))
    steps = self.checkpoints.steps()[-max(self.training.average_last, 1):]
    found = [pick(self._restored(number)) for number in steps]
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *found) if len(found) > 1 else found[0]

  @property
  def checkpoints(self):
    return self.run.checkpoints(self.folder / "ckpt", max(2, self.training.average_last))

  @property
  def _best(self):
    return self.run.checkpoints(self.folder / "best", 1)

  @property
  def _log(self):
    return JsonlWriter(self.folder / "metrics.jsonl")

  @property
  def _ranks(self):
    return JsonlWriter(self.folder / "stability.jsonl")

  @property
  def optimizer(self):
    """The rule of the updates."""
    shapes = jax.eval_shape(self.init, jax.random.key(0))
    return self.training.optimizer.make(self.training.steps, decayed(shapes))

  def start(self, key):
    """The state before the first update."""
    return state.init(self.init(key), self.optimizer, ema=self.training.ema_decay > 0)

  def _left_off(self) -> tuple[int, bool, Any]:
    """Where an earlier run of this training came to: updates, whether that is the end, and the state if it is neither end."""
    done = self.checkpoints.latest_step() or 0
    for kept in (self._log, self._ranks):
      kept.truncate_after(done)
    ended = self.ended
    return done, ended, self._restored(done) if done and not ended else None

  def _kept(self, done: int, metrics: Mapping[str, float], current: state.TrainState) -> bool:
    """Writes down what a training has come to; says whether it has ended."""
    save = done % self.training.checkpoint_every == 0 or done == self.training.steps
    weights = current.params if current.ema is None else current.ema
    self._log.write({"step": done, **metrics, **(self._validated(done, weights) if save else {})})
    if save:
      self._ranked(done, weights)
      self.checkpoints.save(done, current)
    return save and self.ended

  def _restored(self, number: int) -> Any:
    return self.checkpoints.restore(jax.eval_shape(self.start, jax.random.key(0)), number)

  def _validated(self, done: int, weights: Params) -> dict[str, float]:
    """Metrics of the validation part, where the best weights are wanted; keeps the weights if they are the best so far."""
    if not self.training.keep_best or self.validate is None:
      return {}
    found = {f"val_{name}": value for name, value in self.validate(weights).items()}
    earlier = [row["val_loss"] for row in self._log.read() if "val_loss" in row]
    if all(found["val_loss"] < value for value in earlier):
      self._best.save(done, weights)
    return found

  def _ranked(self, done: int, weights: Params) -> None:
    if not self.training.stability_networks or self.rank is None:
      return
    losses, before = self.rank(weights), self._ranks.read()
    tau = stats.kendall_tau(np.array(before[-1]["losses"]), losses) if before else None
    self._ranks.write({"step": done, "tau": tau, "losses": losses.tolist()})


def lone_fitting(run: Run, label: str, folder: pathlib.Path, seed: int, training: Training, network: Any) -> Fitting:
  """The training of one network of its own, from scratch."""
  task, example = run.experiment.task, run.experiment.task.example(network.net, 1)
  judge = evaluator(lambda params, inputs: network.apply({"params": params}, inputs), task)
  part = lambda: eval_batches(run.splits.get("val", "retrain"), run.experiment.search.batch_size)
  return Fitting(run, label, folder, seed, training, lambda key: network.init(key, example)["params"],
                 lambda params: judge(params, part()))


def alone(network: Any, task: Any) -> step.LossFn:
  """The loss of one network of its own, with augmentation and dropout."""

  def loss(params, batch, keys):
    augment, noise = jax.random.split(keys.micro)
    batch = task.prepare(augment, batch)
    return task.loss(network.apply({"params": params}, task.inputs(batch), noise), batch).mean(), ({}, None)

  return loss


def stable(rows: list[dict], training: Training) -> bool:
  """Whether Kendall's tau between the losses of one checkpoint and the next is above the threshold, or has risen more often in
  a row than patience allows (RankNAS; OpenNLPLab/mixFormer, train_dynamic.py)."""
  taus = [row["tau"] for row in rows if row["tau"] is not None]
  rises = 0
  for earlier, later in zip(taus, taus[1:]):
    rises = rises + 1 if later > earlier else 0
  return bool(taus) and (taus[-1] > training.stability_threshold or rises > training.stability_patience)
