"""Numbers are drawn without overlap and written as people write them."""

import pytest

from nasformer.data import numbers
from nasformer.data.numbers import FORMS, PAIRS, Numbers
from nasformer.types import UserError

SMALL = {"vocab_size": 400, "train_size": 300, "val_size": 40, "test_size": 30}


@pytest.mark.parametrize("form, number, words", [
    ("cardinal", (342,), ("three hundred and forty-two", "dreihundertzweiundvierzig", "trois cent quarante-deux",
                          "třista čtyřicet dva")),
    ("ordinal", (21,), ("twenty-first", "einundzwanzigste", "vingt et unième")),
    ("year", (1984,), ("nineteen eighty-four", "neunzehnhundertvierundachtzig", "mille neuf cent quatre-vingt-quatre",
                       "tisíc devětset osmdesát čtyři")),
    ("date", (3, 2, 1712), ("the third of March, seventeen twelve", "der dritte März siebzehnhundertzwölf",
                            "le trois mars mille sept cent douze")),
    ("date", (1, 7, 1900), ("the first of August, nineteen hundred", "der erste August neunzehnhundert",
                            "le premier août mille neuf cents")),
    ("money", (1205, "EUR"), ("twelve euro, five cents", "zwölf Euro und fünf Cent", "douze euros et cinq centimes",
                              "dvanáct euro, pět centů")),
])
def test_words(form, number, words):
  for language, expected in zip(("en", "de", "fr", "cs"), words):
    assert numbers.write(language, form, number) == expected


@pytest.mark.parametrize("source, target", PAIRS)
def test_sizes_and_overlap(source, target):
  dataset = Numbers(source_language=source, target_language=target, **SMALL)
  splits = dataset.load(None)
  assert splits.sizes == {"train": 300, "val": 40, "test": 30}
  sources = [sentence for part in splits.parts for sentence in splits.get(part, "evaluate").sources]
  assert len(set(sources)) == 370
  assert "left out" not in splits.info.note


def test_no_number_is_drawn_twice_in_one_form(monkeypatch):
  """What is written is recorded; what counts is the number and not its words."""
  written = []
  write = numbers.write
  monkeypatch.setattr(numbers, "write", lambda *what: written.append(what) or write(*what))
  Numbers(**SMALL).load(None)
  english = [what[1:] for what in written if what[0] == "en"]
  assert len(english) == len(set(english)) >= 370
  assert {form for form, _ in english} == set(FORMS)


def test_a_longer_training_leaves_the_other_parts_alone():
  short, long = Numbers(**SMALL).load(None), Numbers(**SMALL | {"train_size": 500}).load(None)
  for part in ("val", "test"):
    assert short.get(part, "evaluate").sources == long.get(part, "evaluate").sources
  assert set(short.get("train", "train").sources) < set(long.get("train", "train").sources)


def test_seed_draws_other_numbers():
  one, two = (Numbers(**SMALL, split_seed=seed).load(None).get("test", "evaluate").sources for seed in (0, 1))
  assert set(one) != set(two)


def test_default_size():
  splits = Numbers().load(None)
  assert splits.sizes == {"train": 4000, "val": 400, "test": 400}


@pytest.mark.parametrize("fields, message", [
    ({"train_size": 0}, "train_size=0, .*: each must be at least 1, and all together at most 100000"),
    ({"train_size": 10**6}, "all together at most 100000"),
    ({"target_language": "es"}, "numbers has no pair en-es, it has en-de, de-en, en-fr"),
])
def test_bad_fields(fields, message):
  with pytest.raises(UserError, match=message):
    Numbers(**fields)
