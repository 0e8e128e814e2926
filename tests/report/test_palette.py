"""Colours and markers are fixed for the usual names and distinct for the others."""

import pytest

from nasformer.report import palette

OTHERS = ("cosine", "performer", "relu", "window")


@pytest.mark.parametrize("look", [palette.colour, palette.marker])
def test_names_are_told_apart(look):
  names = ("mixed", "softmax", "linear", "baseline", *OTHERS)
  assert len({look(name, names) for name in names}) == len(names)


@pytest.mark.parametrize("look", [palette.colour, palette.marker])
def test_the_usual_names_never_change_and_order_does_not_matter(look):
  assert look("mixed", ["mixed"]) == look("mixed", ["mixed", *OTHERS])
  assert look("relu", OTHERS) == look("relu", OTHERS[::-1])


def test_more_names_than_colours_go_round():
  names = [f"arm{i:02}" for i in range(9)]
  assert {palette.colour(name, names) for name in names} == set(palette.SPARE_COLOURS)


@pytest.mark.parametrize("background, ink", [
    ("#FFFFFF", palette.INK), ("#000000", "#FFFFFF"), ("#0072B2", "#FFFFFF"), ("#56B4E9", palette.INK)])
def test_writing_can_be_read_on_its_background(background, ink):
  assert palette.ink_on(background) == ink
