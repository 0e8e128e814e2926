"""Using what a search found: a finished run's network in three lines, without any search code.

    apply, params, spec = nasformer.load("DIR")
    logits = apply(params, images)  # uint8 or float, 0 to 255: [B, height, width, channels]
"""

import functools
import pathlib
from typing import Any, Callable

import jax
from jaxtyping import Array

from nasformer import config
from nasformer.data.base import Info
from nasformer.experiment import Experiment
from nasformer.nets.vision import VisionTransformer
from nasformer.store import files
from nasformer.store.checkpoint import Checkpoints
from nasformer.types import EncoderSpec, Params, UserError


def load(workdir: str | pathlib.Path, arm: str | None = None, seed: int | None = None) -> tuple[Callable, Params, Any]:
  """Loads a winner with its retrained weights, or the inherited ones if it was not retrained.

  Args:
    workdir: the work directory of the run.
    arm: which search's winner, or "baseline"; the main one if None.
    seed: which seed's; the first if None.

  Returns:
    (apply, params, spec), with `apply(params, images) -> logits`, jitted.

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
  network = _network(about, EncoderSpec.from_json(rows[0]["spec"]))
  where = pathlib.Path(arm) / f"seed{rows[0]['seed']}"
  for folder in (workdir / "retrain" / where / "model", workdir / "derived" / where):
    checkpoints = Checkpoints(folder)
    if checkpoints.latest_step() is not None:
      example = jax.ShapeDtypeStruct((1, *network.net.image_shape), "uint8")
      params = checkpoints.restore(jax.eval_shape(network.init, jax.random.key(0), example)["params"])
      return jax.jit(functools.partial(_apply, network)), params, network.spec
  raise UserError(f"{workdir}: the winner of arm {arm!r} has no weights yet: run --stages=derive or --stages=retrain")


def _apply(network: VisionTransformer, params: Params, images: Array) -> Array:
  wanted = network.net.image_shape
  if images.shape[1:] != wanted:
    raise UserError(f"images of shape {images.shape}: this network takes [batch, {', '.join(map(str, wanted))}]")
  return network.apply({"params": params}, images)


def _network(about: dict, spec: EncoderSpec) -> VisionTransformer:
  experiment = config.from_json(Experiment, about["config"])
  fields = Info.__dataclass_fields__
  info = Info(**{name: tuple(value) if isinstance(value, list) else value
                 for name, value in about["dataset"].items() if name in fields})
  return VisionTransformer(experiment.task.build(info, experiment.kinds), spec)
