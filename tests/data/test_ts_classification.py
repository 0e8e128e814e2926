import pytest

from nasformer.data.ts_classification import TsClassification
from nasformer.types import UserError

SETS = {"ACSF1": (100, 100, 10), "ArrowHead": (36, 175, 3), "BasicMotions": (40, 40, 4), "GunPoint": (50, 150, 2),
        "ItalyPowerDemand": (67, 1029, 2), "JapaneseVowels": (270, 370, 9)}


@pytest.mark.parametrize("name", SETS)
def test_the_real_files(data_dir, name):
  splits = TsClassification(set=name).load(data_dir)
  assert (splits.sizes["train"] + splits.sizes["val"], splits.sizes["test"], splits.info.num_classes) == SETS[name]
  assert splits.info.name == name


def test_an_unknown_set_is_told(write, tmp_path):
  write.lines(tmp_path / "ts_classification" / "Waves" / "Waves_TRAIN.ts", write.ts_header)
  with pytest.raises(UserError, match="set='Wave': there is no folder of that name.*there are: Waves"):
    TsClassification(set="Wave").load(tmp_path)
