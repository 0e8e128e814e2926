"""The report as a whole: what is on the page, what lies beside it, and that it stands alone."""

import csv
import json
import re

import pytest

from nasformer.report import page
from nasformer.report.load import load
from nasformer.types import UserError

LAST = ("The search", "Does the supernet rank networks as retraining does?", "Measured latency", "Training",
        "How to get these numbers again")
LAYERS = "What was chosen in each layer"
HEADINGS = {"images": ("Comparison", "Accuracy against cost", LAYERS, *LAST),
            "text": ("Comparison", "BLEU against cost", LAYERS, "Translations side by side", *LAST)}
ALONE = ("fronts", "retrained", "best", "hypervolume", "agreement", "latency", "supernet_loss", "retrain_loss")


def written(path):
  return {file.name: file.read_bytes() for file in sorted((path / "report").iterdir())}


@pytest.mark.parametrize("task", HEADINGS)
def test_everything_is_there(workdir, task):
  path = workdir(seeds=(0, 1, 2), task=task)
  assert page.write(path) == path / "report" / "index.html"
  names = set(written(path))
  assert {f"{name}.png" for name in ALONE} | {f"layers_{arm}.png" for arm in load(path).arms} <= names
  assert {f"{name}.csv" for name in page.SHEETS} <= names and not any(name.endswith(".part") for name in names)
  text = (path / "report" / "index.html").read_text()
  assert re.findall("<h2>(.*?)</h2>", text) == list(HEADINGS[task])
  assert text.count("<svg ") == len(ALONE) + 4 and "Not here yet" not in text


def test_the_page_needs_no_network(any_workdir):
  text = page.write(any_workdir()).read_text()
  assert not re.search(r"https?://|src=|<link|<script|@import|url\((?!#)", text)


def test_ids_are_unique_and_every_reference_is_met(any_workdir):
  text = page.write(any_workdir(seeds=(0, 1))).read_text()
  ids = re.findall(r' id="([^"]*)"', text)
  used = set(re.findall(r'href="#([^"]*)"', text)) | set(re.findall(r"url\(#([^)]*)\)", text))
  assert len(ids) == len(set(ids)) and used <= set(ids)


def test_the_page_says_what_honesty_asks_for(workdir):
  path = workdir(seeds=(0, 1, 2), limits={"flops": 1e6, "latency_ms": 0.7})
  text = page.write(path).read_text()
  experiment = json.loads((path / "experiment.json").read_text())
  for fact in ("counting", "device", "commit"):
    assert experiment[fact] in text
  assert experiment["dataset"]["note"] in text and "1,077 training, 360 validation, 360 test" in text
  assert "--workdir=runs/my run&#x27;" in text and "jax 0.10.2" in text and "0, 1, 2" in text
  assert "Limits: flops at most 1M, latency_ms at most 0.7." in text
  assert text.count("<td>171</td>") == 2 * 3  # 57 turned away by either limit, in three seeds of three arms
  assert "The limit was 0.700 ms." in text and "<b>over the limit</b>" in text and "in the search" in text


def test_the_page_of_a_translation_says_how_it_was_scored(workdir):
  path = workdir(task="text")
  text = page.write(path).read_text()
  for signature in json.loads((path / "results.json").read_text())["signatures"].values():
    assert signature in text
  experiment = json.loads((path / "experiment.json").read_text())
  assert experiment["counting"] in text and experiment["dataset"]["note"] in text
  assert "2,000 training, 400 validation, 40 test sentences · en to de · vocabulary of 512 tokens" in text
  assert "bars are 95% intervals" in text and "6.238 nats per token (guessing)" in text  # ln 512
  assert "accuracy" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.S).lower()


def test_tables_hold_the_numbers_of_the_results(workdir):
  path = workdir()
  text = page.write(path).read_text()
  rows = list(csv.DictReader((path / "report" / "results.csv").read_text().splitlines()))
  for row, result in zip(rows, json.loads((path / "results.json").read_text())["rows"], strict=True):
    assert float(row["test_retrained"]) == result["retrained"]["test"]["accuracy"]
    assert f"{100 * result['retrained']['test']['accuracy']:.2f}%" in text


@pytest.mark.parametrize("until", ["train", "evaluate"])
def test_the_same_files_give_the_same_bytes(any_workdir, until):
  path = any_workdir(until=until, generations=2, population=6)
  page.write(path)
  first = written(path)
  page.write(path)
  assert written(path) == first


@pytest.mark.parametrize("until, gaps", [("train", 6), ("search", 3), ("retrain", 3)])
def test_what_has_not_run_yet_is_named(workdir, until, gaps):
  text = page.write(workdir(until=until)).read_text()
  assert re.findall("<h2>(.*?)</h2>", text) == list(HEADINGS["images"])
  assert text.count("Not here yet") == gaps


@pytest.mark.parametrize("options", [
    {"generations": 1, "population": 1}, {"limits": {}}, {"arms": ("linear",)}, {"seeds": (7,)}])
def test_small_and_unusual_runs(any_workdir, options):
  text = page.write(any_workdir(**options)).read_text()
  assert "nan" not in re.sub(r"<[^>]*>", " ", text).lower().split()
  assert ("No limit was set" in text) == ("limits" in options)


def test_equal_scores_have_no_best_column(workdir):
  path = workdir(generations=2, population=4)
  tree = json.loads((path / "results.json").read_text())
  for row in tree["rows"]:
    row["retrained"] = {"val": {"accuracy": 1.0, "loss": 0.0}, "test": {"accuracy": 1.0, "loss": 0.0}}
  (path / "results.json").write_text(json.dumps(tree))
  text = page.write(path).read_text()
  assert "are level on test accuracy" in text and "<b>100.00%</b>" not in text and "100.00%" in text


def test_names_are_escaped(workdir):
  path = workdir()
  tree = json.loads((path / "experiment.json").read_text())
  tree["dataset"]["name"], tree["commit"] = "<digits> & co", None
  (path / "experiment.json").write_text(json.dumps(tree))
  text = page.write(path).read_text()
  assert "&lt;digits&gt; &amp; co" in text and "<digits>" not in text and "not run from a git checkout" in text


def test_a_directory_without_a_run_is_refused_before_anything_is_written(tmp_path):
  with pytest.raises(UserError, match="experiment.json"):
    page.write(tmp_path)
  assert not list(tmp_path.iterdir())
