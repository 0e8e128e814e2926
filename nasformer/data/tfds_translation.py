"""Translation data sets of tensorflow-datasets, such as WMT'14, read without TensorFlow.

They are prepared once, also without TensorFlow, if the format is ArrayRecord:

    import tensorflow_datasets as tfds
    import tensorflow_datasets.translate  # its builders are not found without this
    tfds.builder("wmt14_translate/de-en", data_dir=DATA, file_format="array_record").download_and_prepare()

Sets of millions of pairs are not held in memory as text: they are encoded chunk by chunk into arrays, which the next
start maps from disk, and sentences are read from their file when they are asked for.
"""

import collections.abc
import dataclasses
import functools
import hashlib
import pathlib
from typing import Any, Iterator, SupportsIndex

import numpy as np
from jaxtyping import Int

from nasformer.data import base, files, pairs
from nasformer.data.parallel import Parallel, check_pair
from nasformer.types import UserError

NAMES = {"train": ("train",), "val": ("validation", "val", "dev"), "test": ("test",)}
NOTE = "{} of tensorflow-datasets (see its catalogue for origin and licence)"


@dataclasses.dataclass(frozen=True)
class TfdsTranslation(Parallel):
  """Translation data of tensorflow-datasets prepared as ArrayRecord, such as wmt14_translate, ted_hrlr_translate.

  Where there is no test part, as in wmt19_translate, the official validation part is tested on.

  Attributes:
    builder: name and, after a slash, configuration.
  """

  builder: str = "wmt14_translate/de-en"
  coverage: float = 0.9998

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Reads the newest version in data_dir/tfds_translation/BUILDER or in data_dir/BUILDER."""
    for folder in files.folders(data_dir, "tfds_translation"):
      versions = [info.parent for info in (folder / self.builder).glob("*/dataset_info.json")]
      if versions:
        return self._loaded(max(versions, key=_order), cache_dir)
    raise UserError(f"builder={self.builder!r} is not in {data_dir / 'tfds_translation'} or {data_dir}: prepare it "
                    "there by tensorflow-datasets with file_format='array_record'")

  def _loaded(self, path: pathlib.Path, cache_dir: pathlib.Path | None) -> base.Splits:
    if not any(path.glob("*-train.array_record*")):
      raise UserError(f"{path} is no ArrayRecord copy: prepare it with file_format='array_record', which is read "
                      "without TensorFlow")
    builder = _builder(path)
    languages = tuple(builder.info.features)
    check_pair(self.builder, self.source_language, self.target_language, [languages[:2], languages[1::-1]])
    raw = {part: self._records(builder, path, name) for part, names in NAMES.items()
           for name in names if name in builder.info.splits}
    note = NOTE.format(builder.info.full_name)
    if "test" not in raw and "val" in raw:
      raw["test"] = raw.pop("val")
      note += "; it has no test part, so its validation part is tested on"
    return self.assemble("tfds_translation", note, raw, cache_dir, self.val_fraction)

  def _records(self, builder: Any, path: pathlib.Path, name: str) -> "Records":
    with files.reading(path):
      source = builder.as_data_source(name)
      identity = f"{builder.info.full_name} {name} {len(source)} {self.source_language}-{self.target_language}"
      return Records(path, source, (self.source_language, self.target_language), np.arange(len(source)), identity)


@dataclasses.dataclass(frozen=True, eq=False)
class Records(pairs.Pairs):
  """Sentence pairs that are read from their file when they are asked for.

  Attributes:
    path: of the files, for messages.
    records: a data source of tensorflow-datasets, whose elements hold a text for each language.
    languages: that of the sources, and that of the targets.
    positions: of the pairs, among the records.
    identity: tells these pairs from others.
  """

  path: pathlib.Path
  records: Any
  languages: tuple[str, str]
  positions: Int[np.ndarray, "E"]
  identity: str

  def __len__(self) -> int:
    return len(self.positions)

  def take(self, positions: Int[np.ndarray, "K"]) -> "Records":
    taken = self.positions[positions]
    identity = f"{self.identity} {hashlib.sha256(taken.astype('<i8').tobytes()).hexdigest()}"
    return dataclasses.replace(self, positions=taken, identity=identity)

  def chunks(self) -> Iterator[pairs.Chunk]:
    for start in range(0, len(self), pairs.CHUNK):
      yield self.read(self.positions[start : start + pairs.CHUNK])

  @functools.cached_property
  def sources(self) -> "Column":
    return Column(self, 0)

  @functools.cached_property
  def targets(self) -> "Column":
    return Column(self, 1)

  def read(self, positions: Int[np.ndarray, "K"]) -> pairs.Chunk:
    """Sources and targets of these records."""
    with files.reading(self.path):
      records = self.records.__getitems__(positions.tolist())
      one, other = ([record[language].decode() for record in records] for language in self.languages)
    return one, other


@dataclasses.dataclass(frozen=True, eq=False)
class Column(collections.abc.Sequence):
  """One side of pairs, as a sequence that is read when it is indexed.

  Attributes:
    pairs: of both sides.
    side: 0 for sources, 1 for targets.
  """

  pairs: Records
  side: int

  def __len__(self) -> int:
    return len(self.pairs)

  def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
    chosen = self.pairs.positions[index]
    return self.pairs.read(np.atleast_1d(chosen))[self.side][0 if np.ndim(chosen) == 0 else slice(None)]

  def __iter__(self) -> Iterator[str]:
    for chunk in self.pairs.chunks():
      yield from chunk[self.side]


def _builder(path: pathlib.Path) -> Any:
  try:
    import tensorflow_datasets as tfds  # imported on use: only this data set needs it

    with files.reading(path):
      builder = tfds.builder_from_directory(path)
      if not isinstance(builder.info.features, tfds.features.Translation) or len(builder.info.features) != 2:
        raise UserError(f"{path} is no data set of sentence pairs in two languages: choose another `builder`")
      return builder
  except ImportError as error:
    raise UserError(f"{path} is an ArrayRecord copy, which needs the packages tensorflow-datasets and array_record "
                    f"({error}): install them") from error


def _order(version: pathlib.Path) -> tuple[tuple[int, str], ...]:
  """Sorts 1.10.0 behind 1.9.0."""
  return tuple((int(number) if number.isdigit() else -1, number) for number in version.name.split("."))
