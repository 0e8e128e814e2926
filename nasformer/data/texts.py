"""Texts with one label each: what all data sets of them share, from raw texts to encoded parts."""

import dataclasses
import pathlib
from typing import Callable, Literal, Mapping, Sequence

import numpy as np

from nasformer.data import base, files, sequences
from nasformer.data.buckets import check_lengths
from nasformer.data.vocabulary import MODELS, Vocabulary
from nasformer.types import UserError

BYTES = "bytes"


@dataclasses.dataclass(frozen=True)
class TextsInfo:
  """What is known of a data set of texts.

  Attributes:
    name: its row in the table.
    num_classes: number of labels, which run from 0.
    class_names: a name for each.
    vocabulary: "bytes", or how subwords were found.
    vocab_size: number of tokens.
    max_length: tokens of the longest text that is read.
    lengths: to which batches are padded.
    note: one sentence on origin, licence and what was cut or left out, for reports.
    fingerprint: hexadecimal digest of the vocabulary; "bytes" where there is none.
  """

  name: str
  num_classes: int
  class_names: tuple[str, ...]
  vocabulary: str
  vocab_size: int
  max_length: int
  lengths: tuple[int, ...]
  note: str
  fingerprint: str


@dataclasses.dataclass(frozen=True)
class Labelled:
  """Raw texts and the class of each."""

  texts: list[str]
  labels: np.ndarray

  def take(self, chosen: np.ndarray) -> "Labelled":
    """Those at these positions."""
    return Labelled([self.texts[i] for i in chosen.tolist()], self.labels[chosen])


@dataclasses.dataclass(frozen=True)
class Texts(base.Dataset):
  """Base of the data sets of texts. A subclass reads raw texts and leaves the rest to `assemble`.

  A text is in one part only: training texts give way to those of "val" and "test". Of a text that is too long the head is
  kept.

  Attributes:
    vocabulary: "bytes" takes every byte of UTF-8 as a token; "unigram" and "bpe" learn subwords of the training texts.
    vocab_size: number of subwords.
    max_length: tokens of the longest text.
    lengths: to which batches are padded, ascending; the last must be `max_length` or more.
  """

  vocabulary: Literal["bytes", "unigram", "bpe"] = BYTES
  vocab_size: int = 8000
  max_length: int = 256
  lengths: tuple[int, ...] = (64, 128, 256)

  def __post_init__(self):
    super().__post_init__()
    if self.vocabulary not in (BYTES, *MODELS):
      raise UserError(f"vocabulary={self.vocabulary!r} must be one of {', '.join((BYTES, *MODELS))}")
    if self.max_length < 1:
      raise UserError(f"max_length={self.max_length}: it must be at least 1")
    check_lengths(self.lengths, self.max_length)

  def assemble(self, name: str, note: str, class_names: tuple[str, ...], raw: Mapping[str, Labelled],
               cache_dir: pathlib.Path | None, test_fraction: float = 0.0) -> base.Splits:
    """Makes the three parts from raw texts.

    Args:
      name: row in the table.
      note: begin of the note, without its last full stop.
      class_names: a name for each label.
      raw: texts of "train", and of "val" and "test" where they are given; they are carved out of "train" otherwise.
      cache_dir: see `load`.
      test_fraction: share of the training texts that becomes the test part where there is none.

    Raises:
      UserError: a part would be empty or lack a class, or the vocabulary cannot be as asked for.
    """
    raw, said = dict(raw), [note]
    for part, fraction, number in (("test", test_fraction, 0), ("val", self.val_fraction, 1)):
      if part not in raw:
        kept, held = base.carve(raw["train"].labels, fraction, (self.split_seed, number))
        raw["train"], raw[part] = raw["train"].take(kept), raw["train"].take(held)
        said.append(f"{part} carved out of train in proportion of the classes")
      known = set(raw[part].texts)
      stays = np.array([text not in known for text in raw["train"].texts], bool)
      if not stays.all():
        said.append(f"left out of train: {int((~stays).sum()):,} with a text of {part}")
        raw["train"] = raw["train"].take(np.flatnonzero(stays))
    encode, fingerprint, size = self._encoder(raw["train"].texts, cache_dir)
    parts = []
    for part in ("train", "val", "test"):
      if not raw[part].texts:
        raise UserError(f"{name}: the part {part!r} would be empty; give more texts or a larger fraction")
      values = sequences.Ragged.joined(encode(raw[part].texts))
      split, cut = sequences.shortened(
          sequences.Split(part, "texts", values, raw[part].labels, self.lengths), self.max_length)
      parts.append(split)
      said += cut
    train, val, test = self.dealt(name, class_names, parts[0], parts[2], parts[1])
    info = TextsInfo(name, len(class_names), class_names, self.vocabulary, size, self.max_length, self.lengths,
                     "; ".join(said) + ".", fingerprint)
    return base.Splits(info, {part.name: part for part in (train, val, test)})

  def _encoder(self, train: Sequence[str], cache_dir: pathlib.Path | None) -> tuple[Callable, str, int]:
    if self.vocabulary == BYTES:
      return spelled, BYTES, 256
    path = vocabulary_path(cache_dir) if cache_dir else None
    if path and path.exists():
      found = Vocabulary.read(path, self.vocab_size)
    else:
      found = Vocabulary.train((line for text in train for line in text.splitlines()), self.vocab_size, self.vocabulary)
      if path:
        found.write(path)
    return subwords(found), found.fingerprint, found.size


