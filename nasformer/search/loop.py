"""The search loop: asks a strategy, scores what is new, tells it back. It knows no model, no file and no clock.

Objectives are columns, all maximised: the fitness first, then whatever else was scored, then minus each cost that is to be
small, as (least cost of the space - cost) / least cost: 0 for the cheapest network, -1 for one that costs twice as much.

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
from jaxtyping import Array, Bool, Float, Int

from nasformer.search.domain import Domain, Draw
from nasformer.types import Population, Score

ScoreFn = Callable[[Int[np.ndarray, "P G"]], Score]
Check = Callable[[Int[np.ndarray, "P G"]], Bool[np.ndarray, "P"]]


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
class Round:
  """What is to be scored next; the counts are totals since the start of the search.

  Attributes:
    number: of the generation, from 0.
    new: the networks that have no scores yet, each once, in the order in which they were asked.
    asked: genomes that the strategy proposed.
    duplicates: those of them that named a network already met.
    rejected: by limit, proposals that broke it before they were redrawn or repaired; by check, networks refused.
  """

  number: int
  new: tuple[np.ndarray, ...]
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
    rejected: by limit, proposals that broke it before they were redrawn or repaired; by check, networks refused.
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
    checks: Mapping[str, Check] | None = None,
    minimise: Sequence[str] = (),
) -> Iterator[Generation]:
  """Searches, one generation per step of the iterator.

  Args:
    key: decides all proposals.
    domain: where to look.
    strategy: who proposes.
    score_fn: scores distinct networks; it is given as many as are new, and keeps its own shapes fixed.
    generations: how many rounds.
    known: trial records of an earlier run of the same search. A generation of which it lacks a network, and every later
      one, is scored anew.
    checks: further hard limits, by name, such as on measured latency: which genomes pass. A refused network is not
      scored and gets -inf. The answer to one genome must not change, also not in a repeated search.
    minimise: costs of the domain that are objectives beside the fitness.

  Raises:
    UserError: the limits of the domain cannot be met, or there is no such cost; at the call, before anything is scored.
    ValueError: a score was computed on the test split.
  """
  domain.check(minimise)
  return _generations(rounds(key, domain, strategy, checks or {}, minimise), domain, score_fn, generations, known)


def _generations(talk, domain, score_fn, generations, known) -> Iterator[Generation]:
  trials, replayed, evaluated = None, True, 0
  for number in range(generations):
    found = talk.send(trials and [(trial["fitness"],) for trial in trials])
    logged = {bytes(np.array(trial["genes"], np.int32)): trial for trial in known if trial["generation"] == number}
    replayed = replayed and all(bytes(row) in logged for row in found.new)
    trials = [logged[bytes(row)] for row in found.new] if replayed else _score(score_fn, domain, number, found.new)
    evaluated += len(trials)
    yield Generation(number, tuple(trials), replayed, found.asked, found.duplicates, evaluated, found.rejected)


def rounds(
    key: Array, domain: Domain, strategy: Strategy, checks: Mapping[str, Check], minimise: Sequence[str],
) -> Generator[Round, Sequence[tuple[float, ...]] | None, None]:
  """The search from the side of whoever scores: yields what is new and is sent its scores, without end.

  Args:
    key: see `run`.
    domain: one that was checked.
    strategy: see `run`.
    checks: see `run`.
    minimise: see `run`.

  Yields:
    Networks; for each, a row of objectives is to be sent, all rows of one length.
  """
  least = {name: domain.costs[name].minimum()[0] for name in minimise}
  met: dict[bytes, tuple[float, ...]] = {}  # the objectives of every network; a refused one has -inf
  rejected = dict.fromkeys([*domain.limits, *checks], 0)
  asked = 0
  for number in itertools.count():
    if number == 0:
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
    for name, check in checks.items():
      passed = check(np.stack(new)) if new else ()
      rejected[name] += len(new) - int(np.sum(passed))
      new = [row for row, fine in zip(new, passed) if fine]
    scores = yield Round(number, tuple(new), asked, asked - len(met), dict(rejected))
    met.update({bytes(row): tuple(objectives) for row, objectives in zip(new, scores, strict=True)})
    told = _objectives(domain, least, genes, met)


def _objectives(
    domain: Domain, least: Mapping[str, int], genes: Int[np.ndarray, "P G"], met: Mapping[bytes, tuple[float, ...]]
) -> Float[np.ndarray, "P M"]:
  """What a strategy is told of a generation."""
  told = np.full((len(genes), max(map(len, met.values()))), -np.inf, np.float32)
  for row, name in zip(told, genes):
    row[: len(met[bytes(name)])] = met[bytes(name)]
  cheap = [(low - domain.costs[name].exact(genes)) / max(low, 1) for name, low in least.items()]
  return np.concatenate([told, *(column.astype(np.float32)[:, None] for column in cheap)], 1)


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


def _score(score_fn: ScoreFn, domain: Domain, number: int, new: Sequence[np.ndarray]) -> list[dict]:
  """Scores new networks; their trial records hold plain numbers, ready for JSON."""
  if not new:
    return []
  genes = np.stack(new)
  score = score_fn(genes)
  if score.split == "test":
    raise ValueError("a search must not read the test split: score on a part of the training data")
  columns = {"fitness": score.value, **score.parts, **{name: cost.exact(genes) for name, cost in domain.costs.items()}}
  columns = {name: np.asarray(column).tolist() for name, column in columns.items()}
  return [
      {"generation": number, "genes": row.tolist(), **{name: column[i] for name, column in columns.items()},
       "source": score.source, "split": score.split}
      for i, row in enumerate(genes)
  ]
