"""Subword vocabularies: text to token numbers and back, without loss, by sentencepiece.

Text is taken as it is (no Unicode normalisation, spaces kept) and what the training text lacks is spelled in bytes, so
any text comes back as it was but for the character U+2581, which stands for a space. Source: Kudo and Richardson 2018,
SentencePiece, arXiv 1808.06226; the two models are those of Kudo 2018, arXiv 1804.10959 (unigram) and of Sennrich,
Haddow and Birch 2016, arXiv 1508.07909 (bpe).
"""

import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import re
import uuid
from typing import Iterable, Sequence

import numpy as np
import sentencepiece

from nasformer.types import UserError

PAD, BOS, EOS, UNK = range(4)
MODELS = ("unigram", "bpe")
MAX_CHARS = 1000  # a longer sentence is trained on up to here; sentencepiece would leave it out above 4192 bytes
_QUIET = 3  # errors are raised anyway


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
  """Turns sentences into token numbers and back. Numbers 0 to 3 are PAD, BOS, EOS and UNK.

  Attributes:
    content: the sentencepiece model, as in its file.
  """

  content: bytes

  @classmethod
  def train(cls, sentences: Iterable[str], size: int, model: str = "unigram", coverage: float = 1.0) -> "Vocabulary":
    """Learns a vocabulary; the same sentences in the same order give the same one.

    Args:
      sentences: the text; no end of line in it.
      size: number of tokens, exactly.
      model: "unigram" or "bpe".
      coverage: share of the characters of the text that become tokens; the others are spelled in bytes.

    Raises:
      UserError: the text does not allow this size.
    """
    written = io.BytesIO()
    try:
      sentencepiece.SentencePieceTrainer.train(
          sentence_iterator=(sentence[:MAX_CHARS] for sentence in sentences), model_writer=written, vocab_size=size,
          model_type=model, character_coverage=coverage, byte_fallback=True, normalization_rule_name="identity",
          remove_extra_whitespaces=False, pad_id=PAD, bos_id=BOS, eos_id=EOS, unk_id=UNK, num_threads=1,
          minloglevel=_QUIET)
    except RuntimeError as error:
      raise UserError(_refusal(size, str(error))) from error
    return cls(written.getvalue())

  @classmethod
  def read(cls, path: pathlib.Path, size: int) -> "Vocabulary":
    """Reads a sentencepiece model that must have this size.

    Raises:
      UserError: it is damaged, of another size, or lacks what all vocabularies here have.
    """
    try:
      vocabulary = cls(path.read_bytes())
      vocabulary.encode(["a"])
    except (OSError, RuntimeError) as error:
      raise UserError(f"{path} cannot be read as a vocabulary ({type(error).__name__}): it is damaged, delete it to "
                      "have it made again") from error
    if vocabulary.size != size:
      raise UserError(f"{path} has {vocabulary.size} tokens and vocab_size={size}: set vocab_size={vocabulary.size}, "
                      "or delete it to have it made again")
    if not vocabulary.complete:
      raise UserError(f"{path} is a vocabulary without byte fallback or whose first tokens are not PAD, BOS, EOS and "
                      "UNK: delete it to have it made again")
    return vocabulary

  def write(self, path: pathlib.Path) -> None:
    """Writes the model; there is either the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    unfinished.write_bytes(self.content)
    os.replace(unfinished, path)

  @functools.cached_property
  def size(self) -> int:
    """Number of tokens."""
    return self._processor.get_piece_size()

  @property
  def complete(self) -> bool:
    """Whether PAD, BOS, EOS and UNK are where they belong, and all bytes are tokens."""
    model = self._processor
    special = (model.pad_id(), model.bos_id(), model.eos_id(), model.unk_id())
    return special == (PAD, BOS, EOS, UNK) and sum(map(model.is_byte, range(self.size))) == 256

  @property
  def fingerprint(self) -> str:
    """Hexadecimal digest of the file."""
    return hashlib.sha256(self.content).hexdigest()

  def encode(self, sentences: Sequence[str]) -> list[list[int]]:
    """Tokens of each sentence, without BOS and EOS."""
    return self._processor.encode(list(sentences))

  def decode(self, rows: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
    """Text of each row of tokens, up to its first EOS; PAD and BOS say nothing."""
    said = [_said(row) for row in rows]
    return self._processor.decode(said) if said else []  # of no rows, sentencepiece makes an empty text

  @functools.cached_property
  def _processor(self) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=self.content)


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabularies:
  """Those of both sides; one and the same where they share it.

  Attributes:
    source: of the language that is translated.
    target: of the language that is translated into.
  """

  source: Vocabulary
  target: Vocabulary

  @classmethod
  def train(cls, sources: Iterable[str], targets: Iterable[str], size: int, joint: bool, model: str,
            coverage: float) -> "Vocabularies":
    """Learns both, or one from all text; see `Vocabulary.train`."""
    if joint:
      both = Vocabulary.train((side for pair in (sources, targets) for side in pair), size, model, coverage)
      return cls(both, both)
    return cls(Vocabulary.train(sources, size, model, coverage), Vocabulary.train(targets, size, model, coverage))

  @classmethod
  def read(cls, folder: pathlib.Path, size: int, joint: bool) -> "Vocabularies | None":
    """Reads what `write` wrote; None where nothing is, or not all.

    Raises:
      UserError: what is there is damaged or something else than asked for.
    """
    for name in _NAMES[not joint]:
      if (folder / name).exists():
        raise UserError(f"{folder / name} was made with joint={not joint}: set joint={not joint}, or delete it")
    paths = [folder / name for name in _NAMES[joint]]
    if not all(path.exists() for path in paths):
      return None
    found = [Vocabulary.read(path, size) for path in paths]
    return cls(found[0], found[-1])

  def write(self, folder: pathlib.Path, origin: str = "") -> None:
    """Writes joint.model, or source.model and target.model, and beside them what they were learned from.

    Args:
      folder: where.
      origin: tells text and rule from others; see `check_origin`.
    """
    if origin:
      folder.mkdir(parents=True, exist_ok=True)
      (folder / _ORIGIN).write_text(origin)
    for name, vocabulary in zip(_NAMES[self.joint], (self.source, self.target)):
      vocabulary.write(folder / name)

  def check_origin(self, folder: pathlib.Path, origin: str) -> None:
    """Refuses vocabularies that were learned from other text, or by another rule, than they would be now.

    Args:
      folder: where they were read.
      origin: what was given to `write`; one that was written without it is taken as it is.

    Raises:
      UserError: it is another one.
    """
    path = folder / _ORIGIN
    if path.exists() and path.read_text() != origin:
      raise UserError(f"{folder} was learned from other sentences, or by other fields of data, than there are now: bring those"
                      " back, choose another directory, or delete it to have it made again")

  @property
  def joint(self) -> bool:
    return self.source is self.target

  @property
  def fingerprint(self) -> str:
    """Hexadecimal digest of the files."""
    digests = [vocabulary.fingerprint for vocabulary in (self.source, self.target)]
    return digests[0] if self.joint else hashlib.sha256("".join(digests).encode()).hexdigest()


_ORIGIN = "origin"
_NAMES = {True: ("joint.model",), False: ("source.model", "target.model")}


def _said(row: Sequence[int] | np.ndarray) -> list[int]:
  tokens = np.asarray(row, int).tolist()
  end = tokens.index(EOS) if EOS in tokens else len(tokens)
  return [token for token in tokens[:end] if token not in (PAD, BOS)]


def _refusal(size: int, reason: str) -> str:
  largest, smallest = re.search(r"value <= (\d+)", reason), re.search(r"\d+ vs (\d+)", reason)
  if largest:
    return f"vocab_size={size} is more than the training text allows: set it to at most {largest[1]}"
  if smallest:
    return f"vocab_size={size} is too small for the characters of the training text: set it to at least {smallest[1]}"
  return f"vocab_size={size}: no vocabulary can be learned from the training text ({reason})"
