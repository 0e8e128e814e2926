"""What the first screen says, for every way a run can end."""

import json

import pytest

from nasformer.report import verdict as verdicts
from nasformer.report.load import load
from nasformer.report.measures import BLEU


def decided(path, **test_accuracy):
  """The verdict after the test accuracies of arms are replaced, one value or one per seed."""
  tree = json.loads((path / "results.json").read_text())
  for row in tree["rows"]:
    value = test_accuracy[row["arm"]]
    row["retrained"]["test"]["accuracy"] = value[row["seed"]] if isinstance(value, tuple) else value
  (path / "results.json").write_text(json.dumps(tree))
  return verdicts.verdict(load(path))


def translated(path, p_value=0.01, **bleu):
  """The verdict after BLEU of arms is replaced, each ± 1, with one p-value against the baseline."""
  tree = json.loads((path / "results.json").read_text())
  for row in tree["rows"]:
    value = bleu[row["arm"]]
    row["retrained"]["test"] |= {"bleu": value, "bleu_low": value - 1, "bleu_high": value + 1}
    if row["arm"] != "baseline":
      gain = value - bleu["baseline"]
      row["against_baseline"] = {"difference": gain, "low": gain - 0.6, "high": gain + 0.5, "p_value": p_value}
  (path / "results.json").write_text(json.dumps(tree))
  return verdicts.verdict(load(path))


def plain(text):
  return text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_clear_winner(workdir):
  found = decided(workdir(), mixed=0.99, softmax=0.90, linear=0.85, baseline=0.92)
  assert found.title.startswith("Mixed wins: 99.0% test accuracy at ") and found.title.endswith("FLOPs.")
  assert "Against the hand-made baseline (92.0% test accuracy at 990k FLOPs) mixed is 7.0 points more accurate, with" \
      in found.lines[0]


def test_the_baseline_wins_and_the_page_says_so(workdir):
  found = decided(workdir(), mixed=0.90, softmax=0.91, linear=0.85, baseline=0.97)
  assert found.title == "The hand-made baseline wins: 97.0% test accuracy at 990k FLOPs."
  assert found.lines[0].startswith("The best searched arm is softmax, 91.0%")
  assert "6.0 points less accurate" in found.lines[0]


def test_differences_within_the_noise_are_a_tie_won_by_cost(workdir):
  # one standard error of 0.97 on 360 examples is 0.9 points
  found = decided(workdir(), mixed=0.970, softmax=0.971, linear=0.80, baseline=0.80)
  assert found.title.startswith("Softmax and mixed are level on test accuracy; the cheaper is mixed: 97.0%")
  assert "mixed is 17.0 points more accurate, with" in found.lines[0]


def test_a_tie_of_all_is_said_with_the_baseline_in_it(workdir):
  found = decided(workdir(), mixed=0.97, softmax=0.97, linear=0.97, baseline=0.97)
  assert "and the hand-made baseline are level on test accuracy; the cheapest is linear" in found.title
  assert "linear is as accurate, with" in found.lines[0]


def test_a_gain_within_the_uncertainty_is_marked(workdir):
  found = decided(workdir(), mixed=0.975, softmax=0.8, linear=0.8, baseline=0.970)
  assert "mixed is 0.5 points more accurate (within the uncertainty), with" in found.lines[0]


def test_the_spread_over_seeds_can_make_a_tie(workdir):
  found = decided(workdir(seeds=(0, 1, 2)), mixed=(0.99, 0.80, 0.97), softmax=0.85, linear=0.5, baseline=0.5)
  # deviations from 0.92 are 0.07, -0.12 and 0.05: √(0.0218 / 2) = 0.104, more than the distance of 0.07
  assert found.title.startswith("Mixed and softmax are level on test accuracy; the cheaper is mixed: 92.0 ± 10.4% ")
  assert "over 3 seeds" in found.lines[1]


def test_noise_is_the_larger_of_seed_deviation_and_sampling_error(workdir):
  path = workdir()
  decided(path, mixed=0.9, softmax=0.9, linear=0.9, baseline=0.9)
  assert verdicts.noise(load(path), "mixed") == pytest.approx((0.9 * 0.1 / 360) ** 0.5)
  path = workdir(seeds=(0, 1, 2))
  decided(path, mixed=(0.7, 0.9, 1.1), softmax=0.9, linear=0.9, baseline=0.9)
  assert verdicts.noise(load(path), "mixed") == pytest.approx(0.2)


