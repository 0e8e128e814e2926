"""The rows behind the report, against the files and against numbers derived here."""

import csv
import io
import json
import math
import statistics

import numpy as np
import pytest
import rich.console

from nasformer.report import tables
from nasformer.report.load import load
from nasformer.report.measures import yardstick
from nasformer.report.numbers import si


def read_csv(rows):
  return list(csv.DictReader(io.StringIO(tables.to_csv(rows))))


def terminal(run, width=160):
  console = rich.console.Console(width=width, file=io.StringIO(), force_terminal=True)
  console.print(tables.pareto_table(run))
  return console.file.getvalue()


def test_csv_holds_the_numbers_of_the_files_to_the_last_digit(workdir):
  path = workdir(seeds=(0, 1, 2))
  files = {name: {(row["arm"], row["seed"]): row for row in json.loads((path / f"{name}.json").read_text())["rows"]}
           for name in ("results", "latency")}
  rows = read_csv(tables.results(load(path)))
  assert len(rows) == 12
  for row in rows:
    name = (row["arm"], int(row["seed"]))
    result, latency = files["results"][name], files["latency"][name]
    assert int(row["params"]) == result["params"] and int(row["flops"]) == result["flops"]
    assert float(row["val_inherited"]) == result["inherited"]["val"]["accuracy"]
    assert float(row["val_retrained"]) == result["retrained"]["val"]["accuracy"]
    assert float(row["test_retrained"]) == result["retrained"]["test"]["accuracy"]
    assert "bleu" not in row and "against_baseline_p_value" not in row
    assert [float(row[k]) for k in ("latency_ms", "latency_p10_ms", "latency_p90_ms")] == \
        [latency[k] for k in ("median_ms", "p10_ms", "p90_ms")]
    assert int(row["depth"]) == len(result["spec"]["layers"])


def test_csv_of_translation_holds_every_score_and_comparison(workdir):
  path = workdir(seeds=(0, 1), task="text")
  results = {(row["arm"], row["seed"]): row for row in json.loads((path / "results.json").read_text())["rows"]}
  rows = read_csv(tables.results(load(path)))
  assert len(rows) == 8
  for row in rows:
    result = results[row["arm"], int(row["seed"])]
    test = result["retrained"]["test"]
    for name in ("bleu", "bleu_low", "bleu_high", "chrf", "bleu_tokenised", "exact_match"):
      assert float(row[name]) == test[name]
    assert float(row["test_loss"]) == test["loss"] and float(row["test_smoothed_bits"]) == test["smoothed_bits"]
    assert float(row["val_loss_inherited"]) == result["inherited"]["val"]["loss"]
    assert float(row["val_loss_retrained"]) == result["retrained"]["val"]["loss"]
    assert int(row["encoder_depth"]) == len(result["spec"]["encoder"])
    assert int(row["decoder_embed_dim"]) == result["spec"]["decoder_embed_dim"]
    assert int(row["flops_1000_tokens"]) == result["flops_by_length"]["1000"]
    for name in ("difference", "low", "high", "p_value"):
      assert row[f"against_baseline_{name}"] == str(result["against_baseline"][name]) * (row["arm"] != "baseline") \
          if "against_baseline" in result else row[f"against_baseline_{name}"] == ""


def test_summary_is_mean_and_sample_deviation(any_workdir):
  run = load(any_workdir(seeds=(0, 1, 2)))
  name, key = yardstick(run).test.name, run.experiment["headline"]
  for row in tables.summary(run):
    values = [model.test[key] for model in run.of(row["arm"])]
    assert row["seeds"] == 3
    assert row[f"{name}_mean"] == pytest.approx(statistics.mean(values))
    assert row[f"{name}_std"] == pytest.approx(statistics.stdev(values))


def test_what_is_not_known_is_empty(workdir):
  (row, *_) = read_csv(tables.results(load(workdir(until="search"))))
  assert row["test_retrained"] == row["latency_ms"] == "" and float(row["val_inherited"]) > 0
  assert tables.to_csv([]) == "\n"


def test_effort_repeats_the_counts_of_the_search(workdir):
  rows = tables.effort(load(workdir(limits={"flops": 1e6, "latency_ms": 1.0}, generations=2, population=5)))
  assert rows[0] == {"arm": "mixed", "seed": 0, "asked": 10 + 31 + 114, "evaluated": 10, "duplicates": 31,
                     "rejected_flops": 57, "rejected_latency_ms": 57}
  assert [row["arm"] for row in rows] == ["mixed", "softmax", "linear"]


