"""WMT news: the years of each part, both directions, and the real copy."""

import pytest

from nasformer.data.wmt_news import PAIRS, WmtNews
from nasformer.types import UserError


@pytest.fixture(scope="module")
def folder(write, tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  write.wmt_news(root)
  return root


@pytest.mark.parametrize("source, target", PAIRS)
def test_years(folder, write, source, target):
  """Twelve sentences of each year; the third of the twelve sets is of 2009, so 2013 begins at 20 x 6."""
  splits = WmtNews(vocab_size=290, model="bpe", source_language=source, target_language=target).load(folder)
  years = 6 if "fr" in (source, target) else 10
  assert splits.sizes == {"train": 12 * years, "val": 12, "test": 12}
  for part, first in (("val", 120), ("test", 140), ("train", 0)):
    assert splits.get(part, "evaluate").sources[:12] == [write.sentence(source, first + i) for i in range(12)]
    assert splits.get(part, "evaluate").targets[:12] == [write.sentence(target, first + i) for i in range(12)]
  assert ("newstest2018" in splits.info.note) == (years == 10)


def test_training_pairs_that_are_in_dev_are_left_out(write, tmp_path):
  write.wmt_news(tmp_path)
  numbers = [*range(300, 308), 120, 121]
  write.sentences(tmp_path / "wmt_news" / "en-de", "newstest2016", {"eng": "en", "deu": "de"}, numbers)
  splits = WmtNews(vocab_size=305).load(tmp_path)
  assert splits.sizes == {"train": 116, "val": 12, "test": 12}
  assert "left out of train: 2 with a source sentence of another part" in splits.info.note


def test_what_is_missing(write, tmp_path):
  write.wmt_news(tmp_path)
  with pytest.raises(UserError, match="wmt_news has no pair de-fr, it has en-de, de-en, en-fr, fr-en, en-cs, cs-en"):
    WmtNews(source_language="de", target_language="fr")
  (tmp_path / "wmt_news" / "en-de" / "newstest2011.deu.gz").unlink()
  with pytest.raises(UserError, match="newstest2011.deu cannot be read .*missing"):
    WmtNews().load(tmp_path)
  for file in (tmp_path / "wmt_news" / "en-cs").iterdir():
    file.unlink()
  with pytest.raises(UserError, match="no WMT news of en-cs in .*newstest2014.eng.gz, newstest2014.ces.gz"):
    WmtNews(source_language="cs", target_language="en").load(tmp_path)


def test_real_copy(data_dir):
  splits = WmtNews(target_language="fr", model="bpe").load(data_dir)
  assert splits.sizes["test"] == 3003 and sum(splits.sizes.values()) > 19_400  # but for the longest
  assert splits.get("test", "evaluate").sources[0].startswith("Spectacular Wingsuit Jump Over Bogota")
