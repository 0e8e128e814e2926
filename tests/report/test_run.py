"""What a run says of itself."""

import dataclasses

from nasformer.report.load import load
from nasformer.report.run import called


def test_arms_keep_their_order_with_the_baseline_last(any_workdir):
  run = load(any_workdir(generations=1, population=2))
  turned = dataclasses.replace(run, models=run.models[::-1])
  assert run.arms == ("mixed", "softmax", "linear", "baseline")
  assert turned.arms == ("linear", "softmax", "mixed", "baseline")


def test_models_of_an_arm_come_by_seed(any_workdir):
  run = load(any_workdir(seeds=(2, 0, 1), generations=1, population=2))
  assert run.seeds == (0, 1, 2)
  assert [(model.arm, model.seed) for model in run.of("linear")] == [("linear", seed) for seed in (0, 1, 2)]
  assert run.of("nothing") == ()


def test_only_the_baseline_has_another_name():
  assert called("baseline") == "hand-made baseline" and called("mixed") == "mixed"
