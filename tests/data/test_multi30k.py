"""Multi30k in each direction, with what may be missing, and the real copy."""

import itertools

import pytest

from nasformer.data.multi30k import LANGUAGES, Multi30k
from nasformer.types import UserError


@pytest.fixture(scope="module")
def folder(write, tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  write.multi30k(root)
  return root


@pytest.mark.parametrize("source, target", itertools.permutations(LANGUAGES, 2))
def test_each_direction(folder, write, source, target):
  splits = Multi30k(vocab_size=300, model="bpe", source_language=source, target_language=target).load(folder)
  assert splits.sizes == {"train": 120, "val": 20, "test": 24}
  assert (splits.info.source_language, splits.info.target_language) == (source, target)
  val = splits.get("val", "search")
  assert val.sources == [write.sentence(source, number) for number in range(1000, 1020)]
  assert val.targets == [write.sentence(target, number) for number in range(1000, 1020)]


def test_other_test_set(folder):
  splits = Multi30k(vocab_size=305, test_set="test_2017_flickr").load(folder)
  assert splits.sizes["test"] == 10 and "tested on test_2017_flickr" in splits.info.note
  with pytest.raises(UserError, match=r"no test_2017_flickr in the language 'cs' \(only in: en, de\)"):
    Multi30k(vocab_size=305, target_language="cs", test_set="test_2017_flickr").load(folder)
  with pytest.raises(UserError, match=r"no test_2099 in the language 'en' \(only in: none\)"):
    Multi30k(test_set="test_2099").load(folder)


def test_plain_files_in_the_data_directory_itself(write, tmp_path):
  for stem, numbers in (("train", range(100)), ("val", range(500, 510)), ("test_2016_flickr", range(600, 610))):
    write.sentences(tmp_path, stem, {"en": "en", "de": "de"}, numbers, suffix="")
  assert Multi30k(vocab_size=300).load(tmp_path).sizes == {"train": 100, "val": 10, "test": 10}


def test_unknown_languages():
  with pytest.raises(UserError, match="target_language='es': multi30k has no pair en-es, it has en-de, .*cs-fr"):
    Multi30k(target_language="es")


def test_a_line_too_few(folder, write, tmp_path):
  write.multi30k(tmp_path)
  write.sentences(tmp_path / "multi30k", "train", {"de": "de"}, range(119))
  with pytest.raises(UserError, match="train.en.gz has 120 lines and .*train.de.gz has 119, .*line 120 is the first"):
    Multi30k().load(tmp_path)


def test_real_copy(data_dir):
  splits = Multi30k().load(data_dir)
  assert splits.sizes == {"train": 28_999, "val": 1_014, "test": 1_000}  # one source is in train and val
  assert splits.info.source_vocab == 8000
  test = splits.get("test", "evaluate")
  assert test.sources[0] == "A man in an orange hat starring at something."
  assert test.vocabularies.target.decode(test.eval_batch(0, 4096)["target"][:3]) == [
      test.targets[i] for i in test.eval_batch(0, 4096)["index"][:3]]
