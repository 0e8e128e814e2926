"""What the networks of a task are compared by, what that is called, and how it is written.

A task names its headline in experiment.json; `YARDSTICKS` says the rest, so that a new headline is one row here.
Searches and trainings are followed on the validation split by a measure that costs one forward pass: accuracy itself,
or the loss where the headline takes decoding.
"""

import dataclasses
import math
from typing import Callable, Mapping, Sequence

import numpy as np

from nasformer.ops import stats
from nasformer.report.numbers import lower_first, milliseconds, percent, percent2, si, tenths, thousandths
from nasformer.report.run import Model, Run

Interval = tuple[float, float]

NORMAL_95 = 1.96  # half the width of a 95% interval, in standard errors


@dataclasses.dataclass(frozen=True)
class Unit:
  """How numbers of one kind are written.

  Attributes:
    table: writes a value, or a mean and a deviation, in a table.
    brief: likewise in a sentence.
    tick: writes a value at an axis.
    name: what the number does not say of itself.
  """

  table: Callable[..., str]
  brief: Callable[..., str]
  tick: Callable[[float], str]
  name: str = ""

  def full(self, value: float) -> str:
    """A value with its name."""
    return f"{self.brief(value)} {self.name}".strip()


def _plain(value: float) -> str:
  return f"{value:g}"


PERCENT = Unit(percent2, percent, lambda value: f"{100 * value:g}%")
TENTHS = Unit(tenths, tenths, _plain)
NATS = Unit(thousandths, thousandths, _plain, "nats per token")
BITS = Unit(thousandths, thousandths, _plain, "bits per token")
THOUSANDTHS = Unit(thousandths, thousandths, _plain)
COUNT = Unit(si, si, si)
MILLISECONDS = Unit(milliseconds, milliseconds, _plain)


@dataclasses.dataclass(frozen=True)
class Metric:
  """A column of the comparison.

  Attributes:
    name: column of the CSV files.
    label: column heading.
    unit: of its values.
    best: `max` or `min`, whichever wins.
    of: takes the value out of a model; None while it is not measured.
    noun: what follows a value in a sentence.
    interval: takes the ends of the value's 95% interval out of a model, where there is one.
    optional: left out of runs in which no network has it.
  """

  name: str
  label: str
  unit: Unit
  best: Callable
  of: Callable[[Model], float | None]
  noun: str = ""
  interval: Callable[[Model], Interval | None] = lambda model: None
  optional: bool = False

  @property
  def axis(self) -> str:
    """Label of an axis."""
    return lower_first(self.label) + (f" ({self.unit.name})" if self.unit.name else "")


PARAMS = Metric("params", "Parameters", COUNT, min, lambda model: model.params)
FLOPS = Metric("flops", "FLOPs", COUNT, min, lambda model: model.flops)
LATENCY = Metric("latency_ms", "Latency, median", MILLISECONDS, min,
                 lambda model: model.latency_ms["median_ms"] if model.latency_ms else None)
COSTS = (PARAMS, FLOPS, LATENCY)


@dataclasses.dataclass(frozen=True)
class Yardstick:
  """What the networks of a task are compared by.

  Attributes:
    topic: the headline as a title names it.
    test: the headline, measured once, in the end.
    more: what else is measured on the test split.
    retrained: what training and search are followed by, on the validation split, after retraining.
    inherited: the same measure with the weights of the supernet.
    searched: its name in the files.
    ideal: its best value, and how that is called.
    guess: its value for a network that has learned nothing, of a data set.
    gain: says a difference of the headline in words.
    error: standard error of the headline of the networks of one arm that comes from the size of the test split.
    examples: what the data set consists of.
    described: says of a data set how large its problem is.
    paired: whether networks are compared with the baseline sentence by sentence.
    notes: what a reader of the comparison needs to know of its columns.
    more_notes: likewise of `more`.
    timed: what a run of the latency measurement does, where that needs saying.
    step: what lengths of inputs are counted in.
    lengths: what FLOPs by length are counted of.
  """

  topic: str
  test: Metric
  more: tuple[Metric, ...]
  retrained: Metric
  inherited: Metric
  searched: str
  ideal: tuple[float, str]
  guess: Callable[[Mapping], float]
  gain: Callable[[float], str]
  error: Callable[[Sequence[Model], int], float]
  examples: str
  described: Callable[[Mapping], str]
  paired: bool
  notes: str
  more_notes: str
  timed: str
  step: str
  lengths: str

  @property
  def metrics(self) -> tuple[Metric, ...]:
    """The columns of the comparison, but for `more`."""
    return (self.test, self.retrained, self.inherited, *COSTS)

  @property
  def maximise(self) -> bool:
    """Whether more is better in what searches are followed by."""
    return self.inherited.best is max


