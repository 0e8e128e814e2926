"""The report as a whole: what is on the page, what lies beside it, and that it stands alone."""

import csv
import json
import re
import shutil

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


def html(path):
  return (path / "report" / "index.html").read_text()


def written(path):
  return {file.name: file.read_bytes() for file in sorted((path / "report").iterdir())}


over_tasks = pytest.mark.parametrize("task", HEADINGS)


@over_tasks
def test_everything_is_there(finished_page, task):
  path = finished_page(task)
  names = set(written(path))
  assert {f"{name}.png" for name in ALONE} | {f"layers_{arm}.png" for arm in load(path).arms} <= names
  assert {f"{name}.csv" for name in page.SHEETS} <= names and not any(name.endswith(".part") for name in names)
  text = html(path)
  assert re.findall("<h2>(.*?)</h2>", text) == list(HEADINGS[task])
  assert text.count("<svg ") == len(ALONE) + 4 and "Not here yet" not in text


@over_tasks
def test_the_page_needs_no_network(finished_page, task):
  assert not re.search(r"https?://|src=|<link|<script|@import|url\((?!#)", html(finished_page(task)))


@over_tasks
def test_ids_are_unique_and_every_reference_is_met(finished_page, task):
  text = html(finished_page(task))
  ids = re.findall(r' id="([^"]*)"', text)
  used = set(re.findall(r'href="#([^"]*)"', text)) | set(re.findall(r"url\(#([^)]*)\)", text))
  assert len(ids) == len(set(ids)) and used <= set(ids)


def test_the_page_says_what_honesty_asks_for(finished_page):
  path = finished_page("images")
  text, experiment = html(path), json.loads((path / "experiment.json").read_text())
  for fact in ("counting", "device", "commit"):
    assert experiment[fact] in text
  assert experiment["dataset"]["note"] in text and "1,077 training, 360 validation, 360 test" in text
  assert "--workdir=runs/my run&#x27;" in text and "jax 0.10.2" in text and "0, 1, 2" in text
  assert "Limits: flops at most 1M, latency_ms at most 0.7." in text
  assert text.count("<td>171</td>") == 2 * 3  # 57 turned away by either limit, in three seeds of three arms
  assert "The limit was 0.700 ms." in text and "<b>over the limit</b>" in text and "in the search" in text


def test_the_page_of_a_translation_says_how_it_was_scored(finished_page):
  path = finished_page("text")
  text, experiment = html(path), json.loads((path / "experiment.json").read_text())
  for signature in json.loads((path / "results.json").read_text())["signatures"].values():
    assert signature in text
  assert experiment["counting"] in text and experiment["dataset"]["note"] in text
  assert "2,000 training, 400 validation, 40 test sentences · en to de · vocabulary of 512 tokens" in text
  assert "bars are 95% intervals" in text and "6.238 nats per token (guessing)" in text  # ln 512
  assert "accuracy" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.S).lower()


@pytest.fixture
def plain(workdir, monkeypatch):
  """A function (**options) -> work directory; its page will be without pictures."""
  monkeypatch.setattr(page, "pictures", lambda run: {})
  return workdir


def test_tables_hold_the_numbers_of_the_results(plain):
  path = plain()
  text = page.write(path).read_text()
  rows = list(csv.DictReader((path / "report" / "results.csv").read_text().splitlines()))
  for row, result in zip(rows, json.loads((path / "results.json").read_text())["rows"], strict=True):
    assert float(row["test_retrained"]) == result["retrained"]["test"]["accuracy"]
    assert f"{100 * result['retrained']['test']['accuracy']:.2f}%" in text


@pytest.mark.parametrize("task", ["text", pytest.param("images", marks=pytest.mark.slow)])
def test_the_same_files_give_the_same_bytes(finished_page, task, tmp_path):
  path = shutil.copytree(finished_page(task), tmp_path / "run")
  page.write(path)
  assert written(path) == written(finished_page(task))


def test_half_a_run_gives_the_same_bytes(any_workdir):
  path = any_workdir(until="train")
  page.write(path)
  first = written(path)
  page.write(path)
  assert written(path) == first


@pytest.mark.parametrize("until, gaps", [("train", 6), ("search", 3), ("retrain", 3)])
def test_what_has_not_run_yet_is_named(workdir, until, gaps):
  text = page.write(workdir(until=until, generations=2, population=6)).read_text()
  assert re.findall("<h2>(.*?)</h2>", text) == list(HEADINGS["images"])
  assert text.count("Not here yet") == gaps


@pytest.mark.parametrize("task, options", [
    ("images", {"generations": 1, "population": 1, "limits": {}}),
    ("text", {"arms": ("linear",), "seeds": (7,), "generations": 2}),
    ("series", {"generations": 1, "population": 1, "limits": {}, "arms": ("linear",), "seeds": (7,)})])
def test_small_and_unusual_runs(workdir, task, options):
  text = page.write(workdir(task=task, **options)).read_text()
  assert "nan" not in re.sub(r"<[^>]*>", " ", text).lower().split()
  assert ("No limit was set" in text) == ("limits" in options)


def test_equal_scores_have_no_best_column(plain):
  path = plain(generations=2, population=4)
  tree = json.loads((path / "results.json").read_text())
  for row in tree["rows"]:
    row["retrained"] = {"val": {"accuracy": 1.0, "loss": 0.0}, "test": {"accuracy": 1.0, "loss": 0.0}}
  (path / "results.json").write_text(json.dumps(tree))
  text = page.write(path).read_text()
  assert "are level on test accuracy" in text and "<b>100.00%</b>" not in text and "100.00%" in text


def test_names_are_escaped(plain):
  path = plain()
  tree = json.loads((path / "experiment.json").read_text())
  tree["dataset"]["name"], tree["commit"] = "<digits> & co", None
  (path / "experiment.json").write_text(json.dumps(tree))
  text = page.write(path).read_text()
  assert "&lt;digits&gt; &amp; co" in text and "<digits>" not in text and "not run from a git checkout" in text


def test_a_directory_without_a_run_is_refused_before_anything_is_written(tmp_path):
  with pytest.raises(UserError, match="experiment.json"):
    page.write(tmp_path)
  assert not list(tmp_path.iterdir())
