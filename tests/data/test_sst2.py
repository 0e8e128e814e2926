import pytest

from nasformer.data.sst2 import Sst2
from nasformer.types import UserError


def test_damage_is_told_with_its_line(write, tmp_path):
  for part in ("train", "dev", "test"):
    write.lines(tmp_path / f"{part}.tsv", ["good\t1", "no label here"])
  with pytest.raises(UserError, match="train.tsv, line 2: a sentence, a tab and a label are wanted"):
    Sst2().load(tmp_path)


def test_the_real_files(data_dir):
  assert Sst2().load(data_dir).sizes == {"train": 6917, "val": 872, "test": 1821}  # 3 sentences are test sentences too
