import importlib

import pytest

from nasformer import main, stages
from nasformer.types import first_line

MICRO = "--config=tests/micro.py"


def test_a_run_says_what_it_does_and_where_the_report_is(finished):
  output = (finished / "output.txt").read_text()
  for stage in ("train", "search", "derive", "retrain", "evaluate"):
    assert f"{stage}: " in output
  for stage in ("train", "search"):
    assert f"\n{stage}: " in output and "programs compiled\n" in output
  assert f"report: {finished / 'report' / 'index.html'}" in output
  assert "baseline" in output and "\x1b" not in output  # the table, without colours in a file


def test_every_component_is_listed_with_what_it_is(command):
  status, output, errors = command("--list")
  assert (status, errors) == (0, "")
  for package in main._TABLES:
    assert f"{package}\n" in output
    for name, path in importlib.import_module(f"nasformer.{package}").TABLE.items():
      module, _, attribute = path.partition(":")
      what = first_line(getattr(importlib.import_module(module), attribute))
      assert any(line.split(maxsplit=1) == [name, what] for line in output.splitlines())
