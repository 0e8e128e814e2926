"""Sentence pairs as they were written: read, checked, and dealt out to parts so that no source sentence is in two."""

import dataclasses
import hashlib
import pathlib
from typing import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int, UInt64

from nasformer.data import base, files
from nasformer.types import UserError

CHUNK = 100_000  # pairs that are read and encoded at a time
BLANK = 0  # key of a pair that lacks a side

Chunk = tuple[Sequence[str], Sequence[str]]


class Pairs:
  """Sentence pairs.

  Attributes:
    sources: sentences of the language that is translated.
    targets: sentences of the other one; the same position belongs together.
    identity: what tells these pairs from others where they are too many to hold in memory; empty where they are held.
  """

  sources: Sequence[str]
  targets: Sequence[str]
  identity: str = ""

  def __len__(self) -> int:
    raise NotImplementedError

  def take(self, positions: Int[np.ndarray, "K"]) -> "Pairs":
    """The pairs at these positions."""
    raise NotImplementedError

  def chunks(self) -> Iterator[Chunk]:
    """All sources and targets, some at a time."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class Lines(Pairs):
  """Sentence pairs in memory."""

  sources: list[str]
  targets: list[str]

  def __len__(self) -> int:
    return len(self.sources)

  def take(self, positions: Int[np.ndarray, "K"]) -> "Lines":
    return Lines(*([side[i] for i in positions.tolist()] for side in (self.sources, self.targets)))

  def chunks(self) -> Iterator[Chunk]:
    for start in range(0, len(self), CHUNK):
      yield self.sources[start : start + CHUNK], self.targets[start : start + CHUNK]


def read(source: pathlib.Path, target: pathlib.Path, blanks: bool = False) -> Lines:
  """Reads two files of which the same line belongs together.

  Args:
    source: sentences, one in each line, in UTF-8, plain or packed with gzip.
    target: their translations.
    blanks: allow lines without text; they are left out of training later.

  Raises:
    UserError: a file is missing, damaged, empty or not UTF-8, has a line without text, or they differ in length.
  """
  pairs = Lines(files.lines(source), files.lines(target))
  if len(pairs.sources) != len(pairs.targets):
    raise UserError(f"{source} has {len(pairs.sources)} lines and {target} has {len(pairs.targets)}, which should be "
                    f"as many: {_misaligned(pairs)}")
  if not blanks:
    for path, side in ((source, pairs.sources), (target, pairs.targets)):
      empty = next((i for i, line in enumerate(side, 1) if not line.strip()), None)
      if empty:
        raise UserError(f"{path}, line {empty} is empty, and what is translated for a score needs its counterpart: "
                        "add it or remove the line from both files")
  return pairs


def joined(several: Sequence[Lines]) -> Lines:
  """All pairs, one file after the other."""
  return Lines(*([line for pairs in several for line in getattr(pairs, side)] for side in ("sources", "targets")))


def keys(pairs: Pairs) -> UInt64[np.ndarray, "E"]:
  """A number for each pair: the same for equal sources, `BLANK` where a side has no text."""
  made = [np.zeros(0, np.uint64)]
  for sources, targets in pairs.chunks():
    made.append(np.fromiter(map(_key, sources, targets), np.uint64, len(sources)))
  return np.concatenate(made)


def deal(keys: Mapping[str, UInt64[np.ndarray, "_"]], fractions: Mapping[str, float],
         seed: int) -> tuple[dict[str, Int[np.ndarray, "_"]], dict[str, int]]:
  """Which pairs each part has. A source sentence is in one part only: training gives way, and validation to test.

  Args:
    keys: of the pairs of each part that is given, "train" among them.
    fractions: share of the training pairs that becomes "test" or "val" where it is not given.
    seed: of that choice.

  Returns:
    Positions in ascending order, of training pairs for what is not given, of its own pairs for what is; and how many
    pairs of a part gave way.
  """
  dealt = {part: np.flatnonzero(key != BLANK) for part, key in keys.items()}
  gone = {}
  for part, others in (("val", ("test",)), ("train", ("val", "test"))):
    if part in keys:
      taken = np.concatenate([keys[other] for other in others if other in keys] or [keys["train"][:0]])
      stays = ~np.isin(keys[part][dealt[part]], taken)
      dealt[part], gone[part] = dealt[part][stays], int((~stays).sum())
  for number, part in enumerate(("test", "val")):
    if part not in keys:
      dealt["train"], dealt[part] = carve(keys["train"], dealt["train"], fractions[part], (seed, number))
  return dealt, gone


def carve(keys: UInt64[np.ndarray, "E"], positions: Int[np.ndarray, "K"], fraction: float,
          seed: base.Seed) -> tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]:
  """Cuts positions in two at random; those with equal keys stay together.

  Args:
    keys: of all pairs.
    positions: those that are cut in two.
    fraction: share of the second group, which is exceeded by less than the repetitions of one key.
    seed: the same keys, fraction and seed give the same groups, everywhere.
  """
  _, group, counts = np.unique(keys[positions], return_inverse=True, return_counts=True)
  order = base.shuffled(len(counts), seed)
  before = np.cumsum(counts[order]) - counts[order]
  held = np.zeros(len(counts), bool)
  held[order] = before < round(len(positions) * fraction)
  return positions[~held[group]], positions[held[group]]


def _key(source: str, target: str) -> int:
  source = source.strip()
  if not source or not target.strip():
    return BLANK
  return int.from_bytes(hashlib.blake2b(source.encode(), digest_size=8).digest(), "little")


def _misaligned(pairs: Lines) -> str:
  for i, (source, target) in enumerate(zip(pairs.sources, pairs.targets), 1):
    one, other = len(source.split()), len(target.split())
    if max(one, other) > 3 * min(one, other) + 5:
      return f"line {i} is the first that looks misaligned, with {one} words against {other}"
  return f"line {min(len(pairs.sources), len(pairs.targets)) + 1} is the first without a counterpart"
