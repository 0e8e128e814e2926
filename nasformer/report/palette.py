"""Colours and markers of arms and attention kinds, the same in every picture and table.

The colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind readers can tell apart; an
attention kind has the colour of the arm named after it.
"""

from typing import Iterable

COLOURS = {"mixed": "#009E73", "softmax": "#0072B2", "linear": "#D55E00", "baseline": "#333333"}
MARKERS = {"mixed": "o", "softmax": "s", "linear": "^", "baseline": "D"}
SPARE_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7A5195", "#999999")
SPARE_MARKERS = ("v", "p", "<", "h", ">", "8")

INK, SOFT, RULE, FAINT = "#202124", "#5F6368", "#BDC1C6", "#E8EAED"


def colour(name: str, names: Iterable[str]) -> str:
  """Colour of an arm or kind; those of `names` without one of their own share out the spare ones."""
  return _own_or_spare(name, names, COLOURS, SPARE_COLOURS)


def marker(name: str, names: Iterable[str]) -> str:
  """Marker of an arm, as matplotlib writes it; given out like the colours."""
  return _own_or_spare(name, names, MARKERS, SPARE_MARKERS)


def ink_on(background: str) -> str:
  """Dark or white, whichever contrasts more with a colour (relative luminance after WCAG 2.1)."""
  return INK if (_luminance(background) + 0.05) ** 2 > 1.05 * (_luminance(INK) + 0.05) else "#FFFFFF"


def _luminance(colour: str) -> float:
  parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
  linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
  return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


def _own_or_spare(name: str, names: Iterable[str], own: dict[str, str], spare: tuple[str, ...]) -> str:
  if name in own:
    return own[name]
  return spare[sorted(set(names) - set(own)).index(name) % len(spare)]