def test_front_is_what_nothing_beats_cheapest_first():
  accuracy = np.array([0.9, 0.8, 0.7, 0.9, 0.95, np.nan, 0.8])
  flops = np.array([50.0, 20.0, 30.0, 60.0, 90.0, 10.0, 20.0])
  # 0.7 at 30 loses to 0.8 at 20, 0.9 at 60 to 0.9 at 50; the second 0.8 at 20 is the same point
  assert tables.front(accuracy, flops, True).tolist() == [1, 0, 4]
  assert tables.front(1 - accuracy, flops, False).tolist() == [1, 0, 4]


def test_fronts_come_from_the_trials(any_workdir):
  run = load(any_workdir(seeds=(0, 1), generations=3, population=10))
  yard = yardstick(run)
  rows = tables.fronts(run)
  assert {(row["arm"], row["seed"]) for row in rows} == {(t.arm, t.seed) for t in run.trials}
  for trials in run.trials:
    mine = [row for row in rows if (row["arm"], row["seed"]) == (trials.arm, trials.seed)]
    for row in mine:
      found = row[yard.inherited.name]
      as_good = trials.quality >= found if yard.maximise else trials.quality <= found
      better = as_good & (trials.flops < row["flops"])
      assert not better.any()
    assert [row["flops"] for row in mine] == sorted(row["flops"] for row in mine)


