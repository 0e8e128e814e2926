"""The rules that choose a winner, on trials made up by hand."""

import pytest

from nasformer.search.winner import best, within_error

NAN, INF = float("nan"), float("inf")


def trial(fitness, accuracy, flops, genes=(0,)):
  return {"fitness": fitness, "accuracy": accuracy, "flops": flops, "genes": list(genes)}


def test_highest_finite_then_cheapest_then_first_genes():
  assert best([trial(1, 0, 5), trial(2, 0, 9), trial(NAN, 0, 1), trial(INF, 0, 1)])["fitness"] == 2
  assert best([trial(2, 0, 9), trial(2, 0, 5)])["flops"] == 5
  assert best([trial(2, 0, 5, (1, 0)), trial(2, 0, 5, (0, 1))])["genes"] == [0, 1]
  assert best([trial(1, 0.5, 1), trial(0, NAN, 1), trial(0, 0.7, 9)], "accuracy")["accuracy"] == 0.7


def test_one_standard_error():
  """At accuracy 0.9 on 900 examples the error is 0.3 / 30 = 0.01."""
  archive = [trial(0, 0.9, 9), trial(0, 0.893, 5), trial(0, 0.885, 2), trial(0, 0.5, 1)]
  assert within_error(archive, 900)["flops"] == 5
  assert within_error(archive, 900, num_errors=2)["flops"] == 2
  assert within_error(archive, 900, num_errors=0)["flops"] == 9


def test_nothing_to_choose_from():
  for archive in ([], [trial(NAN, 0.5, 1), trial(-INF, 0.5, 1)]):
    with pytest.raises(ValueError, match=f"none of {len(archive)} trials has a finite fitness"):
      best(archive)
