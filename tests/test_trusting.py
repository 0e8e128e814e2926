"""Networks are chosen over all budgets and within one, and the order that the supernet foretold is judged fairly."""

import dataclasses
import json

import pytest

from nasformer import trusting
from nasformer.experiment import Trust
from nasformer.types import UserError

ROWS = [{"seed": seed, "group": group, "params": params, "flops": 10 * params, "inherited": {"loss": inherited},
         "retrained": {"loss": retrained}}
        for seed in (0, 1)
        for group, params, inherited, retrained in (
            ("spread", 1, 3.0, 2.0), ("spread", 2, 2.0, 1.5), ("spread", 3, 1.0, 1.0), ("budget", 2, 2.5, 1.6),
            ("budget", 2, 2.6, 1.7), ("budget", 3, 2.7, 1.4))]


def test_the_summary_is_kendalls_tau_of_each_group():
  found = {(row["predictor"], row["group"]): row for row in trusting.summary(ROWS)}
  assert found["inherited loss", "spread"]["tau"] == found["FLOPs", "spread"]["tau"] == 1.0
  # by hand: (2.5, 1.6) and (2.6, 1.7) agree, each disagrees with (2.7, 1.4)
  assert found["inherited loss", "budget"]["tau"] == pytest.approx(-1 / 3)
  assert found["parameters", "budget"]["tau"] == pytest.approx(2 / 3)  # the larger is better than both, which are tied
  assert found["inherited loss", "all"]["num"] == 12
  for row in found.values():
    assert row["low"] <= row["tau"] <= row["high"]


@pytest.mark.parametrize("changes, complaint", [
    ({"spread": 0, "budget": 1}, "at least 2 networks"), ({"front": -1}, "none may be negative"),
    ({"band": 0.0}, "trust.band"), ({"steps": 0}, "trust.steps"),
])
def test_nonsense_is_refused(changes, complaint):
  with pytest.raises(UserError, match=complaint):
    Trust(**changes)


def test_the_stage_trains_networks_over_budgets_and_within_one(command, copied, contents):
  flags = ("--config=tests/micro.py", f"--workdir={copied}", "--stages=trust,report")
  status, output, errors = command(*flags)
  assert status == 0, errors
  assert "tau" in output
  tree = json.loads((copied / "trust.json").read_text())
  budget = json.loads((copied / "winner.json").read_text())["limits"]["flops"]
  rows = tree["rows"]
  assert all(abs(row["flops"] / budget - 1) <= 0.1 for row in rows if row["group"] == "budget")
  assert len({tuple(row["genes"]) for row in rows}) == len(rows) >= 4
  flops = [row["flops"] for row in rows]
  assert max(flops) > 2 * min(flops)
  assert "networks at large" in (copied / "report" / "index.html").read_text()
  before = contents(copied)
  assert command(*flags)[0] == 0
  assert contents(copied) == before


def test_a_band_without_networks_is_explained(finished, make_run):
  from nasformer.scoring import Scorer
  run = make_run(finished)
  trust = dataclasses.replace(run.experiment.trust, budget=2, band=1e-9)
  run = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, trust=trust))
  with pytest.raises(UserError, match="raise --config.trust.band"):
    trusting.networks(run, Scorer(run), 0)
