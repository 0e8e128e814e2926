"""Tiny copies of every data set, written in the form of the real ones: the contract tests need no data.

Every image is one flat colour that no other image has, so that a test can tell images apart. Its red (or grey) level,
20 x label + a number below 12, says its class, even after JPEG compression. Every sentence begins with four words that
tell its number, in each language.
"""

import dataclasses
import gzip
import io
import json
import os
import pathlib
import tarfile
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

from nasformer.data import TABLE, base
from nasformer.data.parallel import Parallel
from nasformer.data.vocabulary import Vocabularies
from nasformer.registry import lookup

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def flat(num: int, side: int, channels: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels, labels 0..9 in turn; `first` keeps the colours of test images apart from training images."""
  labels = np.arange(num) % 10
  number = first + np.arange(num) // 10
  levels = np.stack([labels * 20 + number, number * 20, labels * 9], 1).astype(np.uint8)
  return np.broadcast_to(levels[:, None, None, :channels], (num, side, side, channels)).copy(), labels


def encode(pixels: np.ndarray, form: str) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(buffer, form)
  return buffer.getvalue()


def write_tar(path: pathlib.Path, members: dict[str, bytes]) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w:gz") as archive:
    for name, content in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  return path


def jpeg_members(part: str, pixels: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
  return {f"{part}/{CIFAR_CLASSES[label]}/{i:04d}.jpg": encode(image, "JPEG")
          for i, (image, label) in enumerate(zip(pixels, labels))}


def write_classes(root: pathlib.Path, pixels: np.ndarray, labels: np.ndarray) -> None:
  for i, (image, label) in enumerate(zip(pixels, labels)):
    file = root / f"class{label}" / f"{i}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode(image, "PNG"))


def write_cifar10(root: pathlib.Path) -> None:
  for part, num, first in (("train", 90, 0), ("test", 20, 9)):
    write_tar(root / "cifar10" / f"cifar10_jpeg_{part}.tar.gz", jpeg_members(part, *flat(num, 32, 3, first)))


def write_npz(root: pathlib.Path, name: str, parts=(("train", 90, 0), ("test", 20, 9))) -> None:
  (root / name).mkdir(parents=True)
  for part, num, first in parts:
    pixels, labels = flat(num, 28, 1, first)
    np.savez_compressed(root / name / f"{name}_{part}.npz", images=pixels[..., 0], labels=labels.astype(np.uint8))


WORDS = {
    "en": "house garden runs sings bright morning river stone".split(),
    "de": "Haus Garten läuft singt heller Morgen Fluß Stein".split(),
    "fr": "maison jardin court chante claire matinée rivière pierre".split(),
    "cs": "dům zahrada běží zpívá jasné ráno řeka kámen".split(),
}
ENDINGS = {"en": ("", "s", "ing", "ed"), "de": ("", "en", "ung", "chen"), "fr": ("", "er", "ment", "eux"),
           "cs": ("", "ová", "ka", "ní")}
CODES = {"eng": "en", "deu": "de", "fra": "fr", "ces": "cs"}


def sentence(language: str, number: int) -> str:
  """Four words that tell the number, and up to five more."""
  words = [WORDS[language][number // 8**i % 8] + ENDINGS[language][i] for i in range(4)]
  return " ".join(words + words[:1] * (number % 6))


def write_lines(path: pathlib.Path, lines: list[str]) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  raw = "".join(f"{line}\n" for line in lines).encode()
  path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
  return path


def write_sentences(root: pathlib.Path, stem: str, endings: dict[str, str], numbers, suffix: str = ".gz") -> None:
  """One file for each ending, of the language that it stands for."""
  for ending, language in endings.items():
    write_lines(root / f"{stem}.{ending}{suffix}", [sentence(language, number) for number in numbers])


def write_multi30k(root: pathlib.Path) -> None:
  endings = {language: language for language in WORDS}
  write_sentences(root / "multi30k", "train", endings, range(120))
  write_sentences(root / "multi30k", "val", endings, range(1000, 1020))
  write_sentences(root / "multi30k", "test_2016_flickr", endings, range(2000, 2024))
  write_sentences(root / "multi30k", "test_2017_flickr", {"en": "en", "de": "de"}, range(3000, 3010))


def write_wmt_news(root: pathlib.Path) -> None:
  names = ["news-test2008", "newssyscomb2009", *(f"newstest{year}" for year in range(2009, 2019))]
  for i, name in enumerate(names):
    for code in ("deu", "fra", "ces"):
      if code != "fra" or name < "newstest2015":
        pair = {"eng": "en", code: CODES[code]}
        write_sentences(root / "wmt_news" / f"en-{CODES[code]}", name, pair, range(20 * i, 20 * i + 12))


def write_tatoeba(root: pathlib.Path) -> None:
  """Every other sentence has two translations."""
  numbers = [number for number in range(100) for _ in range(1 + number % 2)]
  for code in ("deu", "fra", "ces"):
    folder, stem = root / "tatoeba" / f"en-{CODES[code]}", "tatoeba-test-v2021-08-07"
    write_sentences(folder, stem, {"eng": "en"}, numbers)
    write_sentences(folder, stem, {code: CODES[code]}, range(len(numbers)))


def write_tfds(root: pathlib.Path, **parts) -> None:
  """Makes what tensorflow-datasets would after a download."""
  tfds = pytest.importorskip("tensorflow_datasets")
  tfds.disable_progress_bar()
  parts = parts or {"train": range(120), "validation": range(1000, 1020), "test": range(2000, 2024)}
  with tfds.core.registered.skip_registration():

    class Copy(tfds.core.GeneratorBasedBuilder):
      name = "tiny_translate"
      BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="de-en", version="1.0.0")]
      code_path = None  # nothing lies beside the code of this class

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.Translation(languages=("de", "en")))

      def _split_generators(self, dl_manager):
        return {part: self._generate_examples(numbers) for part, numbers in parts.items()}

      def _generate_examples(self, numbers):
        for number in numbers:
          yield number, {language: sentence(language, number) for language in ("de", "en")}

  root.mkdir(parents=True, exist_ok=True)
  Copy(data_dir=root, file_format="array_record").download_and_prepare()


REVIEWS = {part: [(sentence("en", first + i), i % 2) for i in range(num)]
           for part, first, num in (("train", 0, 80), ("dev", 1000, 20), ("test", 2000, 24))}  # text and label


def write_imdb(root: pathlib.Path) -> None:
  """The last training review is a test review too."""
  for name, rows in (("train", [*REVIEWS["train"], REVIEWS["test"][0]]), ("test_a", REVIEWS["test"])):
    lines = [json.dumps({"id": "x", "label": label, "rating": 3, "text": text}) for text, label in rows]
    write_lines(root / "imdb" / f"imdb_{name}.jsonl.gz", lines)


def write_sst2(root: pathlib.Path) -> None:
  for part, rows in REVIEWS.items():
    write_lines(root / "sst2" / f"{part}.tsv.gz", [f"{text}\t{label}" for text, label in rows])


def write_zip(path: pathlib.Path, members: dict[str, str | bytes]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(path, "w") as archive:
    for name, content in members.items():
      archive.writestr(name, content)


def write_cola(root: pathlib.Path) -> None:
  names = {"in_domain_train": "train", "in_domain_dev": "dev", "out_of_domain_dev": "test"}
  write_zip(root / "cola" / "cola_public.zip", {
      f"cola_public/raw/{name}.tsv": "".join(f"gj04\t{label}\t\t{text}\n" for text, label in REVIEWS[part])
      for name, part in names.items()})


def write_polarity(root: pathlib.Path) -> None:
  rows = [row for part in REVIEWS.values() for row in part]
  write_zip(root / "sentence_polarity" / "sentence_polarity.zip", {
      f"sentence_polarity/rt-polarity.{name}": "".join(f"caf\xe9 {text}\n" for text, kind in rows if kind == label).encode(
          "latin-1") for label, name in enumerate(("neg", "pos"))})


def write_labelled(root: pathlib.Path) -> None:
  write_lines(root / "reviews.tsv", ["label\ttext", *(f"{'no yes'.split()[label]}\t{text}" for text, label in
                                                     [*REVIEWS["train"], *REVIEWS["dev"]])])


def waves(num: int, first: int, channels: int = 2) -> list[str]:
  """Cases of 5 to 8 steps in the format of .ts files; two classes, and every case has other numbers."""
  rows = []
  for i in range(first, first + num):
    values = [[round((i % 2 * 2 - 1) * (step + 1) + 0.01 * i + channel, 3) for step in range(5 + i % 4)]
              for channel in range(channels)]
    rows.append(":".join([*(",".join(map(str, channel)) for channel in values), "up" if i % 2 else "down"]))
  return rows


TS_HEADER = ["# made up", "@problemName Waves", "@timeStamps false", "@classLabel true down up", "@data"]


def write_ts(root: pathlib.Path) -> None:
  for part, first in (("TRAIN", 0), ("TEST", 500)):
    write_lines(root / "ts_classification" / "Waves" / f"Waves_{part}.ts.gz", [*TS_HEADER, *waves(60, first)])


def write_series(root: pathlib.Path) -> None:
  write_lines(root / "waves.csv", [f"{row.rpartition(':')[2]},{row.partition(':')[0]}" for row in waves(100, 0, 1)])


WRITERS = {
    "imdb": write_imdb,
    "sst2": write_sst2,
    "cola": write_cola,
    "sentence_polarity": write_polarity,
    "labelled_text": write_labelled,
    "ts_classification": write_ts,
    "series_files": write_series,
    "numbers": lambda root: root.mkdir(),
    "multi30k": write_multi30k,
    "wmt_news": write_wmt_news,
    "tatoeba": write_tatoeba,
    "text_files": lambda root: write_sentences(root, "train", {"en": "en", "de": "de"}, range(150), suffix=""),
    "tfds_translation": write_tfds,
    "digits": lambda root: root.mkdir(),
    "cifar10": write_cifar10,
    "mnist": lambda root: write_npz(root, "mnist"),
    "fashion_mnist": lambda root: write_npz(root, "fashion_mnist", (("train", 120, 0),)),
    "image_folder": lambda root: write_classes(root, *flat(120, 40, 3)),
}


FIELDS = {
    "numbers": {"vocab_size": 400, "train_size": 120, "val_size": 20, "test_size": 24},
    "multi30k": {"vocab_size": 305},
    "wmt_news": {"vocab_size": 305},
    "tatoeba": {"vocab_size": 305, "val_fraction": 0.1},
    "text_files": {"vocab_size": 305, "source": "train.en", "target": "train.de"},
    "tfds_translation": {"vocab_size": 305, "builder": "tiny_translate/de-en"},
    "labelled_text": {"train": "reviews.tsv"},
    "ts_classification": {"set": "Waves"},
    "series_files": {"train": "waves.csv"},
}
IMAGES, PAIRS = (sorted(name for name in TABLE if issubclass(lookup(TABLE, name), kind))
                 for kind in (base.ImageDataset, Parallel))


@dataclasses.dataclass(frozen=True)
class Tiny:
  """A data set and its tiny copy."""

  name: str
  directory: pathlib.Path

  def make(self, **fields):
    given = FIELDS[self.name] if self.name in FIELDS else {}
    return lookup(TABLE, self.name)(**given | fields)

  def load(self, cache_dir=None, **fields):
    return self.make(**fields).load(self.directory, cache_dir)


@pytest.fixture(scope="session")
def write() -> types.SimpleNamespace:
  """What the tiny copies are made with, for tests that break them."""
  return types.SimpleNamespace(
      flat=flat, encode=encode, tar=write_tar, jpegs=jpeg_members, classes=write_classes, cifar10=write_cifar10,
      npz=write_npz, sentence=sentence, lines=write_lines, sentences=write_sentences, multi30k=write_multi30k,
      wmt_news=write_wmt_news, tatoeba=write_tatoeba, tfds=write_tfds, zip=write_zip, imdb=write_imdb, waves=waves,
      ts_header=TS_HEADER, reviews=REVIEWS)


@pytest.fixture(scope="session", params=IMAGES)
def tiny(request, tmp_path_factory) -> Tiny:
  """Each data set of images of the table in turn; a new row needs a writer above."""
  return written(request.param, tmp_path_factory)


@pytest.fixture(scope="session", params=PAIRS)
def text(request, tmp_path_factory) -> Tiny:
  """Likewise each data set of sentence pairs."""
  return written(request.param, tmp_path_factory)


@pytest.fixture(scope="session", params=sorted(TABLE.keys() - {*IMAGES, *PAIRS}))
def sequence(request, tmp_path_factory) -> Tiny:
  """Likewise each data set of sequences with labels."""
  return written(request.param, tmp_path_factory)


def written(name, tmp_path_factory) -> Tiny:
  root = tmp_path_factory.mktemp("data") / "root"
  WRITERS[name](root)
  return Tiny(name, root)


@pytest.fixture(scope="session")
def vocabularies() -> Vocabularies:
  """A joint one of English and German."""
  sides = [[sentence(language, number) for number in range(150)] for language in ("en", "de")]
  return Vocabularies.train(*sides, size=305, joint=True, model="unigram", coverage=1.0)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
  """The real data directory."""
  if "NASFORMER_DATA" not in os.environ:
    pytest.skip("NASFORMER_DATA names no data directory")
  return pathlib.Path(os.environ["NASFORMER_DATA"])
