"""A run killed at any moment and started again ends in the same bytes as one that was never disturbed."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import time

import pytest

SAME = ("trials.jsonl", "winner.json", "results.json", "supernet/seed0/metrics.jsonl")

# What each stage writes, and the most changes to it, as seen from outside, after which it is killed.
STAGES = {
    "start": ((".experiment.json.tmp", "experiment.json"), 1),
    "train": (("supernet",), 40),
    "search": ((".trials.jsonl.tmp", "trials.jsonl", ".winner.json.tmp", "winner.json"), 10),
    "derive": (("derived",), 20),
    "retrain": (("retrain",), 80),
    "evaluate": ((".results.json.tmp", "results.json", ".latency.json.tmp", "latency.json"), 2),
    "report": (("report",), 10),
}


def look(paths):
  """Names and sizes of all that lies under some paths."""
  found = set()
  for path in [*paths, *(os.path.join(folder, name) for path in paths for folder, subfolders, files in os.walk(path)
                         for name in subfolders + files)]:
    with contextlib.suppress(FileNotFoundError):  # it went away meanwhile
      found.add((str(path), os.stat(path).st_size))
  return found


def kill_after(process, mine, later, changes):
  """Kills a process at a change of its stage's files, or as soon as a later stage has begun; False if it had ended."""
  seen, before = look(mine), look(later)
  while process.poll() is None and changes and look(later) == before:
    now = look(mine)
    changes -= now != seen
    seen = now
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("num", [1, pytest.param(len(STAGES), marks=pytest.mark.slow)])
def test_killed_at_random_moments_in_random_stages(program, finished, tmp_path, num):
  program = dataclasses.replace(program, keeps=False)
  rng, workdir, hits = random.Random(time.time_ns()), tmp_path / "run", []
  paths = {stage: [workdir / name for name in names] for stage, (names, _) in STAGES.items()}
  for number in sorted(rng.sample(range(len(STAGES)), num)):
    stage, (_, most) = list(STAGES.items())[number]
    later = sum(list(paths.values())[number + 1:], [])
    moment = rng.randint(1, most)
    hits.append((stage, moment, kill_after(program.start(f"--workdir={workdir}"), paths[stage], later, moment)))
  status, _, errors = program.run(f"--workdir={workdir}")
  assert status == 0, (errors, hits)
  assert all(hit or stage == "report" for stage, _, hit in hits), hits  # it may have been written before its kill
  for name in (*SAME, *(f"retrain/{arm}/seed0/metrics.jsonl" for arm in ("mixed", "linear", "baseline"))):
    assert (workdir / name).read_bytes() == (finished / name).read_bytes(), (name, hits)
  assert json.loads((workdir / "winner.json").read_text())["winners"]
