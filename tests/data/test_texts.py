import numpy as np
import pytest

from nasformer.data import texts
from nasformer.data.labelled_text import LabelledText
from nasformer.types import UserError


def test_bytes_are_those_of_utf8():
  (row,) = texts.spelled(["né\ud800"])
  assert row.tolist() == [110, 0xC3, 0xA9, 63] and row.dtype == np.int32  # half a character becomes "?"


def test_subwords_are_learned_once_and_found_again(write, tmp_path):
  write.lines(tmp_path / "a.tsv", ["label\ttext", *(f"{label}\t{text}" for text, label in write.reviews["train"])])
  data = LabelledText(train="a.tsv", vocabulary="bpe", vocab_size=290)
  one = data.load(tmp_path, tmp_path / "cache")
  assert one.info.vocab_size == 290 and len(one.info.fingerprint) == 64
  encode = texts.encoder(one.info, tmp_path / "cache")
  assert data.load(tmp_path, tmp_path / "cache").info == one.info
  assert max(map(len, encode(["house garden"]))) < len("house garden")
  with pytest.raises(UserError, match="is not the vocabulary that this network was trained with"):
    texts.encoder(one.info, tmp_path)


@pytest.mark.parametrize("fields, message", [
    ({"vocabulary": "words"}, "vocabulary='words' must be one of bytes, unigram, bpe"),
    ({"max_length": 0}, "max_length=0: it must be at least 1"),
    ({"max_length": 300}, "lengths=.* must end with at least max_length=300"),
    ({"lengths": (64, 64, 256)}, "must ascend"),
])
def test_bad_fields_are_told(fields, message):
  with pytest.raises(UserError, match=message):
    LabelledText(**fields)