def yardstick(run: Run) -> Yardstick:
  """The yardstick of a run's task."""
  yard = YARDSTICKS[run.experiment["headline"]]
  measured = lambda metric: any(metric.of(model) is not None for model in run.models)
  return dataclasses.replace(yard, more=tuple(metric for metric in yard.more if not metric.optional or measured(metric)))


def _on_test(name: str) -> Callable[[Model], float | None]:
  return lambda model: model.test[name] if model.test else None


# -- one label for each example ----------------------------------------------------------------------------------------


def _more_accurate(gain: float) -> str:
  if abs(gain) < 0.0005:
    return "as accurate"
  return f"{100 * abs(gain):.1f} points {'more' if gain > 0 else 'less'} accurate"


def _binomial_error(models: Sequence[Model], num_test: int) -> float:
  return stats.binomial_error(float(np.mean([model.test["accuracy"] for model in models])), num_test)


def _guessed_accuracy(dataset: Mapping) -> float:
  classes = len(dataset["class_names"])
  return 1 / classes if classes > 1 else 0.0


def _matthews(model: Model) -> float | None:
  return model.test["matthews"] if "matthews" in model.test else None


def _classes(dataset: Mapping) -> str:
  longest = f" · sequences of at most {dataset['max_length']:,} steps" if "max_length" in dataset else ""
  return f"{len(dataset['class_names'])} classes{longest}"


ACCURACY = Yardstick(
    topic="Accuracy",
    test=Metric("test_retrained", "Test accuracy, retrained", PERCENT, max, _on_test("accuracy"), "test accuracy"),
    more=(Metric("matthews", "Matthews correlation", THOUSANDTHS, max, _matthews, optional=True),),
    retrained=Metric("val_retrained", "Validation accuracy, retrained", PERCENT, max,
                     lambda model: model.val_retrained, "validation accuracy"),
    inherited=Metric("val_inherited", "Validation accuracy, inherited", PERCENT, max,
                     lambda model: model.val_inherited, "validation accuracy"),
    searched="accuracy",
    ideal=(1.0, "full accuracy"),
    guess=_guessed_accuracy,
    gain=_more_accurate,
    error=_binomial_error,
    examples="examples",
    described=_classes,
    paired=False,
    notes="",
    more_notes="Matthews correlation of predicted and true classes: 1 is all right, 0 no better than guessing.",
    timed="",
    step="steps",
    lengths="For one sequence of so many steps (tokens of a text)",
)


# -- translation -------------------------------------------------------------------------------------------------------


def _better_bleu(gain: float) -> str:
  if abs(gain) < 0.05:
    return "as good"
  return f"{'better' if gain > 0 else 'worse'} by {abs(gain):.1f} BLEU"


def _bootstrap_error(models: Sequence[Model], num_test: int) -> float:
  return float(np.mean([model.test["bleu_high"] - model.test["bleu_low"] for model in models])) / (2 * NORMAL_95)


def _bleu_interval(model: Model) -> Interval | None:
  return (model.test["bleu_low"], model.test["bleu_high"]) if model.test else None


BLEU = Yardstick(
    topic="BLEU",
    test=Metric("bleu", "Test BLEU, retrained", TENTHS, max, _on_test("bleu"), "BLEU", _bleu_interval),
    more=(
        Metric("chrf", "chrF", TENTHS, max, _on_test("chrf")),
        Metric("bleu_tokenised", "BLEU, tokenised", TENTHS, max, _on_test("bleu_tokenised")),
        Metric("exact_match", "Exact match", Unit(percent, percent, PERCENT.tick), max, _on_test("exact_match")),
        Metric("test_loss", "Loss, nats", NATS, min, _on_test("loss")),
        Metric("test_smoothed_bits", "Loss, smoothed, bits", BITS, min, _on_test("smoothed_bits")),
    ),
    retrained=Metric("val_loss_retrained", "Validation loss, retrained", NATS, min,
                     lambda model: model.val_retrained, "nats per token of validation loss"),
    inherited=Metric("val_loss_inherited", "Validation loss, inherited", NATS, min,
                     lambda model: model.val_inherited, "nats per token of validation loss"),
    searched="loss",
    ideal=(0.0, "no loss"),
    guess=lambda dataset: math.log(dataset["target_vocab"]),
    gain=_better_bleu,
    error=_bootstrap_error,
    examples="sentences",
    described=lambda dataset: (f"{dataset['source_language']} to {dataset['target_language']} · vocabulary of"
                               f" {dataset['target_vocab']:,} tokens"),
    paired=True,
    notes="Losses are in nats per target token, lower is better. ",
    more_notes=("BLEU of tokenised text is another measure, not to be compared with BLEU. Exact match counts the"
                " translations equal to their reference. Losses are per target token; smoothed is with the label"
                " smoothing of training."),
    timed="A run translates word by word, greedily, at the length that FLOPs are counted at. ",
    step="tokens",
    lengths="For a source and a target of so many tokens each",
)

YARDSTICKS = {"accuracy": ACCURACY, "bleu": BLEU}
