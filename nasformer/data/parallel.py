"""Parallel text: what all data sets of sentence pairs share, from raw pairs to encoded parts."""

import dataclasses
import pathlib
from typing import Mapping, Sequence

import numpy as np

from nasformer.data import base, cache, pairs as pairs_lib, tokens as tokens_lib
from nasformer.data.buckets import Split, check_lengths
from nasformer.data.vocabulary import MODELS, Vocabularies
from nasformer.types import UserError

PARTS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class TextInfo:
  """What is known of a data set of sentence pairs.

  Attributes:
    name: its row in the table.
    source_language: code of the language that is translated.
    target_language: code of the language that is translated into.
    source_vocab: number of tokens of the source side.
    target_vocab: likewise of the target side.
    joint: whether both sides share one vocabulary.
    max_length: tokens of the longest sentence that is read, its EOS included.
    lengths: to which batches are padded.
    note: one sentence on origin, licence and what was left out, for reports.
    fingerprint: hexadecimal digest of the vocabulary.
  """

  name: str
  source_language: str
  target_language: str
  source_vocab: int
  target_vocab: int
  joint: bool
  max_length: int
  lengths: tuple[int, ...]
  note: str
  fingerprint: str


@dataclasses.dataclass(frozen=True)
class Parallel(base.Dataset):
  """Base of the data sets of sentence pairs. A subclass reads raw pairs and leaves the rest to `assemble`.

  A pair without text on one side is left out of training. A source sentence is in one part only: training pairs give
  way to those of "val" and "test", and "val" to "test". Pairs of more than `max_length` tokens on one side are left out
  of "train" and "val"; of "test" nothing is left out, tokens are cut, and the text that scores compare with is not.

  Attributes:
    val_fraction: share of the training pairs that becomes the validation part where there is none.
    source_language: code of the language that is translated.
    target_language: code of the language that is translated into.
    vocab_size: number of subword tokens, of each side unless it is joint.
    joint: share one vocabulary between both sides.
    model: how subwords are found: "unigram" or "bpe".
    coverage: share of the characters of the training text that are tokens; others are spelled in bytes.
    vocab_pairs: number of training pairs, at most, that the vocabulary is learned from; if there are more, they are
      drawn by `split_seed`.
    max_length: tokens of the longest sentence, its EOS included.
    lengths: to which batches are padded, ascending; the last must be at least `max_length`.
  """

  val_fraction: float = 0.05
  source_language: str = "en"
  target_language: str = "de"
  vocab_size: int = 8000
  joint: bool = True
  model: str = "unigram"
  coverage: float = 1.0
  vocab_pairs: int = 1_000_000
  max_length: int = 128
  lengths: tuple[int, ...] = (16, 32, 64, 128)

  def __post_init__(self):
    super().__post_init__()
    if self.model not in MODELS:
      raise UserError(f"model={self.model!r} must be one of {', '.join(MODELS)}")
    if not 0.9 <= self.coverage <= 1:
      raise UserError(f"coverage={self.coverage} must lie between 0.9 and 1, such as 0.9995 where many signs are rare")
    if self.vocab_pairs < 1 or self.max_length < 2:
      raise UserError(f"vocab_pairs={self.vocab_pairs}, max_length={self.max_length}: use at least 1 and at least 2")
    check_lengths(self.lengths, self.max_length)

  def assemble(self, name: str, note: str, raw: Mapping[str, pairs_lib.Pairs], cache_dir: pathlib.Path | None,
               test_fraction: float = 0.0) -> base.Splits:
    """Makes the three parts from raw pairs.

    Args:
      name: row in the table.
      note: begin of the note in `TextInfo`, without its last full stop.
      raw: pairs of "train", and of "val" and "test" where they are given; they are carved out of "train" otherwise.
      cache_dir: see `load`.
      test_fraction: share of the training pairs that becomes the test part where there is none.

    Raises:
      UserError: a part would be empty, or the vocabulary cannot be as asked for.
    """
    remarks, chosen = self._chosen(name, raw, cache_dir, test_fraction)
    vocabularies = self._vocabularies(chosen["train"], cache_dir)
    parts = {part: self._split(part, chosen[part], vocabularies, cache_dir, remarks) for part in PARTS}
    info = TextInfo(name, self.source_language, self.target_language, vocabularies.source.size,
                    vocabularies.target.size, self.joint, self.max_length, self.lengths,
                    "; ".join([note, *remarks]) + ".", vocabularies.fingerprint)
    return base.Splits(info, parts)

  def _chosen(self, name: str, raw: Mapping[str, pairs_lib.Pairs], cache_dir: pathlib.Path | None,
              test_fraction: float) -> tuple[list[str], dict[str, pairs_lib.Pairs]]:
    """What is to be said of what was left out, and the pairs of each part."""
    keys = {part: self._keys(pairs, cache_dir) for part, pairs in raw.items()}
    for part in keys.keys() - {"train"}:
      if not keys[part].all():
        raise UserError(f"{name}: pair {int(np.argmin(keys[part])) + 1} of the part {part!r} has an empty side")
    blank = int((keys["train"] == pairs_lib.BLANK).sum())
    carved = " and ".join(part for part in PARTS if part not in raw)
    remarks = [f"{carved} carved out of train by source sentence"] if carved else []
    remarks += [f"left out of train: {blank:,} with an empty side"] if blank else []
    dealt, gone = pairs_lib.deal(keys, {"test": test_fraction, "val": self.val_fraction}, self.split_seed)
    remarks += [f"left out of {part}: {count:,} with a source sentence of another part"
                for part, count in gone.items() if count]
    for number, (part, limit) in enumerate((("train", self.max_train), ("val", self.max_val)), 2):
      base.check_limit(f"max_{part}", limit, len(dealt[part]), f"sentence pairs there are in {part!r}")
      if limit:
        dealt[part] = np.sort(dealt[part][base.shuffled(len(dealt[part]), (self.split_seed, number))[:limit]])
    for part in PARTS:
      if not len(dealt[part]):
        raise UserError(f"{name}: the part {part!r} would be empty; give more sentence pairs or a larger fraction")
    return remarks, {part: raw[part if part in raw else "train"].take(dealt[part]) for part in PARTS}

  def _keys(self, pairs: pairs_lib.Pairs, cache_dir: pathlib.Path | None) -> np.ndarray:
    if not (pairs.identity and cache_dir):
      return pairs_lib.keys(pairs)
    path = cache.place(cache_dir, "keys", pairs.identity).with_suffix(".npy")
    return cache.array(path, lambda: pairs_lib.keys(pairs))

  def _vocabularies(self, train: pairs_lib.Pairs, cache_dir: pathlib.Path | None) -> Vocabularies:
    folder = cache_dir / "vocabulary" if cache_dir else None
    found = Vocabularies.read(folder, self.vocab_size, self.joint) if folder else None
    if found:
      return found
    if len(train) > self.vocab_pairs:
      train = train.take(np.sort(base.shuffled(len(train), (self.split_seed, 4))[: self.vocab_pairs]))
    text = [[line for chunk in side for line in chunk] for side in zip(*train.chunks())]
    made = Vocabularies.train(*text, self.vocab_size, self.joint, self.model, self.coverage)
    if folder:
      made.write(folder)
    return made

  def _split(self, part: str, pairs: pairs_lib.Pairs, vocabularies: Vocabularies, cache_dir: pathlib.Path | None,
             remarks: list[str]) -> Split:
    """Encodes a part; adds to the remarks what was too long in it."""
    if pairs.identity and cache_dir:
      folder = cache.place(cache_dir, part, pairs.identity, vocabularies.fingerprint)
      both = tokens_lib.encode_to(folder, pairs.chunks(), vocabularies)
    else:
      both = tokens_lib.encode(pairs.chunks(), vocabularies)
    room = self.max_length - 1
    fits = np.maximum(both[0].counts, both[1].counts) <= room
    too_long = int((~fits).sum())
    if part == "test":
      both = tuple(side.cut(room) for side in both)
    elif too_long:
      pairs, both = pairs.take(np.flatnonzero(fits)), tuple(side.take(fits) for side in both)
    if too_long:
      remarks.append(f"cut in test: {too_long:,} of more than {room} tokens, references in the loss only"
                     if part == "test" else f"left out of {part}: {too_long:,} of more than {room} tokens")
    if not len(pairs):
      raise UserError(f"max_length={self.max_length} leaves no sentence pair in {part!r}: make it larger")
    return Split(part, pairs.sources, pairs.targets, *both, self.lengths, vocabularies)


def check_pair(name: str, source: str, target: str, pairs: Sequence[tuple[str, str]]) -> None:
  """Refuses languages that a data set lacks.

  Args:
    name: of the data set.
    source: code of the language that is translated.
    target: code of the other one.
    pairs: those that it has.

  Raises:
    UserError: the pair is none of these.
  """
  if (source, target) not in pairs:
    raise UserError(f"source_language={source!r}, target_language={target!r}: {name} has no pair {source}-{target}, it "
                    f"has {', '.join('-'.join(pair) for pair in pairs)}")
