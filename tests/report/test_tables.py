"""The rows behind the report, against the files and against numbers derived here."""

import csv
import io
import json
import statistics

import numpy as np
import pytest
import rich.console

from nasformer.report import tables
from nasformer.report.load import load
from nasformer.report.numbers import percent2, si


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
    assert [float(row[k]) for k in ("latency_ms", "latency_p10_ms", "latency_p90_ms")] == \
        [latency[k] for k in ("median_ms", "p10_ms", "p90_ms")]
    assert int(row["depth"]) == len(result["spec"]["layers"])


def test_summary_is_mean_and_sample_deviation(workdir):
  run = load(workdir(seeds=(0, 1, 2)))
  for row in tables.summary(run):
    values = [model.test_retrained for model in run.of(row["arm"])]
    assert row["seeds"] == 3
    assert row["test_retrained_mean"] == pytest.approx(statistics.mean(values))
    assert row["test_retrained_std"] == pytest.approx(statistics.stdev(values))


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
  assert tables.front(accuracy, flops).tolist() == [1, 0, 4]


def test_fronts_come_from_the_trials(workdir):
  run = load(workdir(seeds=(0, 1), generations=3, population=10))
  rows = tables.fronts(run)
  assert {(row["arm"], row["seed"]) for row in rows} == {(t.arm, t.seed) for t in run.trials}
  for trials in run.trials:
    mine = [row for row in rows if (row["arm"], row["seed"]) == (trials.arm, trials.seed)]
    for row in mine:
      better = (trials.accuracy >= row["val_inherited"]) & (trials.flops < row["flops"])
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


def test_progress_never_falls(workdir):
  rows = tables.progress(load(workdir(seeds=(0, 1))))
  for one, two in zip(rows, rows[1:]):
    if (one["arm"], one["seed"]) == (two["arm"], two["seed"]):
      assert two["best_fitness"] >= one["best_fitness"] and two["hypervolume"] >= one["hypervolume"]
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


def test_agreement_is_not_claimed_without_retraining_or_without_differences(workdir):
  assert tables.agreement(load(workdir(until="search"))) == []
  path = workdir()
  tree = json.loads((path / "results.json").read_text())
  for row in tree["rows"]:
    row["retrained"]["val"]["accuracy"] = 0.9
  (path / "results.json").write_text(json.dumps(tree))
  assert all(row["tau_all"] is None for row in tables.agreement(load(path)))


def test_terminal_table_has_a_row_per_arm_with_the_best_in_bold(workdir):
  run = load(workdir(seeds=(0, 1, 2)))
  text = terminal(run)
  assert "digits: mean ± standard deviation over 3 seeds" in text and "FLOPs = 2 x multiply-adds" in text
  best = max(run.arms, key=lambda arm: tables.spreads(run, arm)["test_retrained"].mean)
  for arm in run.arms:
    row = tables.spreads(run, arm)
    shown = row["test_retrained"].show(percent2)
    assert row["flops"].show(si) in text
    assert (f"\x1b[1m{shown}" in text) == (arm == best)


def test_terminal_table_fits_eighty_columns_and_says_which_seeds_are_missing(workdir):
  path = workdir(seeds=(0, 1, 2))
  tree = json.loads((path / "results.json").read_text())
  tree["rows"] = [row for row in tree["rows"] if (row["arm"], row["seed"]) != ("linear", 2)]
  (path / "results.json").write_text(json.dumps(tree))
  run = load(path)
  assert "(n=2)" in dict(tables.cells(run))["linear"][0][0] and "(n=" not in dict(tables.cells(run))["mixed"][0][0]
  console = rich.console.Console(width=80, file=io.StringIO())
  console.print(tables.pareto_table(run))
  lines = console.file.getvalue().splitlines()
  assert max(map(len, lines)) <= 80 and any(line.rstrip().endswith("ms") for line in lines)


def test_terminal_table_before_anything_was_found(workdir):
  assert "one seed, so no spread" in terminal(load(workdir(until="train")))
