import os
import signal
import subprocess
import sys

import pytest

from nasformer.store.trials import TrialLog
from nasformer.types import UserError

TRIALS = [{"arm": "mixed", "seed": 0, "genes": [i, 2], "fitness": -1 / (i + 1)} for i in range(6)]


def make(path, num=6):
  log = TrialLog(path / "trials.jsonl")
  for start in range(0, num, 2):
    log.append(TRIALS[start:start + 2])
  return log


def test_generations_are_added_in_order(tmp_path):
  assert TrialLog(tmp_path / "trials.jsonl").read() == []
  assert make(tmp_path).read() == TRIALS
  assert len((tmp_path / "trials.jsonl").read_bytes().splitlines()) == 6


def test_the_bytes_do_not_depend_on_where_a_run_was_cut(tmp_path):
  (tmp_path / "a").mkdir()
  whole = make(tmp_path / "a")
  cut = make(tmp_path, num=4)
  cut.truncate_to(2)
  cut.append(TRIALS[2:4])
  cut.append(TRIALS[4:])
  assert (tmp_path / "trials.jsonl").read_bytes() == (tmp_path / "a" / "trials.jsonl").read_bytes()
  whole.truncate_to(99)
  assert whole.read() == TRIALS


def damage(data, how):
  lines = data.splitlines(keepends=True)
  return {
      "short": data[:-20],
      "newline": data[:-1],
      "middle": b"".join(lines[:2] + [b"\x00\xff\x80\n"] + lines[3:]),
      "list": b"".join(lines[:2] + [b"[1]\n"] + lines[3:]),
      "rubbish": b"\x00" * 100,
  }[how]


@pytest.mark.parametrize("how, line, intact", [("short", 6, 5), ("newline", 6, 5), ("middle", 3, 2), ("list", 3, 2),
                                               ("rubbish", 1, 0)])
def test_damage_is_told_and_repaired(tmp_path, how, line, intact):
  log = make(tmp_path)
  broken = damage((tmp_path / "trials.jsonl").read_bytes(), how)
  (tmp_path / "trials.jsonl").write_bytes(broken)
  message = f"trials.jsonl: line {line} of .* damaged and the {intact} trials before it are intact.*--repair"
  with pytest.raises(UserError, match=message):
    log.read()
  assert log.repair() == len(broken.splitlines()) - intact
  assert log.read() == TRIALS[:intact]
  assert (tmp_path / "trials.jsonl.broken").read_bytes() == broken


def test_nothing_to_repair(tmp_path):
  assert make(tmp_path).repair() == 0
  assert os.listdir(tmp_path) == ["trials.jsonl"]


def test_a_kill_leaves_whole_generations(tmp_path):
  program = ("import sys; from nasformer.store.trials import TrialLog\n"
             "log = TrialLog(sys.argv[1]); print('start', flush=True)\n"
             "while True: log.append([{'i': i, 'text': 'x' * 1000} for i in range(7)])")
  path = tmp_path / "trials.jsonl"
  for _ in range(3):
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    child.stdout.readline()
    while not TrialLog(path).read():
      pass
    child.send_signal(signal.SIGKILL)
    child.communicate()
    trials = TrialLog(path).read()
    assert [trial["i"] for trial in trials] == list(range(7)) * (len(trials) // 7)


def test_an_unwritable_log_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="file/trials.jsonl: a file stands where a directory is wanted"):
    TrialLog(tmp_path / "file" / "trials.jsonl").append(TRIALS)
