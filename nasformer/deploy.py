"""Using what a search found: a finished run's network in three lines, without any search code.

    apply, params, spec = nasformer.load("DIR")
    logits = apply(params, images)  # uint8 or float, 0 to 255: [B, height, width, channels]
    translations = apply(params, ["A sentence."])  # where the task is translation
    logits = apply(params, ["A text."])  # of texts; or of series, arrays [steps, channels] of unequal lengths
"""

import pathlib
from typing import Any, Callable, Mapping

import jax

from nasformer import config, supernet
from nasformer.data.base import Info
from nasformer.data.parallel import TextInfo
from nasformer.data.series import SeriesInfo
from nasformer.data.texts import TextsInfo
from nasformer.experiment import Experiment
from nasformer.registry import lookup
from nasformer.store import files
from nasformer.store.checkpoint import Checkpoints
from nasformer.types import Params, UserError

_INFOS = {"source_vocab": TextInfo, "vocabulary": TextsInfo, "image_shape": Info, "lengths": SeriesInfo}  # by a field of their own


def load(workdir: str | pathlib.Path, arm: str | None = None, seed: int | None = None) -> tuple[Callable, Params, Any]:
  """Loads a winner with its retrained weights, or the inherited ones if it was not retrained.

  Args:
    workdir: the work directory of the run.
    arm: which search's winner, or "baseline"; the main one if None.
    seed: which seed's; the first if None.

  Returns:
    (apply, params, spec), with what the task gives people: `apply(params, images) -> logits`, `apply(params, sentences) ->
    translations`, `apply(params, texts) -> logits` or `apply(params, series) -> logits`.

  Raises:
    UserError: the search has not ended, there is no such winner, or it has no weights yet.
  """
  workdir = pathlib.Path(workdir)
  found = files.read_json(workdir / "winner.json")
  about = files.read_json(workdir / "experiment.json")
  arm = found["main"] if arm is None else arm
  rows = [row for row in found["winners"] if row["arm"] == arm and seed in (None, row["seed"])]
  if not rows:
    there = sorted({f"{row['arm']} of seed {row['seed']}" for row in found["winners"]})
    raise UserError(f"{workdir}: there is no winner of arm {arm!r}{'' if seed is None else f' and seed {seed}'}"
                    f" (there are: {', '.join(there)})")
  experiment, info = described(about)
  net = experiment.task.build(info, experiment.space, experiment.kinds)
  network = lookup(supernet.BY_NETWORK, type(net).__name__, "network family")(experiment.space, net).module(
      experiment.space.spec.from_json(rows[0]["spec"]))
  where = pathlib.Path(arm) / f"seed{rows[0]['seed']}"
  for folder in (workdir / "retrain" / where / "model", workdir / "derived" / where):
    checkpoints = Checkpoints(folder)
    if checkpoints.latest_step() is not None:
      example = experiment.task.example(net, 1)
      params = checkpoints.restore(jax.eval_shape(network.init, jax.random.key(0), example)["params"])
      return experiment.task.deployed(network, info, workdir), params, network.spec
  raise UserError(f"{workdir}: the winner of arm {arm!r} has no weights yet: run --stages=derive or --stages=retrain")


def described(about: Mapping) -> tuple[Experiment, Any]:
  """The experiment, and what is known of its data, as experiment.json has them."""
  experiment = config.from_json(Experiment, about["config"])
  info_type = _INFOS[next(name for name in _INFOS if name in about["dataset"])]
  fields = info_type.__dataclass_fields__
  return experiment, info_type(**{name: tuple(value) if isinstance(value, list) else value
                                  for name, value in about["dataset"].items() if name in fields})