def spelled(texts: Sequence[str]) -> list[np.ndarray]:
  """The bytes of each text in UTF-8."""
  return [np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int32) for text in texts]


def subwords(vocabulary: Vocabulary) -> Callable[[Sequence[str]], list[np.ndarray]]:
  """A function texts -> tokens of each."""
  return lambda texts: [np.array(row, np.int32) for row in vocabulary.encode(texts)]


def vocabulary_path(folder: pathlib.Path) -> pathlib.Path:
  """Where the vocabulary lies below the folder that a data set may keep things in."""
  return folder / "vocabulary" / "text.model"


def encoder(info: TextsInfo, folder: pathlib.Path) -> Callable[[Sequence[str]], list[np.ndarray]]:
  """A function texts -> tokens of each, as the data set made them.

  Raises:
    UserError: the vocabulary is not there any more, or is another one.
  """
  if info.vocabulary == BYTES:
    return spelled
  path = vocabulary_path(folder)
  found = Vocabulary.read(path, info.vocab_size) if path.exists() else None
  if found is None or found.fingerprint != info.fingerprint:
    raise UserError(f"{path} is not the vocabulary that this network was trained with: bring it back, its fingerprint is"
                    f" {info.fingerprint}")
  return subwords(found)


def find(data_dir: pathlib.Path | None, name: str, file: str) -> pathlib.Path:
  """A file of a data set, plain or packed.

  Raises:
    UserError: it is not there.
  """
  for folder in files.folders(data_dir, name):
    path = files.packed(folder / file)
    if path.exists():
      return path
  raise UserError(f"{name}: there is no {file} (or {file}.gz) in {data_dir / name} nor in {data_dir}: see where"
                  " nasformer/data says it comes from")


def labelled(where: str, rows: Sequence[tuple[int, str, str]], class_names: Sequence[str]) -> Labelled:
  """Texts and labels from (line, label, text) rows.

  Args:
    where: the file, for messages.
    rows: what was read.
    class_names: labels that there may be, in order.

  Raises:
    UserError: a text is empty, or a label is missing or none of these.
  """
  place = {name: i for i, name in enumerate(class_names)}
  for line, label, text in rows:
    if not label.strip():
      raise UserError(f"{where}, line {line}: the label is missing")
    if label not in place:
      raise UserError(f"{where}, line {line}: the label {label!r} is none of {', '.join(class_names)}")
    if not text.strip():
      raise UserError(f"{where}, line {line}: the text is empty: write one or remove the line")
  return Labelled([text for _, _, text in rows], np.array([place[label] for _, label, _ in rows], np.int32))