def test_progress_of_a_search_worked_out_by_hand(workdir):
  path = workdir(arms=("mixed",), generations=1, population=1, until="search")
  rows = [{"arm": "mixed", "seed": 0, "generation": g, "genes": [0], "loss": 0.1, "params": 1, "fitness": fitness,
           "accuracy": accuracy, "flops": flops}
          for g, fitness, accuracy, flops in [(0, -0.5, 0.6, 50), (0, None, None, 40), (1, -0.9, 0.4, 20),
                                              (1, -0.2, 0.8, 100)]]
  (path / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  first, last = tables.progress(load(path))
  # the corner is 10% (ten classes) at 110 FLOPs, so the box is 0.9 x 110 = 99
  assert first["evaluations"] == 2 and first["best_fitness"] == -0.5
  assert first["hypervolume"] == pytest.approx((0.6 - 0.1) * (110 - 50) / 99)
  assert last["evaluations"] == 4 and last["best_fitness"] == -0.2
  # 0.4 at 20 reaches from 20 to 110; 0.6 adds 0.2 from 50 on, 0.8 another 0.2 from 100 on
  assert last["hypervolume"] == pytest.approx((0.3 * 90 + 0.2 * 60 + 0.2 * 10) / 99)


def test_hypervolume_of_losses_worked_out_by_hand(workdir):
  path = workdir(arms=("mixed",), generations=1, population=1, until="search", task="text")
  rows = [{"arm": "mixed", "seed": 0, "generation": 0, "genes": [0], "accuracy": 0.1, "params": 1, "fitness": -loss,
           "loss": loss, "flops": flops} for loss, flops in [(2.0, 50), (1.0, 100), (3.0, 60)]]
  (path / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (row,) = tables.progress(load(path))
  # the corner is ln 512 nats (512 tokens, all as likely) at 110 FLOPs; from 50 to 100 the loss is 2, from there on 1
  guess = math.log(512)
  assert row["hypervolume"] == pytest.approx(((guess - 2) * 60 + 1 * 10) / (guess * 110))


def test_progress_never_falls(any_workdir):
  rows = tables.progress(load(any_workdir(seeds=(0, 1))))
  for one, two in zip(rows, rows[1:]):
    if (one["arm"], one["seed"]) == (two["arm"], two["seed"]):
      assert two["best_fitness"] >= one["best_fitness"]
      assert two["hypervolume"] >= one["hypervolume"] - 1e-12  # areas are summed in another order
  assert all(0 <= row["hypervolume"] <= 1 for row in rows)


def test_agreement_over_all_and_within_the_band(workdir):
  path = workdir()
  results, winner = (json.loads((path / name).read_text()) for name in ("results.json", "winner.json"))
  for row, mate, params, inherited, retrained in zip(
      results["rows"], winner["winners"], (100, 105, 95, 300), (0.1, 0.2, 0.3, 0.4), (0.5, 0.7, 0.6, 0.8)):
    row["params"] = mate["params"] = params
    row["inherited"]["val"]["accuracy"], row["retrained"]["val"]["accuracy"] = inherited, retrained
  for name, tree in (("results.json", results), ("winner.json", winner)):
    (path / name).write_text(json.dumps(tree))
  by_score, by_size = tables.agreement(load(path))
  # inherited: one of six pairs is the wrong way round; among the three of like size (median 102.5), one of three
  assert (by_score["tau_all"], by_score["num_all"]) == (pytest.approx(4 / 6), 4)
  assert (by_score["tau_narrow"], by_score["num_narrow"]) == (pytest.approx(1 / 3), 3)
  # size 95 < 100 < 105 < 300 against 0.6, 0.5, 0.7, 0.8: one pair wrong
  assert by_size["tau_all"] == pytest.approx(4 / 6) and by_size["tau_narrow"] == pytest.approx(1 / 3)


def test_agreement_of_losses_is_that_of_quality(workdir):
  path = workdir(task="text")
  results, winner = (json.loads((path / name).read_text()) for name in ("results.json", "winner.json"))
  for row, mate, params, inherited, retrained in zip(
      results["rows"], winner["winners"], (400, 300, 200, 100), (4.1, 4.2, 4.3, 4.4), (3.5, 3.7, 3.6, 3.8)):
    row["params"] = mate["params"] = params
    row["inherited"]["val"]["loss"], row["retrained"]["val"]["loss"] = inherited, retrained
  for name, tree in (("results.json", results), ("winner.json", winner)):
    (path / name).write_text(json.dumps(tree))
  by_loss, by_size = tables.agreement(load(path))
  # one of six pairs is the wrong way round; the larger a network the lower its loss, in the same pairs
  assert by_loss["predictor"] == "inherited loss" and by_loss["tau_all"] == pytest.approx(4 / 6)
  assert by_size["tau_all"] == pytest.approx(4 / 6)


def test_agreement_is_not_claimed_without_retraining_or_without_differences(workdir):
  assert tables.agreement(load(workdir(until="search"))) == []
  path = workdir()
  tree = json.loads((path / "results.json").read_text())
  for row in tree["rows"]:
    row["retrained"]["val"]["accuracy"] = 0.9
  (path / "results.json").write_text(json.dumps(tree))
  assert all(row["tau_all"] is None for row in tables.agreement(load(path)))


def test_terminal_table_has_a_row_per_arm_with_the_best_in_bold(any_workdir):
  run = load(any_workdir(seeds=(0, 1, 2)))
  text, headline = terminal(run), yardstick(run).test
  assert f"{run.experiment['dataset']['name']}: mean ± standard deviation over 3 seeds" in text
  assert "FLOPs = 2 x multiply-adds" in text
  best = max(run.arms, key=lambda arm: tables.spreads(run, arm)[headline.name].mean)
  for arm in run.arms:
    row = tables.spreads(run, arm)
    shown = row[headline.name].show(headline.unit.table)
    assert row["flops"].show(si) in text
    assert (f"\x1b[1m{shown}" in text) == (arm == best)


def test_terminal_table_of_one_seed_has_intervals_and_the_signature_of_bleu(workdir):
  run = load(workdir(task="text"))
  text = terminal(run, 80)
  assert "in brackets 95% intervals" in text and f"BLEU: {run.signatures['bleu']}" in text
  for model in run.models:
    assert f"{model.test['bleu']:.1f}" in text
    assert f"[{model.test['bleu_low']:.1f},\N{NO-BREAK SPACE}{model.test['bleu_high']:.1f}]" in text


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_terminal_table_fits_eighty_columns(any_workdir, seeds):
  console = rich.console.Console(width=80, file=io.StringIO())
  console.print(tables.pareto_table(load(any_workdir(seeds=seeds))))
  lines = console.file.getvalue().splitlines()
  assert max(map(len, lines)) <= 80 and any(line.rstrip().endswith("ms") for line in lines)


def test_the_comparison_says_which_seeds_are_missing(any_workdir):
  path = any_workdir(seeds=(0, 1, 2))
  tree = json.loads((path / "results.json").read_text())
  tree["rows"] = [row for row in tree["rows"] if (row["arm"], row["seed"]) != ("linear", 2)]
  (path / "results.json").write_text(json.dumps(tree))
  run = load(path)
  cells = dict(tables.cells(run, yardstick(run).metrics))
  assert "(n=2)" in cells["linear"][0][0] and "(n=" not in cells["mixed"][0][0]


def test_terminal_table_before_anything_was_found(workdir):
  assert "one seed, so no spread" in terminal(load(workdir(until="train")))
