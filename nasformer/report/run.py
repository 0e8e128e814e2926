"""A run as the report sees it: frozen records of what lies in a work directory, with gaps where nothing lies yet."""

import dataclasses
from typing import Any, Mapping

import numpy as np
from jaxtyping import Float, Int

from nasformer.types import EncoderSpec, TranslationSpec

BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class Model:
  """One network of the comparison: the winner of an arm under one seed, or the hand-made baseline.

  What is measured is up to the task (`nasformer.report.measures`): accuracies as fractions, losses, BLEU.

  Attributes:
    val_inherited: on the validation split, with the weights of the supernet.
    val_retrained: the same measure after retraining; None before.
    test: everything measured on the test split, by name; empty before.
    against_baseline: "difference" of the headline to the baseline's, its interval from "low" to "high", and "p_value".
    flops_by_length: FLOPs by the tokens of a sentence, where they were counted.
    search: "asked", "evaluated" and "duplicates" candidates of the search that it won; None for the baseline.
    rejected: how many proposals each limit turned away, by cost.
    predicted_ms: latency as the search predicted it, where it did.
    search_ms: median latency as the search measured it, where it had a latency limit.
    latency_ms: "median_ms", "p10_ms", "p90_ms" and "runs", as measured in the end.
  """

  arm: str
  seed: int
  spec: EncoderSpec | TranslationSpec
  params: int
  flops: int
  val_inherited: float
  val_retrained: float | None
  test: Mapping[str, float]
  against_baseline: Mapping[str, float] | None
  flops_by_length: Mapping[int, int]
  search: Mapping[str, int] | None
  rejected: Mapping[str, int]
  search_ms: float | None
  predicted_ms: float | None
  latency_ms: Mapping[str, float] | None


@dataclasses.dataclass(frozen=True)
class Trials:
  """The candidates that one search evaluated, in order. A failed evaluation is NaN.

  Attributes:
    fitness: what the search maximises.
    quality: accuracy or loss, on the validation split, with the weights inherited from the supernet.
  """

  arm: str
  seed: int
  generation: Int[np.ndarray, "E"]
  fitness: Float[np.ndarray, "E"]
  quality: Float[np.ndarray, "E"]
  params: Float[np.ndarray, "E"]
  flops: Float[np.ndarray, "E"]


@dataclasses.dataclass(frozen=True)
class Curve:
  """Training loss by step of one training; `arm` is None for a supernet."""

  arm: str | None
  seed: int
  step: Float[np.ndarray, "E"]
  loss: Float[np.ndarray, "E"]


@dataclasses.dataclass(frozen=True)
class Texts:
  """The test part and what the networks of one seed made of it, line by line.

  Attributes:
    outputs: by arm.
  """

  seed: int
  sources: tuple[str, ...]
  references: tuple[str, ...]
  outputs: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Run:
  """A work directory as the report sees it.

  Attributes:
    experiment: what was asked for and where it ran, as written in experiment.json.
    limits: hard upper limits of the search, by cost.
    signatures: how exactly metrics of the test split were computed, by metric.
    texts: None where the task makes no text.
    latency: device and batch of the latency measurement; None before it.
    trust: "rows" of networks that were trained alone, their "steps", and Kendall's "tau" of every predictor; None before.
    timings: a "stage" each, and what was noted of it, such as "seconds" and "compilations".
  """

  experiment: Mapping[str, Any]
  limits: Mapping[str, float]
  models: tuple[Model, ...]
  signatures: Mapping[str, str]
  texts: Texts | None
  trials: tuple[Trials, ...]
  curves: tuple[Curve, ...]
  latency: Mapping[str, Any] | None
  timings: tuple[Mapping[str, Any], ...]
  trust: Mapping[str, Any] | None = None

  @property
  def arms(self) -> tuple[str, ...]:
    """Every arm in the order of the configuration, the baseline last."""
    arms = dict.fromkeys(each.arm for each in (*self.models, *self.trials))
    return tuple(sorted(arms, key=lambda arm: arm == BASELINE))

  @property
  def seeds(self) -> tuple[int, ...]:
    return tuple(sorted({each.seed for each in (*self.models, *self.trials, *self.curves)}))

  def of(self, arm: str) -> tuple[Model, ...]:
    """The models of one arm, by seed."""
    return tuple(sorted((model for model in self.models if model.arm == arm), key=lambda model: model.seed))


def called(arm: str) -> str:
  """An arm as a reader is told of it."""
  return "hand-made baseline" if arm == BASELINE else arm
