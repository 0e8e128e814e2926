"""Sections one by one: what they say when their data is there and when it is not."""

import json
import re

import pytest

from nasformer.report import sections
from nasformer.report.load import load


def said(section, run, drawings=()):
  return "".join(section(run, dict(drawings)))


@pytest.mark.parametrize("section", sections.SECTIONS)
@pytest.mark.parametrize("until", ["train", "search", "retrain", "evaluate"])
def test_every_section_copes_with_every_stage(any_workdir, section, until):
  assert said(section, load(any_workdir(until=until))) or section is sections.examples


def test_cards_compare_with_the_baseline(workdir):
  run = load(workdir())
  text = said(sections.first_screen, run)
  assert text.count('class="card"') == 4 and text.count("vs. baseline") == 3 and "hand-made baseline" in text
  assert "10 classes · 1 seed ·" in text


def test_series_are_told_of_as_such(workdir):
  """Their lengths, FLOPs by length and Matthews correlation; of images there are none of these."""
  path = workdir(task="series")
  run, words = load(path), ("at most 29 steps", "<h3>FLOPs by length</h3>", "14 steps", "Matthews correlation")
  text = "".join(said(section, run) for section in (sections.first_screen, sections.comparison, sections.against_cost))
  assert all(word in text for word in words) and "sentence" not in text
  images = load(workdir())
  text = "".join(said(section, images) for section in (sections.first_screen, sections.comparison, sections.against_cost))
  assert not any(word in text for word in words)


def test_cards_show_inherited_accuracy_only_until_there_is_better(workdir):
  assert "validation accuracy, inherited" in said(sections.first_screen, load(workdir(until="search")))
  assert "validation accuracy, inherited" not in said(sections.first_screen, load(workdir()))


def test_cards_of_one_seed_show_the_interval_of_bleu(workdir):
  path = workdir(task="text")
  (path / "results.json").rename(path / "kept")
  assert "95% interval" not in said(sections.first_screen, load(path))
  (path / "kept").rename(path / "results.json")
  text = said(sections.first_screen, load(path))
  assert text.count("<dt>95% interval</dt>") == 4 and text.count("<small>test BLEU, retrained</small>") == 4
  assert "95% interval" not in said(sections.first_screen, load(workdir(task="text", seeds=(0, 1))))


def test_the_words_around_the_pictures_fit_the_task(workdir):
  assert "A bar is a layer" in said(sections.architectures, load(workdir()))
  path = workdir(task="text")
  (path / "results.json").unlink()
  run = load(path)
  assert "cross-attention" in said(sections.architectures, run)
  assert "give the test BLEU" in said(sections.against_cost, run)
  assert "word by word, greedily" in said(sections.latency, run)


def test_tokenised_bleu_stands_apart(workdir):
  text = said(sections.comparison, load(workdir(task="text")))
  first, second = re.findall(r"<thead>(.*?)</thead>", text)
  assert "BLEU" in first and "tokenised" not in first and "BLEU, tokenised" in second and "chrF" in second
  assert text.index("another measure") > text.index("BLEU, tokenised")


def test_comparison_lists_every_seed_only_if_there_are_several(workdir):
  assert "Every seed" not in said(sections.comparison, load(workdir()))
  text = said(sections.comparison, load(workdir(seeds=(0, 1))))
  assert "Every seed" in text and "Mean ± standard deviation over 2 seeds" in text and "(n=" not in text


def test_effort_adds_up_over_seeds_and_bars_fill(workdir):
  text = said(sections.search, load(workdir(seeds=(0, 1), generations=2, population=6)))
  # 12 evaluated, 31 duplicates and 57 rejected in each of two seeds
  assert "<td>24</td><td>62</td><td>114</td>" in text
  assert "width:12.00%" in text and "width:31.00%" in text and "width:57.00%" in text


def test_a_limit_that_an_arm_does_not_know_counts_nothing(workdir):
  path = workdir()
  tree = json.loads((path / "winner.json").read_text())
  tree["winners"][0]["rejected"] = {}
  (path / "winner.json").write_text(json.dumps(tree))
  assert "<td>31</td><td>0</td>" in said(sections.search, load(path))


def test_agreement_is_shown_with_its_numbers(workdir):
  text = said(sections.agreement, load(workdir()), {"agreement": "<svg></svg>"})
  assert "inherited accuracy" in text and "number of parameters" in text and "(n = 4)" in text and "<svg>" in text


def test_latency_without_a_limit_has_no_second_column(workdir):
  text = said(sections.latency, load(workdir()))
  assert "in the search" not in text and "over the limit" not in text and "300 runs" in text and "batch 1" in text


def test_time_and_compilations_of_stages_add_up_and_their_parts_are_left_out(workdir):
  path = workdir()
  (path / "timings.jsonl").write_text(
      '{"stage": "train", "seconds": 3.0}\n{"stage": "train total", "seconds": 4.5, "compilations": 6}\n'
      '{"stage": "search", "chunk": 1}\n{"stage": "train total", "seconds": 1.25, "compilations": 2}\n')
  text = said(sections.training, load(path))
  assert "<td>train</td><td>5.8</td><td>8</td>" in text and text.count("<td>train</td>") == 1
  assert "<td>search</td>" not in text
