"""Translation scores against hand-counted n-grams and against sacreBLEU's own scores and tests."""

import math
import socket

import numpy as np
import pytest
import sacrebleu
from sacrebleu.significance import PairedTest

from nasformer.ops import bleu
from nasformer.types import UserError

WORDS = "der die das Haus Baum rot-weiß blau geht steht , und nicht".split()


def corpus(num=200, seed=0):
  """Random sentences as references."""
  rng = np.random.default_rng(seed)
  return [" ".join(rng.choice(WORDS, rng.integers(5, 25))) + "." for _ in range(num)]


def noisy(lines, rate, seed):
  """The lines with a share of their words replaced."""
  rng = np.random.default_rng(seed)
  return [" ".join(word if rng.random() > rate else "xyz" for word in line.split()) for line in lines]


# -- scores ------------------------------------------------------------------------------------------------------------


def test_bleu_by_hand():
  """Of "a b c d e x" in "a b c d e f": 5 of 6 words, 4 of 5 pairs, 3 of 4 triples, 2 of 3 quadruples; equal length."""
  wanted = 100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** (1 / 4)
  found = bleu.scores(["a b c d e x"], ["a b c d e f"], "de")
  assert found["bleu"] == pytest.approx(wanted) and found["bleu_tokenised"] == pytest.approx(wanted)
  assert found["exact_match"] == 0


def test_short_translation_pays_the_brevity_penalty():
  """Every n-gram of the 5 words is right, so only exp(1 - 8 / 5) is left."""
  found = bleu.scores(["a b c d e"], ["a b c d e f g h"], "en")
  assert found["bleu"] == pytest.approx(100 * math.exp(1 - 8 / 5))


def test_chrf_by_hand():
  """"abc" in "abd": 2 of 3 letters, 1 of 2 pairs, 0 of 1 triples; precision is recall, so F is their mean."""
  assert bleu.scores(["abc"], ["abd"], "en")["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_perfect_and_empty_translations():
  references = corpus(20)
  perfect = bleu.scores(references, references, "de")
  assert perfect.pop("exact_match") == 1 and list(perfect.values()) == pytest.approx([100.0] * 3)
  assert set(bleu.scores([""] * 20, references, "de").values()) == {0.0}
  some = bleu.scores(["", *references[1:]], references, "de")
  assert 0 < some["bleu"] < 100 and some["exact_match"] == 19 / 20


def test_case_and_outer_spaces():
  assert bleu.scores(["Das ist ein Haus ."], ["das ist ein Haus ."], "de")["bleu"] < 100
  assert bleu.scores([" Das Haus\n"], ["Das Haus"], "de")["exact_match"] == 1


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_scores_equal_those_of_sacrebleu(rate):
  references = corpus()
  hypotheses = noisy(references, rate, 1)
  found = bleu.scores(hypotheses, references, "de")
  assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references]).score, abs=1e-9)
  assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(hypotheses, [references]).score, abs=1e-9)
  tokens = [bleu.split_compounds(lines, "de") for lines in (hypotheses, references)]
  wanted = sacrebleu.corpus_bleu(tokens[0], [tokens[1]], tokenize="none", force=True).score
  assert found["bleu_tokenised"] == pytest.approx(wanted, abs=1e-9)


def test_compounds_are_split_inside_tokens_only():
  lines = ["Die rot-weiße Fahne, ja!", "eins - zwei", "Nord-Süd-Achse", "-5 Grad", "„so“ & <so>", ""]
  assert bleu.split_compounds(lines, "de") == [
      "Die rot ##AT##-##AT## weiße Fahne , ja !", "eins - zwei", "Nord ##AT##-##AT## Süd ##AT##-##AT## Achse",
      "-5 Grad", "„ so “ & < so >", "",
  ]


def test_moses_rules_follow_the_language():
  assert bleu.split_compounds(["l'eau"], "fr") == ["l' eau"]
  assert bleu.split_compounds(["Peter's"], "en") == ["Peter 's"]


def test_half_a_compound_is_half_right():
  """Split, only the fifth of 8 tokens is wrong: right are 7 of 8 words, 5 of 7 pairs, 3 of 6 triples, 1 quadruple."""
  found = bleu.scores(["das ist rot-blau und sehr schön"], ["das ist rot-weiß und sehr schön"], "de")
  assert found["bleu_tokenised"] == pytest.approx(100 * (7 / 8 * 5 / 7 * 3 / 6 * 1 / 5) ** (1 / 4))
  assert found["bleu_tokenised"] > found["bleu"]


