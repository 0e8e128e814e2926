import pytest

from nasformer.data.imdb import Imdb
from nasformer.types import UserError


def test_repeated_test_reviews_are_left_out_of_training(write, tmp_path):
  write.imdb(tmp_path)
  splits = Imdb().load(tmp_path)
  assert splits.sizes == {"train": 72, "val": 8, "test": 24}
  assert "left out of train: 1 with a text of test" in splits.info.note
  assert "cut" not in splits.info.note and "cut to 20 in test" in Imdb(max_length=20).load(tmp_path).info.note


@pytest.mark.parametrize("line, why", [
    ('{"text": "b"}', "'label'"), ('{"label": 1}', "'text'"), ('{"label": 1, "text": null}', "the text is null"),
    ('{"label": 1, "text": ["b"]}', r'the text is \["b"\]'),
    ("[1, 2]", "list indices must be integers"), ("b", "Expecting value")])
def test_damage_is_told_with_its_line(write, tmp_path, line, why):
  write.imdb(tmp_path)
  write.lines(tmp_path / "imdb" / "imdb_train.jsonl.gz", ['{"label": 1, "text": "a"}', line])
  with pytest.raises(UserError, match=rf"imdb_train.jsonl.gz, line 2: no review with a label and a text \({why}.*\): fetch"):
    Imdb().load(tmp_path)


def test_the_real_files(data_dir):
  splits = Imdb().load(data_dir)
  assert splits.sizes == {"train": 22436, "val": 2494, "test": 12177}
  assert "left out of train: 59 with a text of test" in splits.info.note
