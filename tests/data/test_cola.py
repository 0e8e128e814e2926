import pytest

from nasformer.data.cola import Cola
from nasformer.types import UserError


def test_damage_is_told_with_its_line(write, tmp_path):
  write.zip(tmp_path / "cola_public.zip", {"cola_public/raw/in_domain_train.tsv": "gj04\t1\t\tFine.\ngj04\tFine.\n"})
  with pytest.raises(UserError, match="in_domain_train, line 2: 2 columns instead of 4"):
    Cola().load(tmp_path)
  (tmp_path / "cola_public.zip").write_bytes(b"PK")
  with pytest.raises(UserError, match="cola_public.zip cannot be read"):
    Cola().load(tmp_path)


def test_the_real_file(data_dir):
  assert Cola().load(data_dir).sizes == {"train": 8533, "val": 527, "test": 516}
