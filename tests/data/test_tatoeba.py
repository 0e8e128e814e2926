"""Tatoeba is carved by source sentence."""

import pytest

from nasformer.data.tatoeba import Tatoeba
from nasformer.types import UserError


def test_translations_of_a_sentence_stay_together(write, tmp_path):
  write.tatoeba(tmp_path)
  for fields in ({}, {"source_language": "fr", "target_language": "en"}):
    splits = Tatoeba(vocab_size=305, test_fraction=0.2, val_fraction=0.25, model="bpe", **fields).load(tmp_path)
    sources = [splits.get(part, "evaluate").sources for part in ("train", "val", "test")]
    assert sum(map(len, sources)) == 150 == sum(splits.sizes.values())
    assert sum(len(set(part)) for part in sources) == len(set().union(*sources))
    assert 30 <= splits.sizes["test"] <= 31 and 30 <= splits.sizes["val"] <= 31  # 0.2 x 150, a quarter of 120
  assert "leader board" in splits.info.note and "tatoeba-test-v2021-08-07" in splits.info.note


def test_newest_version_is_taken(write, tmp_path):
  write.tatoeba(tmp_path)
  folder, sides = tmp_path / "tatoeba" / "en-de", {"eng": "en", "deu": "de"}
  write.sentences(folder, "tatoeba-test-v2023-01-01", sides, range(200), suffix="")
  assert sum(Tatoeba(vocab_size=305).load(tmp_path).sizes.values()) == 200


def test_bad_fields(tmp_path):
  with pytest.raises(UserError, match="test_fraction=1.5 must lie between 0 and 1"):
    Tatoeba(test_fraction=1.5)
  with pytest.raises(UserError, match="tatoeba has no pair en-es, it has en-de"):
    Tatoeba(target_language="es")
  with pytest.raises(UserError, match="no Tatoeba of en-cs in .*tatoeba-test-v2021-08-07.ces.gz"):
    Tatoeba(target_language="cs").load(tmp_path)


def test_real_copy(data_dir):
  splits = Tatoeba(target_language="cs").load(data_dir)
  sources = [set(splits.get(part, "evaluate").sources) for part in ("train", "val", "test")]
  assert 13_800 < sum(splits.sizes.values()) <= 13_824  # but for the longest
  assert sum(map(len, sources)) == len(set().union(*sources))
