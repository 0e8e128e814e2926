"""Numbers written out in two languages: nothing to download, right by construction, good for tests and first tries.

Written by num2words (https://github.com/savoirfairelinux/num2words, LGPL 2.1), quirks included: its Czech has no
ordinals and few currencies, so that pairs with Czech have neither ordinals nor dates, and euros only.
"""

import dataclasses
import decimal
import pathlib
from typing import Callable, ClassVar

import num2words
import numpy as np

from nasformer.data import base, pairs
from nasformer.data.parallel import Parallel, check_pair
from nasformer.types import UserError

LANGUAGES = ("en", "de", "fr", "cs")
PAIRS = [pair for other in LANGUAGES[1:] for pair in (("en", other), (other, "en"))]
FORMS = ("cardinal", "ordinal", "year", "date", "money")
MONTHS = {
    "en": "January February March April May June July August September October November December".split(),
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split(),
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split(),
}
MAX_SIZE = 100_000  # beyond, it takes long to find numbers that were not drawn before
NOTE = ("Numbers, years, dates and amounts of money written out by num2words, drawn at random; no number of val or "
        "test is written in the same form in training")

Draw = Callable[[int], int]  # a random number below the one that it is called with


@dataclasses.dataclass(frozen=True)
class Numbers(Parallel):
  """Numbers written out in English and German, French or Czech: cardinals, ordinals, years, dates, money; no files.

  Attributes:
    train_size: pairs to learn from.
    val_size: pairs of other numbers, to search with.
    test_size: pairs of still other numbers.
  """

  vocab_size: int = 512
  model: str = "bpe"  # unigram finds too few subwords in so few words
  max_length: int = 64
  lengths: tuple[int, ...] = (16, 32, 64)
  train_size: int = 4000
  val_size: int = 400
  test_size: int = 400

  def __post_init__(self):
    super().__post_init__()
    check_pair("numbers", self.source_language, self.target_language, PAIRS)
    sizes = self.train_size, self.val_size, self.test_size
    if min(sizes) < 1 or sum(sizes) > MAX_SIZE:
      raise UserError(f"train_size={sizes[0]}, val_size={sizes[1]}, test_size={sizes[2]}: each must be at least 1, and "
                      f"all together at most {MAX_SIZE}")

  def load(self, data_dir: pathlib.Path | None, cache_dir: pathlib.Path | None = None) -> base.Splits:
    """Draws the numbers by `split_seed` and writes them; `data_dir` is not looked at."""
    drawn = self._drawn()
    ends = np.cumsum([self.test_size, self.val_size, self.train_size])  # a longer training leaves the others alone
    raw = {part: drawn.take(np.arange(end - size, end)) for part, end, size in zip(
        ("test", "val", "train"), ends, (self.test_size, self.val_size, self.train_size))}
    return self.assemble("numbers", NOTE, raw, cache_dir)

  def _drawn(self) -> pairs.Lines:
    """Pairs of different numbers, or of different forms, whose sources differ."""
    bits = np.random.PCG64((self.split_seed, 5))
    draw = lambda below: int(bits.random_raw()) % below
    forms = [form for form in FORMS if form not in ("ordinal", "date") or "cs" not in self._languages]
    seen, written = set(), {}
    while len(written) < self.train_size + self.val_size + self.test_size:
      form = forms[draw(len(forms))]
      number = _number(form, draw, "cs" in self._languages)
      if (form, number) not in seen:
        seen.add((form, number))
        source, target = (write(language, form, number) for language in self._languages)
        written.setdefault(source, target)
    return pairs.Lines(list(written), list(written.values()))

  @property
  def _languages(self) -> tuple[str, str]:
    return self.source_language, self.target_language


def _number(form: str, draw: Draw, czech: bool) -> tuple:
  """Short numbers are as frequent as long ones."""
  match form:
    case "cardinal":
      return (draw(10 ** (1 + draw(6))),)
    case "ordinal":
      return (1 + draw(10 ** (1 + draw(4))),)
    case "year":
      return (1100 + draw(1000),)
    case "date":
      return 1 + draw(28), draw(12), 1100 + draw(1000)
  return draw(10 ** (3 + draw(4))), "EUR" if czech else ("EUR", "USD", "GBP")[draw(3)]


def write(language: str, form: str, number: tuple) -> str:
  """A number in words.

  Args:
    language: code.
    form: one of FORMS.
    number: day, month from 0, year; hundredths and currency; or one number.
  """
  words = lambda value, **how: num2words.num2words(value, lang=language, **how)
  if form == "money":
    return words(decimal.Decimal(number[0]) / 100, to="currency", currency=number[1])
  if form != "date":
    return words(number[0], to=form)
  day, month, year = number[0], MONTHS[language][number[1]], words(number[2], to="year")
  match language:
    case "en":
      return f"the {words(day, to='ordinal')} of {month}, {year}"
    case "de":
      return f"der {words(day, to='ordinal')} {month} {year}"
  return f"le {words(day, to='ordinal' if day == 1 else 'cardinal')} {month} {year}"
