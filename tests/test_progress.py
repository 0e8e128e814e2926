import io
import types

import pytest
from rich.console import Console

from nasformer import progress


@pytest.fixture
def log():
  return Console(file=io.StringIO(), width=80)


def test_a_log_has_a_line_now_and_then_with_the_time_left(log, monkeypatch):
  """At ten seconds a step, from step 20 on, a line is due at every second step."""
  now = 0.0
  monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now))
  with progress.bar(log, "train", 100, 20) as show:
    for step in (21, 22, 23, 24):
      now += 10
      show(step, f"loss {step}")
  assert log.file.getvalue().splitlines() == [
      "train ...",
      "train: 22/100, 13:00 left  loss 22",  # 78 steps of ten seconds
      "train: 24/100, 12:40 left  loss 24",
      "train: done in 0:40",
  ]


def test_a_failure_is_not_called_done(log):
  with pytest.raises(KeyError):
    with progress.bar(log, "train", 100):
      raise KeyError
  assert log.file.getvalue() == "train ...\n"


def test_a_terminal_shows_a_bar():
  console = Console(file=io.StringIO(), width=120, force_terminal=True)
  with progress.bar(console, "train", 4, 1) as show:
    show(2, "loss 0.5")
    show(4, "loss 0.25")
  text = console.file.getvalue()
  assert "train" in text and "4/4" in text and "loss 0.25" in text
