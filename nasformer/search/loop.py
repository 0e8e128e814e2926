"""The search loop: asks a strategy, scores what is new, tells it back. It knows no model, no file and no clock.

Objectives are columns, all maximised: the fitness first, then whatever else was scored, then minus each cost that is to be
small. A cost that adds up is given as (least cost of the space - cost) / least cost: 0 for the cheapest network, -1 for one
that costs twice as much.

The unit is the generation. An interrupted search is repeated from its trial log: proposals depend on the key, the
number of the generation and the scores alone, so asking again and reading the scores from the log gives the same search
bit for bit. One network is scored once, however many genomes and generations name it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from nasformer.search.domain import Domain, Draw
from nasformer.types import Population, Score

ScoreFn = Callable[[Int[np.ndarray, "P G"]], Score]


@runtime_checkable
class Strategy(Protocol):
  """What a search strategy is: pure functions, valid under jit. It sees genes and numbers only; scores are maximised.

  Scores have one column per objective, the quality first. The shape of the state may differ between the first generation
  and the later ones, and not among those. A row with an entry that is not finite is a failed or refused candidate and must
  never win. `nasformer.search.order` orders rows.
  """

  def init(self, key: Array, domain: Domain) -> Any:
    """The state, a tree of arrays, before anything is known."""

  def ask(self, key: Array, state: Any, domain: Domain) -> Draw:
    """The genomes of a generation, all within the limits of the domain."""

  def tell(self, state: Any, genes: Int[Array, "P G"], scores: Float[Array, "P M"]) -> Any:
    """The state after the scores of a generation."""


@dataclasses.dataclass(frozen=True)
class Measured:
  """A cost that is known of a network only once it was compiled or run, such as latency on the device at hand.

  Attributes:
    of: genome -> cost. The answer must not change, also not in a repeated search.
    limit: the largest value it may have, if there is one; a network above it is not scored and gets -inf.
  """

  of: Callable[[Int[np.ndarray, "G"]], float]
  limit: float | int | None = None


@dataclasses.dataclass(frozen=True)
class Round:
  """What is to be scored next; the counts are totals since the start of the search.

  Attributes:
    number: of the generation, from 0.
    new: the networks that have no scores yet, each once, in the order in which they were asked.
    costs: by name, what was measured of each of those.
    asked: genomes that the strategy proposed.
    duplicates: those of them that named a network already met.
    rejected: by limit, proposals that broke it before they were redrawn or repaired; where it is measured, networks refused.
  """

  number: int
  new: tuple[np.ndarray, ...]
  costs: Mapping[str, tuple[float, ...]]
  asked: int
  duplicates: int
  rejected: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Generation:
  """What one generation brought; the counts are totals since the start of the search.

  Attributes:
    number: from 0.
    trials: records of the networks that were new and were scored, in the order in which they were asked.
    replayed: whether the scores came from the log. Once this is false, the log holds nothing of use from here on.
    asked: genomes that the strategy proposed.
    duplicates: those of them that named a network already met.
    evaluated: networks scored.
    rejected: by limit, proposals that broke it before they were redrawn or repaired; where it is measured, networks refused.
  """

  number: int
  trials: tuple[Mapping, ...]
  replayed: bool
  asked: int
  duplicates: int
  evaluated: int
  rejected: Mapping[str, int]


def run(
    key: Array,
    domain: Domain,
    strategy: Strategy,
    score_fn: ScoreFn,
    generations: int,
    known: Sequence[Mapping] = (),
    measured: Mapping[str, Measured] | None = None,
    minimise: Sequence[str] = (),
) -> Iterator[Generation]:
  """Searches, one generation per step of the iterator.

  Args:
    key: decides all proposals.
    domain: where to look.
    strategy: who proposes.
    score_fn: scores distinct networks; it is given as many as are new, and keeps its own shapes fixed.
    generations: how many rounds.
    known: trial records of an earlier run of the same search. A generation of which it lacks a network or knows another cost,
      as predictions are once more was measured, and every later one, is scored anew.
    measured: costs that are not of the domain because they do not add up, by name: limited, to be recorded, or both.
    minimise: costs that are objectives beside the fitness, of either sort.

  Raises:
    UserError: the limits of the domain cannot be met, or there is no such cost; at the call, before anything is scored.
    ValueError: a score was computed on the test split.
  """
  domain.check(minimise, measured or ())
  return _generations(rounds(key, domain, strategy, measured or {}, minimise), domain, score_fn, generations, known)


def _generations(talk, domain, score_fn, generations, known) -> Iterator[Generation]:
  trials, replayed, evaluated = None, True, 0
  for number in range(generations):
    found = talk.send(trials and [(trial["fitness"],) for trial in trials])
    logged = {bytes(np.array(trial["genes"], np.int32)): trial for trial in known if trial["generation"] == number}
    replayed = replayed and all(bytes(row) in logged and _costs(domain, row, logged[bytes(row)]) for row in found.new)
    trials = [logged[bytes(row)] for row in found.new] if replayed else _score(score_fn, domain, found)
    evaluated += len(trials)
    yield Generation(number, tuple(trials), replayed, found.asked, found.duplicates, evaluated, found.rejected)


def _costs(domain: Domain, genes: Int[np.ndarray, "G"], trial: Mapping) -> bool:
  """Whether a network costs what its record says."""
  return all(trial[name] == cost.exact(genes) for name, cost in domain.costs.items())


def rounds(
    key: Array, domain: Domain, strategy: Strategy, measured: Mapping[str, Measured], minimise: Sequence[str],
) -> Generator[Round, Sequence[tuple[float, ...]] | None, None]:
  """The search from the side of whoever scores: yields what is new and is sent its scores, without end.

  Args:
    key: see `run`.
    domain: one that was checked.
    strategy: see `run`.
    measured: see `run`.
    minimise: see `run`.

  Yields:
    Networks; for each, a row of objectives is to be sent, all rows of one length.
  """
  least = {name: domain.costs[name].minimum()[0] for name in minimise if name in domain.costs}
  met: dict[bytes, tuple[float, ...]] = {}  # the objectives of every network; a refused one has -inf
  rejected = dict.fromkeys([*domain.limits, *(name for name, cost in measured.items() if cost.limit is not None)], 0)
  asked, width = 0, 0
  for number in itertools.count():
    if not width:  # nothing was scored yet
      state = _maybe_jit(_init, strategy)(strategy, domain, key)
    else:
      state = _maybe_jit(_tell, strategy)(strategy, state, genes, told)
    draw = _maybe_jit(_ask, strategy)(strategy, domain, key, number, state)
    genes, broken = np.asarray(draw.genes), np.asarray(draw.rejected)
    assert domain.meets(genes).all(), f"{type(strategy).__name__} proposed a network that breaks a limit"
    new = [np.frombuffer(name, np.int32) for name in dict.fromkeys(map(bytes, genes)) if name not in met]
    rejected.update({name: rejected[name] + int(num) for name, num in zip(domain.limits, broken)})
    met.update({bytes(row): (-np.inf,) for row in new})
    asked += len(genes)
    new, costs = _within(new, measured, rejected)
    scores = yield Round(number, tuple(new), costs, asked, asked - len(met), dict(rejected))
    for i, (row, objectives) in enumerate(zip(new, scores, strict=True)):
      cheap = [-costs[name][i] if name in costs else (least[name] - domain.costs[name].exact(row)) / max(least[name], 1)
               for name in minimise]
      met[bytes(row)] = *objectives, *cheap
      width = len(met[bytes(row)])
    told = np.array([[*met[bytes(row)], *[-np.inf] * (width - len(met[bytes(row)]))] for row in genes], np.float32)


def _within(
    new: Sequence[np.ndarray], measured: Mapping[str, Measured], rejected: dict[str, int]
) -> tuple[list[np.ndarray], dict[str, tuple[float, ...]]]:
  """The networks that keep the limits on what is measured, and that; counts the others. What one limit refuses is not measured
  further."""
  kept = [(row, {}) for row in new]
  for name, cost in measured.items():
    kept = [(row, {**costs, name: float(cost.of(row))}) for row, costs in kept]
    if cost.limit is not None:
      passed = [pair for pair in kept if pair[1][name] <= cost.limit]
      rejected[name] += len(kept) - len(passed)
      kept = passed
  return [row for row, _ in kept], {name: tuple(costs[name] for _, costs in kept) for name in measured}


def _maybe_jit(program: Callable, strategy: Strategy) -> Callable:
  """The compiled program, unless the strategy says that it is not made of JAX operations alone."""
  return program if getattr(strategy, "jittable", True) else program.__wrapped__


# Asking, the costly part to compile, is a program of its own: telling is compiled once more when the state has grown.


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(strategy: Strategy, domain: Domain, key: Array) -> Any:
  """The state before anything is known."""
  return strategy.init(jax.random.split(key)[0], domain)


@functools.partial(jax.jit, static_argnums=0)
def _tell(strategy: Strategy, state: Any, genes: Population, scores: Float[Array, "P M"]) -> Any:
  """Selection: the state after the scores of a generation."""
  return strategy.tell(state, genes, scores)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _ask(strategy: Strategy, domain: Domain, key: Array, number: int | Int[Array, ""], state: Any) -> Draw:
  """Variation and repair: the next generation."""
  draw = strategy.ask(jax.random.fold_in(jax.random.split(key)[1], number), state, domain)
  return draw._replace(genes=domain.space.canonical(draw.genes))


def _score(score_fn: ScoreFn, domain: Domain, found: Round) -> list[dict]:
  """Scores new networks; their trial records hold plain numbers, ready for JSON."""
  if not found.new:
    return []
  genes = np.stack(found.new)
  score = score_fn(genes)
  if score.split == "test":
    raise ValueError("a search must not read the test split: score on a part of the training data")
  columns = {"fitness": score.value, **score.parts, **{name: cost.exact(genes) for name, cost in domain.costs.items()},
             **found.costs}
  columns = {name: np.asarray(column).tolist() for name, column in columns.items()}
  return [
      {"generation": found.number, "genes": row.tolist(), **{name: column[i] for name, column in columns.items()},
       "source": score.source, "split": score.split}
      for i, row in enumerate(genes)
  ]
