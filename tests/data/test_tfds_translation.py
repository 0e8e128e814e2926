"""Translation data of tensorflow-datasets: read without TensorFlow, encoded once, mapped from then on."""

import shutil
import sys

import numpy as np
import pytest

from nasformer.data import pairs, tfds_translation
from nasformer.data.batching import train_batches
from nasformer.data.tfds_translation import TfdsTranslation
from nasformer.types import UserError

FIELDS = {"builder": "tiny_translate/de-en", "vocab_size": 305}


@pytest.fixture(scope="module")
def folder(write, tmp_path_factory):
  root = tmp_path_factory.mktemp("data") / "tfds_translation"
  write.tfds(root)
  return root.parent


def whole(split):
  return [tokens.rows(np.arange(len(split)), 128).tolist() for tokens in (split.source_tokens, split.target_tokens)]


@pytest.mark.parametrize("source, target", [("en", "de"), ("de", "en")])
def test_both_directions(folder, write, source, target):
  splits = TfdsTranslation(**FIELDS, source_language=source, target_language=target).load(folder)
  assert splits.sizes == {"train": 120, "val": 20, "test": 24}
  test = splits.get("test", "evaluate")  # in an order of its own
  assert dict(zip(test.sources, test.targets)) == {
      write.sentence(source, number): write.sentence(target, number) for number in range(2000, 2024)}
  assert "tensorflow" not in sys.modules
  assert "tiny_translate/de-en/1.0.0 of tensorflow-datasets" in splits.info.note


def test_sentences_are_read_when_asked_for(folder):
  train = TfdsTranslation(**FIELDS).load(folder).get("train", "train")
  everything = list(train.sources)
  assert len(train.sources) == len(everything) == 120
  assert [train.sources[i] for i in (0, 5, -1)] == [everything[i] for i in (0, 5, -1)]
  assert train.sources[3:9:2] == everything[3:9:2]
  assert [train.targets[i] for i in range(3)] == train.targets[:3] == list(train.targets)[:3]


@pytest.mark.parametrize("chunk", [7, 1000])
def test_cache_is_mapped_and_gives_the_same_batches(folder, tmp_path, monkeypatch, chunk):
  monkeypatch.setattr(pairs, "CHUNK", chunk)
  memory = TfdsTranslation(**FIELDS).load(folder)
  first = TfdsTranslation(**FIELDS).load(folder, tmp_path)
  monkeypatch.setattr(tfds_translation.Records, "chunks", lambda _: map(pytest.fail, ["read again"]))
  again = TfdsTranslation(**FIELDS).load(folder, tmp_path)
  assert memory.info == first.info == again.info
  for part in ("train", "val", "test"):
    one, *others = (splits.get(part, "evaluate") for splits in (memory, first, again))
    assert not one.lazy
    for other in others:
      assert other.lazy and whole(other) == whole(one)
      for _, a, b in zip(range(5), train_batches(one, 256, 0), train_batches(other, 256, 0)):
        assert all((a[key] == b[key]).all() for key in a)


def test_cache_is_not_mistaken(folder, tmp_path):
  """Other pairs, another direction or another vocabulary have files of their own."""
  kept = lambda: len(list((tmp_path / "tokens").glob("train-*")))
  TfdsTranslation(**FIELDS).load(folder, tmp_path)
  assert kept() == 1
  shutil.rmtree(tmp_path / "vocabulary")
  limited = TfdsTranslation(**FIELDS, max_train=50).load(folder, tmp_path)
  assert kept() == 2 and limited.sizes["train"] == 50
  shutil.rmtree(tmp_path / "vocabulary")
  turned = TfdsTranslation(**FIELDS, source_language="de", target_language="en").load(folder, tmp_path)
  assert kept() == 3
  train = turned.get("train", "train")
  assert train.vocabularies.source.decode(whole(train)[0]) == list(train.sources)


