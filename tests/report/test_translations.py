"""What the page says of translations: signatures, comparisons, lengths, and which sentences are shown."""

import html
import json
import re

import pytest

from nasformer.report import translations
from nasformer.report.load import load
from nasformer.report.numbers import si
from nasformer.report.run import Texts

PARTS = (translations.signatures, translations.against_baseline, translations.lengths, translations.side_by_side)


def said(part, run):
  return "".join(part(run))


def plain(markup):
  """The text that a reader sees."""
  return html.unescape(re.sub(r"<[^>]*>", " ", markup)).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("options", [{}, {"task": "text", "until": "retrain"}])
def test_images_and_unfinished_runs_have_none_of_it(workdir, part, options):
  assert said(part, load(workdir(**options))) == ""


@pytest.mark.parametrize("part", PARTS)
def test_a_finished_translation_has_all_of_it(workdir, part):
  assert said(part, load(workdir(task="text"))) != ""


def test_signatures_stand_beside_their_scores(workdir):
  run = load(workdir(task="text"))
  text = said(translations.signatures, run)
  for label, name in (("BLEU", "bleu"), ("chrF", "chrf"), ("BLEU, tokenised", "bleu_tokenised")):
    assert f"<dt>{label}</dt><dd><code>{run.signatures[name]}</code></dd>" in text


def test_every_comparison_with_the_baseline_is_said(workdir):
  assert "seed" not in said(translations.against_baseline, load(workdir(task="text")))
  run = load(workdir(task="text", seeds=(0, 1)))
  text = plain(said(translations.against_baseline, run))
  assert text.count("p = 0.01") + text.count("p = 0.4") == 6 and "mixed, seed 1" in text
  (model, *_) = run.of("mixed")
  assert f"better by {model.against_baseline['difference']:.1f} BLEU [" in text


def test_flops_are_given_for_each_length(workdir):
  path = workdir(task="text")
  run = load(path)
  text = said(translations.lengths, run)
  assert re.findall(r'<th scope="col">(.*?)</th>', text) == [
      "arm", "10 tokens", "30 tokens", "100 tokens", "300 tokens", "1,000 tokens"]
  for model in run.models:
    cells = "".join(f"<td>{si(flops)}</td>" for flops in model.flops_by_length.values())
    assert cells in text
  tree = json.loads((path / "results.json").read_text())
  del tree["rows"][0]["flops_by_length"]
  (path / "results.json").write_text(json.dumps(tree))
  assert said(translations.lengths, load(path)).count("<td>–</td>") == 5


# -- examples ----------------------------------------------------------------------------------------------------------


def texts(sources, **outputs):
  return Texts(0, tuple(sources), tuple("r" for _ in sources), {arm: tuple(lines) for arm, lines in outputs.items()})


def test_the_sentences_that_differ_most_come_first_and_then_short_ones():
  sources = ["x" * (i + 1) for i in range(40)]
  same = ["a b c d"] * 40
  other = list(same)
  other[12], other[20], other[25] = "a b c e", "e f g h", "a b e f"  # 1, 4 and 2 of 4 words differ
  other[2], other[38] = "e f g h", "e f g h"  # too short, too long
  found = translations.chosen(texts(sources, one=same, two=other))
  # then the first of the middle half, positions 10 to 29, and those 5, 10 and 20% of the way: 2, 4 and 8
  assert found == (20, 25, 12, 10, 11, 2, 4, 8)


def test_the_order_of_the_systems_and_of_their_words_does_not_matter():
  sources = ["s"] * 12
  one, two = ["a b"] * 12, ["b a"] * 11 + ["c"]
  found = translations.chosen(texts(sources, one=one, two=two))
  assert found == translations.chosen(texts(sources, two=two, one=one)) and len(found) == len(set(found))
  assert translations.chosen(texts(sources, one=one))[:3] == (3, 4, 5)  # one system alone: as they come


@pytest.mark.parametrize("num", [1, 2, 3, 7])
def test_few_sentences_are_all_that_is_shown(num):
  found = translations.chosen(texts(["s"] * num, one=[""] * num, two=["a"] * num))
  assert len(found) == len(set(found)) and set(found) <= set(range(num))


def test_examples_show_source_reference_and_every_output(workdir):
  run = load(workdir(task="text"))
  text = plain(said(translations.side_by_side, run))
  for index in translations.chosen(run.texts):
    for lines in (run.texts.sources, run.texts.references, *run.texts.outputs.values()):
      assert " ".join(lines[index].split()) in " ".join(text.split())
  assert "<now>" in text and "seed" not in text


def test_examples_are_escaped_and_equal_outputs_share_a_line(workdir):
  path = workdir(task="text")
  for name, line in (("source", "a <b> & c"), ("reference", 'ein <i lang="x">'), ("mixed/seed0", 'ein <i lang="x"> '),
                     ("softmax/seed0", ""), ("linear/seed0", ""), ("baseline/seed0", "<script>")):
    (path / f"outputs/{name}.txt").write_text(line + "\n")
  text = said(translations.side_by_side, load(path))
  assert "<script" not in text and "&lt;script&gt;" in text and "a &lt;b&gt; &amp; c" in text and "<i" not in text
  assert text.count("✓") == 1 and text.count("(nothing)") == 1 and text.count("<dt>") == 5
  assert '<dd lang="en" dir="auto">a &lt;b&gt;' in text


def test_examples_are_of_the_first_seed_and_say_so(workdir):
  path = workdir(task="text", seeds=(3, 5))
  assert "Networks of seed 3." in said(translations.side_by_side, load(path))
  for arm in ("mixed", "softmax", "linear", "baseline"):
    (path / f"outputs/{arm}/seed3.txt").unlink()
  assert said(translations.side_by_side, load(path)) == ""
