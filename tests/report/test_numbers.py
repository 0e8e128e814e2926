"""Numbers as people read them."""

import math

import pytest

from nasformer.report import numbers


def test_spread_is_the_sample_deviation_of_what_is_known():
  found = numbers.spread([1.0, None, 2.0, 3.0])
  assert found == numbers.Spread(2.0, 1.0, 3)  # √((1 + 0 + 1) / 2)
  assert numbers.spread([0.5]) == numbers.Spread(0.5, None, 1)
  assert numbers.spread([None]) is None


@pytest.mark.parametrize("value, std, text", [
    (0, None, "0"), (7, None, "7"), (999, None, "999"), (1000, None, "1k"), (42_000, None, "42k"),
    (36_805, 809.0, "36.8k ± 0.8k"), (772_918, 16_981.0, "773k ± 17k"), (999_600, None, "1M"),
    (1_234_567, 0.0, "1.23M"), (2.5e9, None, "2.5G"),
    (5e15, None, "5000T"), (0.25, None, "0.25"), (-1500, None, "-1.5k"), (math.nan, None, "nan"),
])
def test_si(value, std, text):
  assert numbers.si(value, std) == text


def test_units_share_decimals_between_mean_and_deviation():
  assert numbers.percent(0.975) == "97.5%"
  assert numbers.percent(0.975, 0.0031) == "97.5 ± 0.3%"
  assert numbers.percent2(0.97512, 0.0031) == "97.51 ± 0.31%"
  assert numbers.percent(1.0, 0.0) == "100.0%"
  assert numbers.tenths(27.31, 0.24) == "27.3 ± 0.2" and numbers.thousandths(2.10449) == "2.104"
  assert numbers.milliseconds(0.6693, 0.0091) == "0.669 ± 0.009 ms"
  assert numbers.milliseconds(12.345) == "12.3 ms"
  assert numbers.milliseconds(1234.5) == "1234 ms"
  assert numbers.three_digits(0.68) == "0.680" and numbers.three_digits(0) == "0"


@pytest.mark.parametrize("ours, theirs, text", [
    (100, 210, "2.1× fewer FLOPs"), (210, 100, "2.1× more FLOPs"), (80, 100, "20% fewer FLOPs"),
    (112, 100, "12% more FLOPs"), (101, 100, "as many FLOPs"), (0, 100, "as many FLOPs"),
])
def test_compared(ours, theirs, text):
  assert numbers.compared(ours, theirs, "FLOPs") == text


def test_intervals_stay_on_one_line():
  assert numbers.interval(-0.31, 1.42, numbers.tenths) == "[−0.3,\N{NO-BREAK SPACE}1.4]"


@pytest.mark.parametrize("text, lower", [
    ("Test accuracy, retrained", "test accuracy, retrained"), ("FLOPs", "FLOPs"),
    ("BLEU, tokenised", "BLEU, tokenised"), ("chrF", "chrF"), ("", "")])
def test_labels_become_part_of_a_sentence(text, lower):
  assert numbers.lower_first(text) == lower
