import numpy as np
import pytest

from nasformer.data.series import numbers
from nasformer.data.series_files import SeriesFiles
from nasformer.data.ts_classification import TsClassification
from nasformer.types import UserError


def test_channels_are_standardised_by_the_training_part(write, tmp_path):
  write.lines(tmp_path / "a.ts", [*write.ts_header, *write.waves(40, 0)])
  splits = SeriesFiles(train="a.ts").load(tmp_path)
  train = splits.get("train", "search")
  steps = np.concatenate([train.values.take(np.array([i])).steps() for i in range(len(train))])
  np.testing.assert_allclose(splits.info.mean, steps.mean(0), rtol=1e-5)
  np.testing.assert_allclose(splits.info.std, steps.std(0), rtol=1e-5)
  assert splits.info.max_length == 8 and train.values.flat.dtype == np.float32


def test_longer_test_series_are_cut_and_that_is_said(write, tmp_path):
  write.lines(tmp_path / "a.ts", [*write.ts_header, *write.waves(40, 0)])
  splits = SeriesFiles(train="a.ts", max_length=6).load(tmp_path)
  assert "cut to 6 in train: 20 of 40" in splits.info.note and splits.info.lengths == (6,)


@pytest.mark.parametrize("text, message", [
    ("1,?,2", "here: value 2 is missing .'.'"), ("1,,2", "here: value 2 is missing"), ("1,x", "value 2 is 'x', which is no number"),
    ("1,NaN", "value 2 is 'NaN': missing and infinite values cannot be used"), ("inf", "value 1 is 'inf'"),
])
def test_values_that_are_none_are_told(text, message):
  with pytest.raises(UserError, match=message):
    numbers("here", text)


@pytest.mark.parametrize("lines, message", [
    (["up,1,2", "up,1"], "1 class in its 2 training series: there must be at least 2"),
    (["up,1,2", "down,1"], "part 'val' would be empty|no training example is left|part 'test' would be empty"),
])
def test_too_little_is_told(write, tmp_path, lines, message):
  write.lines(tmp_path / "a.csv", lines)
  with pytest.raises(UserError, match=message):
    SeriesFiles(train="a.csv").load(tmp_path)


def test_bad_fields_are_told():
  with pytest.raises(UserError, match="max_length=-1 must not be negative"):
    TsClassification(max_length=-1)
  with pytest.raises(UserError, match="must end with at least max_length=9"):
    TsClassification(max_length=9, lengths=(4, 8))
