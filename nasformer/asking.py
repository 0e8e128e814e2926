"""Search with a score of your own, one generation at a time, from a notebook or any loop.

    search = nasformer.Search(space="tiny", strategy="aging_evolution", limits={"params": 1e6}, path="mine.jsonl")
    for _ in range(10):
      candidates = search.ask()
      search.tell([my_score(candidate.spec) for candidate in candidates])
    print(search.best(3))

Larger scores are better; a tuple is one score per objective, NaN a failure. Made again with the same path, a search goes on
where it was left.
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nasformer import attention, config
from nasformer.data.base import Info
from nasformer.data.parallel import TextInfo
from nasformer.ops.stats import pareto_mask
from nasformer.registry import lookup
from nasformer.score import counts
from nasformer.search import loop, order
from nasformer.search.costs import CostTable
from nasformer.search.domain import Domain
from nasformer.space.encoder import Encoder
from nasformer.space.translation import Translation
from nasformer.store import files
from nasformer.store.known import Known
from nasformer.store.trials import TrialLog
from nasformer.tasks.image_classification import ImageClassification
from nasformer.tasks.translation import TranslationTask
from nasformer.types import UserError
from nasformer.workdir import differences

# What is counted where no network family is given: a space, its task, and data of the usual size. By the rule of
# translation networks the vocabulary does not count.
_USUAL = (
    (Encoder, ImageClassification(), Info("224 x 224 images", (224, 224, 3), 1000, (), "", (0.0,) * 3, (255.0,) * 3)),
    (Translation, TranslationTask(), TextInfo("sentences", "en", "de", 8000, 8000, True, 128, (128,), "", "")),
)
_BEST_FIRST = jax.jit(order.best_first)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What decides the proposals of a search, beside its costs.

  Attributes:
    space: where to look.
    strategy: who proposes.
    limits: the largest value that some costs may have.
    minimise: costs that are objectives beside the scores.
    seed: of all proposals.
  """

  space: Any = config.component("nasformer.space", "tiny", "space")
  strategy: Any = config.component("nasformer.search", "evolution", "search strategy")
  limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
  minimise: tuple[str, ...] = ()
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A network to be scored, or one that was.

  Attributes:
    genes: its genome.
    spec: its sizes.
    values: the chosen value of every active gene, by name.
    costs: by name.
    scores: one per objective; none before it was scored.
  """

  genes: tuple[int, ...] = dataclasses.field(repr=False)
  spec: Any
  values: Mapping[str, Any] = dataclasses.field(repr=False)
  costs: Mapping[str, int | float]
  scores: tuple[float, ...] = ()


class Search:
  """A search that a person drives: `ask` for candidates, `tell` their scores.

  Attributes:
    settings: what was asked for.
    domain: where is looked.
    trials: every candidate that was scored, in the order of asking.
  """

  def __init__(self, space: Any = "tiny", strategy: Any = "evolution", limits: Any = None, seed: Any = 0,
               path: str | pathlib.Path | None = None, minimise: Any = (), net: Any = None,
               costs: Mapping[str, Any] | None = None, repair: bool = False):
    """Begins a search, or goes on with the one in the file.

    Args:
      space: a row of the table of spaces, {"name": row, fields...} or a space.
      strategy: likewise.
      limits: the largest value that some costs may have, by name.
      seed: of all proposals.
      path: a file that keeps the scores, one line per candidate; None keeps them in memory only.
      minimise: costs that are objectives beside the scores.
      net: the network family that "params" and "flops" are counted for, as `task.build` makes it; by default that of the
        space's own task, for images of 224 x 224 and 1000 classes or for sentences of 30 tokens.
      costs: costs of your own, by name: one that adds up as a table, or any as a function of `Candidate.spec`, such as latency
        on a device of yours. A function is asked once for each network, and a file beside `path` keeps its answers. A network
        above a limit on it is not among the candidates.
      repair: go on from the intact lines of a damaged file, which is kept under another name.

    Raises:
      UserError: a setting means nothing, limits cannot be met, or the file is that of another search.
    """
    self.settings = config.from_json(Settings, {
        "space": space, "strategy": strategy, "limits": {} if limits is None else limits, "minimise": minimise, "seed": seed},
        "Search")
    tables = {**_counted(self.settings.space, net), **(costs or {})}
    functions = {name: tables.pop(name) for name in list(tables) if not isinstance(tables[name], CostTable)}
    if not {**tables, **functions} and (self.settings.limits or self.settings.minimise):
      raise UserError(f"Search: no costs are known of a space of class {type(self.settings.space).__name__}: give the network"
                      " family as net= or your own as costs=")
    limits = self.settings.limits
    self.domain = Domain(self.settings.space, tables, {name: limits[name] for name in limits if name not in functions})
    self.domain.check(self.settings.minimise, functions)
    for name in functions:
      if name in limits and not limits[name] > 0:
        raise UserError(f"Search.limits.{name}={limits[name]}: a limit must be above 0")
    self.trials: list[Candidate] = []
    measured = {name: loop.Measured(_known(name, function, self.settings.space, path), limits[name] if name in limits else None)
                for name, function in functions.items()}
    self._talk = loop.rounds(jax.random.key(self.settings.seed), self.domain, self.settings.strategy, measured,
                             self.settings.minimise)
    self._round, self._asked = self._talk.send(None), False
    self._log = None if path is None else TrialLog(path)
    if self._log:
      self._resume(repair)

  def ask(self) -> list[Candidate]:
    """The networks of the next generation that have no score yet; the same ones until their scores are told.

    The list is empty where the strategy proposed nothing new, or limits on functions of yours refused all of it; then tell an
    empty list.
    """
    self._asked = True
    return self._candidates()

  def tell(self, scores: Any) -> None:
    """Takes the scores of the candidates of `ask`, in their order.

    Args:
      scores: for each candidate a number, or a tuple with one per objective; larger is better, NaN is a failure.

    Raises:
      UserError: there are too many or too few, one is not a number, or the number of objectives changes.
    """
    if not self._asked:
      raise UserError("tell() without ask(): there are no candidates that wait for scores")
    asked, rows = self._candidates(), _rows(scores)
    if len(rows) != len(asked):
      raise UserError(f"tell() was given {len(rows)} score(s) for {len(asked)} candidates: give one for each, in the order of"
                      " ask()")
    widths = [len(trial.scores) for trial in self.trials[:1]] + [len(row) for row in rows]
    for width in widths[1:]:
      if width != widths[0]:
        raise UserError(f"tell() was given {width} number(s) for a candidate and {widths[0]} for another: give all"
                        " candidates as many objectives")
    told = [dataclasses.replace(candidate, scores=row) for candidate, row in zip(asked, rows)]
    if self._log:
      self._log.append([*([] if self.trials else [{"search": self._about}]), *map(self._record, told)])
    self._advance(told)

  def best(self, num: int = 1) -> list[Candidate]:
    """The best so far: by score, or for several objectives by front and crowding distance; failures are left out."""
    if not self.trials:
      return []
    known = np.array([self._objectives(trial) for trial in self.trials], np.float32)
    room = 2 ** len(known).bit_length()  # of few sizes, each compiled once
    best = _BEST_FIRST(np.pad(known, ((0, room - len(known)), (0, 0)), constant_values=np.nan))  # failures are last
    return [self.trials[i] for i in np.asarray(best)[: np.isfinite(known).all(1).sum()][:num]]

  def front(self) -> list[Candidate]:
    """The candidates that no other one dominates, in the order of asking."""
    if not self.trials:
      return []
    scores = np.array([self._objectives(trial) for trial in self.trials])
    scores = np.where(np.isfinite(scores).all(1, keepdims=True), scores, np.nan)
    return [self.trials[i] for i in np.flatnonzero(pareto_mask(scores, (True,) * scores.shape[1]))]

  # -- inside -------------------------------------------------------------------------------------------------------

  def _candidates(self) -> list[Candidate]:
    space, costs, measured = self.settings.space, self.domain.costs, self._round.costs
    return [Candidate(tuple(genes.tolist()), space.decode(genes), space.values(genes),
                      {name: cost.exact(genes).item() for name, cost in costs.items()}
                      | {name: values[i] for name, values in measured.items()}) for i, genes in enumerate(self._round.new)]

  def _objectives(self, trial: Candidate) -> tuple[float, ...]:
    return *trial.scores, *(-float(trial.costs[name]) for name in self.settings.minimise)

  def _record(self, trial: Candidate) -> dict:
    return {"generation": self._round.number, "genes": trial.genes, "scores": [files.finite(x) for x in trial.scores],
            "costs": {name: files.finite(cost) for name, cost in trial.costs.items()}}

  def _advance(self, told: list[Candidate]) -> None:
    self.trials += told
    self._round, self._asked = self._talk.send([trial.scores for trial in told]), False

  @functools.cached_property
  def _about(self) -> dict:
    return json.loads(files.encode(config.to_json(self.settings)))

  def _resume(self, repair: bool) -> None:
    """Tells the strategy what the file knows."""
    if repair:
      self._log.repair()
    lines = self._log.read()
    if not lines:
      return
    if "search" not in lines[0]:
      raise UserError(f"{self._log.path} is not the file of a search of this kind: choose another path")
    for _, difference in differences(lines[0]["search"], self._about, "Search"):
      raise UserError(f"{self._log.path} holds another search ({difference}): choose another path, or go back to its settings")
    waiting = lines[1:]
    while waiting:
      number, asked = self._round.number, self._candidates()
      logged = {tuple(line["genes"]): line["scores"] for line in waiting if line["generation"] == number}
      later = [line for line in waiting if line["generation"] > number]
      cut_short = repair and not later and logged.keys() < {candidate.genes for candidate in asked}
      if cut_short:
        break
      if logged.keys() != {candidate.genes for candidate in asked} or len(waiting) != len(logged) + len(later):
        raise UserError(f"{self._log.path}: generation {number} there is not what this search asks for; it was made with other"
                        " costs or by another version: choose another path")
      self._advance([dataclasses.replace(candidate, scores=tuple(math.nan if x is None else x for x in logged[candidate.genes]))
                     for candidate in asked])
      waiting = later
    self._log.truncate_to(1 + len(self.trials) if self.trials else 0)  # a generation that was cut short is scored anew


def _counted(space: Any, net: Any) -> dict[str, CostTable]:
  """Parameters and FLOPs of the networks of a space; nothing for one that belongs to no task."""
  for kind, task, info in _USUAL:
    if net is None and isinstance(space, kind):
      net = task.build(info, space, {name: lookup(attention.TABLE, name, "attention kind")() for name in space.kinds})
  if net is None:
    return {}
  return {name: CostTable(space, tuple(counts.terms(space, net, cost)))
          for name, cost in (("params", counts.NumParams()), ("flops", counts.NumFlops()))}


def _known(name: str, function: Any, space: Any, path: str | pathlib.Path | None) -> Known:
  """A person's cost as a function of genomes."""

  def measure(genes):
    value = function(space.decode(genes))
    try:
      return float(value)
    except (TypeError, ValueError):
      raise UserError(f"Search.costs.{name} gave {value!r} for a network: a number is wanted") from None

  if not callable(function):
    raise UserError(f"Search.costs.{name}={function!r}: a CostTable is wanted, or a function of Candidate.spec")
  return Known(measure, name, None if path is None else pathlib.Path(path).with_suffix(f".{name}.jsonl"))


def _rows(scores: Any) -> list[tuple[float, ...]]:
  """What a person gave, as plain numbers."""
  if isinstance(scores, (str, Mapping)) or not hasattr(scores, "__iter__"):
    raise UserError(f"tell({scores!r}): a list with the score of each candidate is wanted")
  rows = []
  for number, score in enumerate(scores):
    parts = tuple(score) if isinstance(score, (tuple, list)) or getattr(score, "ndim", 0) == 1 else (score,)
    try:
      if not parts or any(isinstance(part, (str, bytes)) for part in parts):
        raise TypeError
      rows.append(tuple(map(float, parts)))
    except (TypeError, ValueError):
      raise UserError(f"the score of candidate {number} is {score!r}: a number is wanted, or a tuple of numbers for several"
                      " objectives (NaN for a failure)") from None
  return rows