def test_signatures_are_those_of_sacrebleu():
  found = bleu.signatures("de")
  assert list(found) == ["bleu", "chrf", "bleu_tokenised"]
  for name, metric in ("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF()):
    metric.corpus_score(["a"], [["a"]])
    assert found[name] == str(metric.get_signature())
  assert "tok:moses-de-" in found["bleu_tokenised"] and "+compounds|" in found["bleu_tokenised"]


def test_no_network(monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("a connection was tried")

  monkeypatch.setattr(socket.socket, "connect", refuse)
  bleu.scores(["ein Haus"], ["ein Haus"], "de")
  bleu.signatures("cs")


# -- bootstrap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "scorer"), [("bleu", sacrebleu.BLEU), ("chrf", sacrebleu.CHRF)])
def test_bootstrap_equals_sacrebleu_on_the_same_draws(monkeypatch, metric, scorer):
  """sacreBLEU adds up the drawn lines in float32 and reports half the width of the same interval."""
  monkeypatch.setenv("SACREBLEU_SEED", "7")
  references = corpus()
  hypotheses = noisy(references, 0.2, 1)
  theirs = scorer().corpus_score(hypotheses, [references], n_bootstrap=200)
  mean, low, high = bleu.bootstrap(hypotheses, references, metric, num_samples=200, seed=7)
  assert mean == pytest.approx(theirs._mean, abs=1e-3) and (high - low) / 2 == pytest.approx(theirs._ci, abs=1e-3)
  assert low < theirs.score < high


def test_bootstrap_by_scoring_the_drawn_lines_again():
  references = corpus(30)
  hypotheses = noisy(references, 0.2, 1)
  rng = np.random.default_rng(3)
  drawn = []
  for _ in range(50):
    rows = rng.integers(30, size=30)
    drawn.append(sacrebleu.corpus_bleu([hypotheses[i] for i in rows], [[references[i] for i in rows]]).score)
  drawn.sort()
  wanted = np.mean(drawn), drawn[1], drawn[-2]
  assert bleu.bootstrap(hypotheses, references, num_samples=50, seed=3) == pytest.approx(wanted, abs=1e-9)


def test_seed_decides_the_draws():
  references = corpus(50)
  hypotheses, other = noisy(references, 0.2, 1), noisy(references, 0.25, 2)
  one, two, three = (bleu.bootstrap(hypotheses, references, num_samples=50, seed=seed) for seed in (0, 0, 1))
  assert one == two and one != three
  assert bleu.paired(hypotheses, other, references, num_samples=50) == bleu.paired(
      hypotheses, other, references, num_samples=50, seed=0)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_identical_systems_do_not_differ(metric):
  references = corpus(50)
  same = noisy(references, 0.2, 1)
  assert bleu.paired(same, same, references, metric, num_samples=100) == {
      "difference": 0, "low": 0, "high": 0, "p_value": 1}


def test_equally_good_systems_do_not_differ():
  references = corpus()
  found = bleu.paired(noisy(references, 0.2, 1), noisy(references, 0.2, 2), references, num_samples=200)
  assert found["low"] < 0 < found["high"] and found["p_value"] > 0.1


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_clearly_better_system_is_significant(metric):
  references = corpus()
  good, bad = noisy(references, 0.1, 1), noisy(references, 0.3, 2)
  found = bleu.paired(good, bad, references, metric, num_samples=200)
  assert found["p_value"] == 1 / 201 and 0 < found["low"] < found["difference"] < found["high"]
  back = bleu.paired(bad, good, references, metric, num_samples=200)
  assert back == {"difference": -found["difference"], "low": -found["high"], "high": -found["low"],
                  "p_value": found["p_value"]}


def test_p_value_beside_that_of_sacrebleu(monkeypatch):
  """For a clear difference sacreBLEU counts the draws d_b - m > d, one of our two tails on the same draws."""
  monkeypatch.setenv("SACREBLEU_SEED", "7")
  references = corpus()
  system, baseline = noisy(references, 0.2, 1), noisy(references, 0.22, 2)
  table = PairedTest([("baseline", baseline), ("system", system)], {"BLEU": sacrebleu.BLEU()}, [references],
                     test_type="bs", n_samples=1000)()[1]
  theirs = table["BLEU"][1].p_value
  found = bleu.paired(system, baseline, references, num_samples=1000, seed=7)
  assert 0.005 < theirs < 0.1, "the example should be neither clear nor hopeless"
  assert 1.5 * theirs < found["p_value"] < 2.5 * theirs
  assert found["difference"] == pytest.approx(table["BLEU"][1].score - table["BLEU"][0].score, abs=1e-9)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [["a"], ["a", "b", "c"]])
def test_one_reference_for_each_line(lines):
  message = f"{len(lines)} lines of {{}} for 2 references"
  with pytest.raises(UserError, match=message.format("hypotheses")):
    bleu.scores(lines, ["a", "b"], "de")
  with pytest.raises(UserError, match=message.format("hypotheses")):
    bleu.bootstrap(lines, ["a", "b"])
  with pytest.raises(UserError, match=message.format("baseline")):
    bleu.paired(["a", "b"], lines, ["a", "b"])


def test_nothing_to_score():
  with pytest.raises(UserError, match="at least 1 line"):
    bleu.scores([], [], "de")


@pytest.mark.parametrize("metric", ["bleu_tokenised", "ter"])
def test_unknown_metric(metric):
  with pytest.raises(UserError, match=f"'{metric}': 'bleu' and 'chrf'"):
    bleu.bootstrap(["a"], ["a"], metric)
