import importlib
import re

import pytest
from absl import flags

from nasformer import main, stages
from nasformer.store import files
from nasformer.types import first_line

MICRO = "--config=tests/micro.py"


def test_a_run_says_what_it_does_and_where_the_report_is(finished):
  output = (finished / "output.txt").read_text()
  lines = [r"supernet, seed 0: done in \d+:\d\d", r"train: \d+ programs compiled", r"search linear, seed 0: done in .*",
           r"search: \d+ programs compiled", re.escape(f"report: {finished / 'report' / 'index.html'}")]
  for line in lines:
    assert re.search(f"^{line}$", output, re.MULTILINE), line
  assert "baseline" in output and "\x1b" not in output  # the table, without colours where nobody sees them


def test_a_mistake_ends_a_process_with_one_sentence(program, tmp_path):
  status, _, errors = program.run(f"--workdir={tmp_path}", "--config.search.limits.flops=10")
  assert status == 1 and "Traceback" not in errors
  assert errors.splitlines()[-1].startswith("error: --config.search.arms.mixed: search.limits.flops=10 cannot be met")


def test_every_component_is_listed_with_what_it_is(command):
  status, output, errors = command("--list")
  assert (status, errors) == (0, "")
  for package in main._TABLES:
    assert f"{package}\n" in output
    for name, path in importlib.import_module(f"nasformer.{package}").TABLE.items():
      module, _, attribute = path.partition(":")
      what = first_line(getattr(importlib.import_module(module), attribute))
      assert any(line.split(maxsplit=1) == [name, what] for line in output.splitlines())


def test_fields_of_a_config_are_listed_as_flags(command):
  _, output, _ = command("--list", MICRO, "--config.train.steps=7")
  for line in ("--config.train.steps=7", "--config.search.arms.mixed=''", "--config.data.name='digits'",
               "--config.search.limits.latency_ms=None"):
    assert f"  {line}\n" in output


@pytest.fixture
def asked(monkeypatch):
  """Names of the stages that were run, in order; they do nothing."""
  names = []
  monkeypatch.setattr(stages, "STAGES", {name: lambda run, name=name: names.append(name) for name in stages.STAGES})
  return names


@pytest.mark.parametrize("flags, names", [
    ([], ["train", "search", "derive", "retrain", "evaluate", "report"]),
    (["--stages=search,train"], ["train", "search"]),
    (["--stages=report"], ["report"]),
    (["--stages=trust,search,latency"], ["latency", "search", "trust"]),
    (["--config.search.latency=predicted"], ["latency", "train", "search", "derive", "retrain", "evaluate", "report"]),
    (["--config.search.latency=predicted", "--config.latency.table=table.jsonl"],
     ["train", "search", "derive", "retrain", "evaluate", "report"]),
])
def test_stages_run_in_their_order(command, asked, tmp_path, flags, names):
  assert command(MICRO, f"--workdir={tmp_path}", *flags)[0] == 0
  assert asked == names


def test_a_data_directory_is_a_flag_or_a_variable(command, asked, monkeypatch, tmp_path):
  monkeypatch.setenv("NASFORMER_DATA", str(tmp_path / "variable"))
  for flags, name in (([], "variable"), ([f"--data_dir={tmp_path / 'flag'}"], "flag")):
    status, _, errors = command(f"{MICRO}:mnist", f"--workdir={tmp_path / 'run'}", *flags)
    assert status == 1 and str(tmp_path / name) in errors


def test_every_flag_is_explained_in_sentences():
  """None of them needs the one before it: they are shown in the order of the alphabet."""
  mine = flags.FLAGS.flags_by_module_dict()[main.__name__]
  assert {"config", "workdir", "distributed", "process_id"} <= {flag.name for flag in mine}
  for flag in mine:
    assert flag.help[0].isupper() and flag.help.endswith(".") and not flag.help.startswith("The same"), flag.name


def test_an_interruption_is_no_error(command, monkeypatch, tmp_path):
  def interrupt(run):
    raise KeyboardInterrupt

  monkeypatch.setattr(stages, "STAGES", {"train": interrupt})
  status, _, errors = command(MICRO, f"--workdir={tmp_path}")
  assert (status, errors) == (130, "stopped; the same command goes on from here\n")


def test_two_processes_do_not_share_a_work_directory(command, asked, tmp_path):

  with files.locked(tmp_path):
    status, _, errors = command(MICRO, f"--workdir={tmp_path}")
  assert status == 1 and f"{tmp_path}: another process" in errors and not asked