def test_an_arm_that_is_not_retrained_yet_is_named(workdir):
  path = workdir()
  tree = json.loads((path / "results.json").read_text())
  tree["rows"] = [row for row in tree["rows"] if row["arm"] not in ("linear", "baseline")]
  (path / "results.json").write_text(json.dumps(tree))
  found = verdicts.verdict(load(path))
  assert found.lines[0] == "There is no retrained hand-made baseline to compare with."
  assert found.lines[-1] == "Not retrained yet: linear, baseline."


def test_before_retraining_nothing_is_called_a_result(workdir):
  found = verdicts.verdict(load(workdir(until="retrain")))
  assert found.title.startswith("Mixed leads after the search: ") and "validation accuracy" in found.title
  assert "FLOPs." in found.title and "not a result" in found.lines[0]


def test_before_the_search_there_is_no_winner(workdir):
  assert verdicts.verdict(load(workdir(until="train"))).title == "No winner yet"


# -- translation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found, words", [
    ((0.8, 0.2, 1.4, 0.0123), "better by 0.8 BLEU [0.2, 1.4], p = 0.012"),
    ((-0.8, -1.4, -0.2, 0.001), "worse by 0.8 BLEU [0.2, 1.4], p = 0.001"),
    ((-0.1, -0.7, 0.5, 0.62), "not distinguishable (−0.1 BLEU [−0.7, 0.5], p = 0.62)"),
    ((0.6, 0.0, 1.2, 0.05), "not distinguishable (+0.6 BLEU [0.0, 1.2], p = 0.05)"),
])
def test_paired_tests_in_words(found, words):
  assert plain(verdicts.paired(dict(zip(("difference", "low", "high", "p_value"), found)), BLEU.test)) == words


def test_a_translation_that_wins(workdir):
  found = translated(workdir(task="text"), mixed=27.3, softmax=24.0, linear=23.0, baseline=25.0)
  assert found.title.startswith("Mixed wins: 27.3 BLEU at ")
  assert "(25.0 BLEU at 990k FLOPs) mixed is better by 2.3 BLEU [1.7, 2.8], p = 0.01, with" in plain(found.lines[0])
  assert "sampling error of 40 test sentences" in found.lines[1] and "sentence by sentence" in found.lines[1]


def test_the_paired_test_decides_against_the_baseline(workdir):
  # one standard error is 2 / (2 x 1.96) = 0.51, of a difference 0.72: 0.9 apart would not be level without the test
  level = translated(workdir(task="text"), p_value=0.3, mixed=25.9, softmax=20.0, linear=20.0, baseline=25.0)
  assert level.title.startswith("Mixed and the hand-made baseline are level on BLEU; the cheaper is mixed")
  assert "mixed is not distinguishable (+0.9 BLEU [0.3, 1.4], p = 0.3), with" in plain(level.lines[0])
  clear = translated(workdir(task="text"), p_value=0.01, mixed=25.3, softmax=20.0, linear=20.0, baseline=25.0)
  assert clear.title.startswith("Mixed wins: 25.3 BLEU")


def test_arms_are_level_within_their_intervals(workdir):
  found = translated(workdir(task="text"), mixed=27.0, softmax=27.6, linear=26.0, baseline=20.0)
  assert found.title.startswith("Softmax and mixed are level on BLEU")


def test_several_seeds_are_compared_by_their_spread(workdir):
  path = workdir(task="text", seeds=(0, 1))
  found = translated(path, mixed=27.3, softmax=24.0, linear=23.0, baseline=25.0)
  assert "mixed is better by 2.3 BLEU, with" in found.lines[0] and "sentence by sentence" not in found.lines[1]
  found = translated(path, mixed=25.3, softmax=24.0, linear=23.0, baseline=25.0)
  assert "mixed is better by 0.3 BLEU (within the uncertainty), with" in found.lines[0]


def test_the_lowest_loss_leads_after_the_search(workdir):
  run = load(workdir(task="text", until="search"))
  best = min(run.models, key=lambda model: model.val_inherited)
  title = verdicts.verdict(run).title
  assert title.startswith(f"{best.arm.capitalize()} leads after the search: {best.val_inherited:.3f} nats per token of")
