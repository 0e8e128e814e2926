"""Everything that decides a run: one frozen dataclass, made by a config file and stored beside every result."""

import dataclasses
from typing import Any, Literal, Mapping

from nasformer.config import component, components
from nasformer.registry import lookup
from nasformer import attention
from nasformer.score.generated import Bleu
from nasformer.score.latency import Latency
from nasformer.supernet.sampling import Sampling
from nasformer.train.optimizer import Optimizer
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Training:
  """Length and rule of one training; the supernet's and the final one's are of this one kind.

  Attributes:
    steps: updates.
    batch_size: examples per update; for sentence pairs, target tokens with their padding.
    accumulate: micro-batches that a batch is split into.
    ema_decay: decay of the moving average of the weights, which then is what is evaluated; 0 for none.
    average_last: evaluate the mean of the weights of so many last checkpoints (Vaswani et al. 2017, 6.1); 0 takes the last.
    keep_best: evaluate the checkpoint with the lowest validation loss; for the final training.
    stability_networks: stop a supernet when the order of so many random networks no longer changes; 0 never stops.
    stability_threshold: the order is stable when Kendall's tau from one checkpoint to the next is above this,
    stability_patience: or when tau has risen more often than this in a row.
    freeze_unused: leave weights and moments alone that no drawn network used (in a supernet).
    report_every: updates between two lines of metrics.
    checkpoint_every: updates between two checkpoints; a multiple of `report_every`.
    optimizer: rule and schedule.
  """

  steps: int = 1000
  batch_size: int = 128
  accumulate: int = 1
  ema_decay: float = 0.0
  average_last: int = 0
  keep_best: bool = False
  stability_networks: int = 0
  stability_threshold: float = 0.9
  stability_patience: int = 5
  freeze_unused: bool = True
  report_every: int = 50
  checkpoint_every: int = 500
  optimizer: Optimizer = Optimizer()

  def __post_init__(self):
    for name in ("steps", "batch_size", "accumulate", "report_every", "checkpoint_every"):
      if getattr(self, name) < 1:
        raise UserError(f"{name}={getattr(self, name)}: it must be at least 1")
    if self.checkpoint_every % self.report_every:
      raise UserError(f"checkpoint_every={self.checkpoint_every} must be a multiple of report_every={self.report_every}")
    if self.batch_size % self.accumulate:
      raise UserError(f"accumulate={self.accumulate} must divide batch_size={self.batch_size}")
    if self.average_last < 0 or self.stability_networks < 0 or self.stability_networks == 1:
      raise UserError(f"average_last={self.average_last}, stability_networks={self.stability_networks}: use 0 for none, or"
                      " more (at least 2 networks have an order)")
    if self.average_last and self.keep_best:
      raise UserError(f"average_last={self.average_last} and keep_best=True exclude each other: choose one")
    if self.average_last > -(-self.steps // self.checkpoint_every):
      raise UserError(f"average_last={self.average_last} is more than the checkpoints there will be: {self.steps} steps,"
                      f" checkpoint_every={self.checkpoint_every}")
    if not 0 <= self.ema_decay < 1:
      raise UserError(f"ema_decay={self.ema_decay}: it must be at least 0 and below 1")
    self.optimizer.schedule_fn(self.steps)  # a warm-up longer than the training is refused here


@dataclasses.dataclass(frozen=True)
class Limits:
  """Hard upper limits that every candidate must keep; None where there is none.

  Attributes:
    params: number of parameters.
    flops: FLOPs for one example.
    latency_ms: of the sliced compiled network on this device; see `Search.latency`.
    memory_mb: peak memory of the program that latency is measured on, as it is compiled: takes seconds per candidate.
    training_memory_mb: the same of one update of the final training.
    attention_ms: of all attention layers, one after another; needs `Search.attention_table`.
  """

  params: float | None = None
  flops: float | None = None
  latency_ms: float | None = None
  memory_mb: float | None = None
  training_memory_mb: float | None = None
  attention_ms: float | None = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is not None and not value > 0:
        raise UserError(f"{field.name}={value}: a limit must be above 0; leave it out for none")

  def counted(self, latency: bool = False) -> dict[str, float]:
    """The limits on costs that are known without measuring; latency may be one of them, where it is predicted."""
    names = ("params", "flops", "attention_ms", *(("latency_ms",) if latency else ()))
    return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclasses.dataclass(frozen=True)
class Search:
  """How the supernet is searched, and for what.

  Attributes:
    strategy: who proposes candidates.
    score: what they are judged by, with inherited weights on the validation part.
    generations: rounds.
    limits: the budget.
    latency: "measured": every candidate is compiled and run, which takes seconds each; "predicted": from the table that the
      stage latency measures beforehand, at once, and the winners are measured.
    attention_table: what experiments/bench/attention.py measured of the attention kinds on this device (attention.jsonl); gives
      every candidate the cost attention_ms.
    minimise: costs that are objectives beside the score, any that can have a limit, such as ("flops", "latency_ms"):
      strategies then look for the whole front.
    arms: restrictions of the space that are searched apart and compared, by name; the first is the main one.
    baseline: restriction that hand-made networks (all layers alike) keep; the largest within the budget is compared.
    baseline_flops: budget of the hand-made network in FLOPs, where it is not that of the search.
    margin: of the candidates within so many standard errors of the best accuracy the cheapest wins, by the first cost that is
      minimised or else by FLOPs; 0 takes the best.
    batch_size: validation examples per pass; for sentence pairs, target tokens with their padding.
    chunk: members of a population that are mapped together; 0 measures which is fastest on an accelerator and takes 1
      on a CPU, where it is (experiments/bench/population.py).
  """

  strategy: Any = component("nasformer.search", "evolution", "search strategy")
  score: Any = component("nasformer.score", "loss", "score")
  generations: int = 30
  limits: Limits = Limits()
  latency: Literal["measured", "predicted"] = "measured"
  attention_table: str | None = None
  minimise: tuple[str, ...] = ()
  arms: Mapping[str, str] = dataclasses.field(default_factory=lambda: {
      "mixed": "", "softmax": "layer.*.kind=softmax", "linear": "layer.*.kind=linear"})
  baseline: str = "layer.*.kind=softmax"
  baseline_flops: float | None = None
  margin: float = 0.0
  batch_size: int = 256
  chunk: int = 0

  def __post_init__(self):
    names = tuple(name.strip() for some in self.minimise for name in some.split(","))  # as a flag has them
    object.__setattr__(self, "minimise", names)
    if self.generations < 1 or self.batch_size < 1:
      raise UserError(f"generations={self.generations}, batch_size={self.batch_size}: both must be at least 1")
    if self.chunk < 0 or self.margin < 0:
      raise UserError(f"chunk={self.chunk}, margin={self.margin}: neither may be negative")
    if self.baseline_flops is not None and not self.baseline_flops > 0:
      raise UserError(f"baseline_flops={self.baseline_flops}: it must be above 0; leave it out for the budget of the search")
    if self.latency not in ("measured", "predicted"):
      raise UserError(f"latency={self.latency!r}: it must be 'measured' or 'predicted'")
    if self.attention_table is None and (self.limits.attention_ms is not None or "attention_ms" in self.minimise):
      raise UserError("attention_ms is known from a table only: name that of experiments/bench/attention.py as attention_table")
    if not self.arms or "baseline" in self.arms:
      raise UserError(f"arms={dict(self.arms)}: give at least one, and none named 'baseline'")
    if any(not name.replace("_", "").replace("-", "").isalnum() for name in self.arms):
      raise UserError(f"arms={list(self.arms)}: names are made of letters, digits, '_' and '-'")
    if not isinstance(self.score, str) and not hasattr(self.score, "value"):
      raise UserError(f"score={type(self.score).__name__}: only 'accuracy', 'loss' and 'bleu' can lead a search;"
                      " costs are given as search.limits")


@dataclasses.dataclass(frozen=True)
class Trust:
  """Which networks are trained alone to see how far the scores of the supernet are to be believed (the stage trust).

  Attributes:
    front: of the front that the search found.
    spread: random ones, from the smallest FLOPs to the largest.
    budget: random ones that cost about as much as the search may spend.
    band: how far their FLOPs may be from that, as a fraction.
    steps: updates of each; None for those of the final training.
  """

  front: int = 4
  spread: int = 6
  budget: int = 6
  band: float = 0.05
  steps: int | None = None

  def __post_init__(self):
    if min(self.front, self.spread, self.budget) < 0 or self.spread + self.budget < 2:
      raise UserError(f"trust: front={self.front}, spread={self.spread}, budget={self.budget}: none may be negative, and"
                      " at least 2 networks have an order")
    if not 0 < self.band < 1:
      raise UserError(f"trust.band={self.band}: it must lie between 0 and 1")
    if self.steps is not None and self.steps < 1:
      raise UserError(f"trust.steps={self.steps}: it must be at least 1; leave it out for those of the final training")


@dataclasses.dataclass(frozen=True)
class Experiment:
  """One run of the whole pipeline.

  Attributes:
    seeds: the pipeline is repeated for each, and results are given with their spread.
    data: what is learned.
    space: what can be chosen.
    task: network, loss and metrics.
    kinds: attention kinds that the space uses, by name, with their settings. One kind may be there under several names; where
      only elastic sizes differ, as in {"luna_8": Luna(8), "luna_64": Luna(64)}, they share their tensors in the supernet.
    share_projections: what the kinds of a layer have in common in the supernet, so that it takes less memory and every kind's
      training reaches the others: "none" of their projections (OpenNLPLab/mixFormer), "values", whose projections and those of
      outputs mean the same whatever the weights are made of, or "all" four.
    sampling: which networks a supernet step draws.
    train: the supernet's training.
    search: the search.
    retrain: the winners' training from scratch.
    latency: how winners are timed.
    trust: which networks show how far the supernet is to be believed.
  """

  seeds: tuple[int, ...] = (0,)
  data: Any = component("nasformer.data", "digits", "dataset")
  space: Any = component("nasformer.space", "tiny", "space")
  task: Any = component("nasformer.tasks", "image_classification", "task")
  kinds: Mapping[str, Any] = components("nasformer.attention", (), "attention kind")
  share_projections: Literal["none", "values", "all"] = "none"
  sampling: Sampling = Sampling()
  train: Training = Training()
  search: Search = Search()
  retrain: Training = Training()
  latency: Latency = Latency()
  trust: Trust = Trust()

  def __post_init__(self):
    if isinstance(self.search.score, Bleu) and getattr(self.task, "headline", "bleu") != "bleu":
      raise UserError("search.score='bleu' needs a task that makes text, such as translation: use 'accuracy' or 'loss'")
    if self.train.keep_best:
      raise UserError("train.keep_best=True: a supernet has no single validation loss; set retrain.keep_best")
    if self.retrain.stability_networks:
      raise UserError(f"retrain.stability_networks={self.retrain.stability_networks}: the order of networks can only stop a"
                      " supernet; set train.stability_networks")
    if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
      raise UserError(f"seeds={self.seeds}: give one or more different numbers from 0")
    if self.share_projections not in ("none", "values", "all"):
      raise UserError(f"share_projections={self.share_projections!r}: it must be 'none', 'values' or 'all'")
    if not isinstance(self.space, str):
      kinds = {name: self.kinds[name] if name in self.kinds else lookup(attention.TABLE, name, "attention kind")()
               for name in self.space.kinds}
      self.space.check(kinds)
      object.__setattr__(self, "kinds", kinds)
