import numpy as np
import pytest

from nasformer.store.writers import JsonlWriter
from nasformer.types import UserError


def test_records_come_back_in_order(tmp_path):
  log = JsonlWriter(tmp_path / "new" / "metrics.jsonl")
  assert log.read() == []
  for step in (100, 200):
    log.write({"step": step, "loss": np.float32(0.5)})
  assert log.read() == [{"step": 100, "loss": 0.5}, {"step": 200, "loss": 0.5}]


def test_numbers_that_are_not_finite_become_null(tmp_path):
  log = JsonlWriter(tmp_path / "metrics.jsonl")
  log.write({"nan": float("nan"), "inf": np.float32("inf"), "array": np.array(2)})
  assert log.read() == [{"nan": None, "inf": None, "array": 2}]


def test_a_resumed_run_does_not_repeat_its_records(tmp_path):
  log = JsonlWriter(tmp_path / "metrics.jsonl")
  log.truncate_after(0)
  assert not (tmp_path / "metrics.jsonl").exists()
  for step in range(5):
    log.write({"step": step})
  log.truncate_after(2)
  log.write({"step": 3})
  assert [record["step"] for record in log.read()] == [0, 1, 2, 3]


@pytest.mark.parametrize("again", ["write", "truncate"])
def test_a_line_cut_short_is_skipped(tmp_path, again):
  log = JsonlWriter(tmp_path / "metrics.jsonl")
  log.write({"step": 1})
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 2, "lo')
  assert log.read() == [{"step": 1}]
  if again == "truncate":
    log.truncate_after(1)
  log.write({"step": 2})
  assert log.read() == [{"step": 1}, {"step": 2}]


def test_an_unwritable_log_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="file/m.jsonl: a file stands"):
    JsonlWriter(tmp_path / "file" / "m.jsonl").write({"step": 1})
