"""Sentences as token numbers, all in one flat array: quick to cut batches from, and mapped from disk where it is large.

Tokens are kept without EOS, which `Tokens.rows` adds. A folder of encoded pairs holds source.npy and target.npy, the
flat arrays, and counts.npy, the number of tokens of each sentence on both sides.
"""

import contextlib
import dataclasses
import itertools
import pathlib
from typing import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32

from nasformer.data import cache
from nasformer.data.vocabulary import EOS, PAD, Vocabularies
from nasformer.types import UserError

SIDES = ("source", "target")


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
  """The tokens of sentences.

  Attributes:
    flat: of all sentences, one after the other; may be longer than what is used of it.
    starts: where each sentence begins.
    counts: number of tokens of each.
  """

  flat: Int32[np.ndarray, "N"]
  starts: Int[np.ndarray, "E"]
  counts: Int[np.ndarray, "E"]

  @classmethod
  def joined(cls, flat: Int32[np.ndarray, "N"], counts: Int[np.ndarray, "E"]) -> "Tokens":
    """Sentences that follow each other without gaps."""
    return cls(flat, np.cumsum(counts, dtype=np.int64) - counts, counts)

  def __len__(self) -> int:
    return len(self.counts)

  def take(self, chosen: Int[np.ndarray, "K"] | Bool[np.ndarray, "E"]) -> "Tokens":
    """The sentences at these positions, or where this is True."""
    return Tokens(self.flat, self.starts[chosen], self.counts[chosen])

  def cut(self, limit: int) -> "Tokens":
    """Sentences of at most so many tokens, the others cut."""
    return Tokens(self.flat, self.starts, np.minimum(self.counts, limit))

  def rows(self, indices: Int[np.ndarray, "B"], length: int) -> Int32[np.ndarray, "B length"]:
    """These sentences, each followed by EOS and then PAD up to `length`; a row of PAD for every negative index."""
    made = np.full((len(indices), length), PAD, np.int32)
    there = np.flatnonzero(indices >= 0)
    starts, counts = self.starts[indices[there]], self.counts[indices[there]]
    row = np.repeat(np.arange(len(there)), counts)
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    made[there[row], column] = self.flat[starts[row] + column]
    made[there, counts] = EOS
    return made


def encode(chunks: Iterable[tuple[Sequence[str], Sequence[str]]],
           vocabularies: Vocabularies) -> tuple[Tokens, Tokens]:
  """Both sides of sentence pairs, in memory.

  Args:
    chunks: sources and targets, some at a time.
    vocabularies: of both sides.
  """
  flat, counts = ([], []), ([], [])
  for encoded in _encoded(chunks, vocabularies):
    for side, (tokens, lengths) in enumerate(encoded):
      flat[side].append(tokens)
      counts[side].append(lengths)
  joined = (Tokens.joined(_concatenated(flat[side]), _concatenated(counts[side])) for side in range(2))
  return next(joined), next(joined)


def encode_to(folder: pathlib.Path, chunks: Iterable[tuple[Sequence[str], Sequence[str]]],
              vocabularies: Vocabularies) -> tuple[Tokens, Tokens]:
  """As `encode`, by way of a folder that is filled if it is not there, and mapped into memory.

  Args:
    folder: where the arrays are kept.
    chunks: read only if the folder is not there.
    vocabularies: of both sides.

  Raises:
    UserError: what is there is damaged.
  """
  return _mapped(cache.made(folder, lambda unfinished: _fill(unfinished, _encoded(chunks, vocabularies))))


def _encoded(chunks, vocabularies: Vocabularies) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
  """Tokens and number of tokens of each sentence, of both sides, chunk by chunk."""
  for texts in chunks:
    rows = [getattr(vocabularies, side).encode(lines) for side, lines in zip(SIDES, texts)]
    counts = [np.fromiter(map(len, side), np.int32, len(side)) for side in rows]
    yield [(np.fromiter(itertools.chain.from_iterable(side), np.int32, int(count.sum())), count)
           for side, count in zip(rows, counts)]


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
  return np.concatenate([np.zeros(0, np.int32), *parts])


def _fill(folder: pathlib.Path, encoded: Iterable[list[tuple[np.ndarray, np.ndarray]]]) -> None:
  counts = ([], [])
  folder.mkdir()
  with contextlib.ExitStack() as stack:
    files = [stack.enter_context(open(folder / f"{side}.npy", "wb")) for side in SIDES]
    headers = [_write_header(file, 0) for file in files]
    for chunk in encoded:
      for file, kept, (tokens, lengths) in zip(files, counts, chunk):
        tokens.tofile(file)
        kept.append(lengths)
    totals = [_concatenated(kept) for kept in counts]
    for file, header, total in zip(files, headers, totals):
      file.seek(0)
      assert _write_header(file, int(total.sum(dtype=np.int64))) == header
  np.save(folder / "counts.npy", np.stack(totals))


def _write_header(file, num: int) -> int:
  """Writes the header of an array of so many numbers; NumPy leaves room in it for the number to grow."""
  np.lib.format.write_array_header_2_0(file, {"descr": "<i4", "fortran_order": False, "shape": (num,)})
  return file.tell()


def _mapped(folder: pathlib.Path) -> tuple[Tokens, Tokens]:
  try:
    counts = np.load(folder / "counts.npy")
    totals = counts.sum(1, dtype=np.int64)
    flat = [np.load(folder / f"{side}.npy", mmap_mode="r" if total else None)  # nothing cannot be mapped
            for side, total in zip(SIDES, totals)]
    if counts.shape[0] != len(SIDES) or [side.shape for side in flat] != [(total,) for total in totals]:
      raise ValueError("its arrays do not fit each other")
    return Tokens.joined(flat[0], counts[0]), Tokens.joined(flat[1], counts[1])
  except (OSError, ValueError, EOFError, IndexError) as error:
    raise UserError(f"{folder} holds encoded sentences that cannot be read ({error}): delete it, and they are made "
                    "again") from error