def test_long_sentences_are_left_out_from_the_cache_too(folder, tmp_path):
  fields = FIELDS | {"max_length": 30, "lengths": (30,)}
  memory, first = TfdsTranslation(**fields).load(folder), TfdsTranslation(**fields).load(folder, tmp_path)
  assert memory.info == first.info and 0 < memory.sizes["train"] < 120
  for part in ("train", "val", "test"):
    one, other = (splits.get(part, "evaluate") for splits in (memory, first))
    assert whole(one) == whole(other) and list(one.sources) == list(other.sources)
    if part != "test":
      assert one.vocabularies.source.decode(whole(one)[0]) == list(one.sources)


def test_damaged_cache(folder, tmp_path):
  TfdsTranslation(**FIELDS).load(folder, tmp_path)
  (kept,) = (tmp_path / "tokens").glob("train-*")
  (kept / "counts.npy").unlink()
  with pytest.raises(UserError, match="train-.* holds encoded sentences that cannot be read"):
    TfdsTranslation(**FIELDS).load(folder, tmp_path)


def test_missing_parts_are_carved(write, tmp_path):
  write.tfds(tmp_path, train=range(200), validation=range(1000, 1020))
  splits = TfdsTranslation(**FIELDS, val_fraction=0.1).load(tmp_path)
  assert splits.sizes == {"train": 180, "val": 20, "test": 20}
  assert "no test part, so its validation part is tested on; val carved out of train" in splits.info.note
  assert write.sentence("en", 1000) in list(splits.get("test", "evaluate").sources)


def test_overlapping_training_pairs_are_left_out(write, tmp_path):
  write.tfds(tmp_path, train=range(120), validation=range(100, 110), test=range(105, 115))
  splits = TfdsTranslation(**FIELDS).load(tmp_path)
  assert splits.sizes == {"train": 105, "val": 5, "test": 10}


def test_newest_version_is_read(folder, tmp_path):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  versions = tmp_path / "tfds_translation" / "tiny_translate" / "de-en"
  for version in ("1.10.0", "1.9.0"):
    shutil.copytree(versions / "1.0.0", versions / version)
    info = versions / version / "dataset_info.json"
    info.write_text(info.read_text().replace("1.0.0", version))
  assert "de-en/1.10.0 of" in TfdsTranslation(**FIELDS).load(tmp_path).info.note


def test_what_is_missing(folder, tmp_path):
  with pytest.raises(UserError, match="builder='wmt14_translate/de-en' is not in .*file_format='array_record'"):
    TfdsTranslation().load(folder)
  with pytest.raises(UserError, match="tiny_translate/de-en has no pair en-fr, it has de-en, en-de"):
    TfdsTranslation(**FIELDS, target_language="fr").load(folder)
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  path = tmp_path / "tfds_translation" / "tiny_translate" / "de-en" / "1.0.0"
  for file in path.glob("*-train.array_record*"):
    file.write_bytes(file.read_bytes()[:100])
  with pytest.raises(UserError, match="1.0.0 cannot be read"):
    TfdsTranslation(**FIELDS).load(tmp_path)
  for file in path.glob("*.array_record*"):
    file.rename(str(file).replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match="is no ArrayRecord copy: prepare it with file_format='array_record'"):
    TfdsTranslation(**FIELDS).load(tmp_path)


def test_other_kinds_of_data(tmp_path):
  tfds = pytest.importorskip("tensorflow_datasets")
  tfds.disable_progress_bar()
  with tfds.core.registered.skip_registration():

    class Other(tfds.core.GeneratorBasedBuilder):
      name = "other"
      VERSION = tfds.core.Version("1.0.0")
      code_path = None

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

      def _split_generators(self, dl_manager):
        return {"train": iter([(0, {"text": "a"})])}

      def _generate_examples(self):
        raise NotImplementedError

  Other(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  with pytest.raises(UserError, match="is no data set of sentence pairs in two languages"):
    TfdsTranslation(builder="other").load(tmp_path)
