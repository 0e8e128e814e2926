import json

import numpy as np
import pytest

from nasformer.data.labelled_text import LabelledText
from nasformer.types import UserError

ROWS = [(label, f"{word} {i}") for i in range(20) for label, word in (("good", "fine"), ("bad", "poor, \"very\""))]


@pytest.mark.parametrize("name, lines", [
    ("a.tsv", ["label\ttext", *(f"{label}\t{text}" for label, text in ROWS)]),
    ("a.csv.gz", ["text,label", *('"' + text.replace('"', '""') + f'",{label}' for label, text in ROWS)]),
    ("a.jsonl", [json.dumps({"label": label, "text": text, "more": 1}) for label, text in ROWS]),
])
def test_formats(write, tmp_path, name, lines):
  write.lines(tmp_path / name, lines)
  splits = LabelledText(train=name).load(tmp_path)
  assert splits.info.class_names == ("bad", "good") and sum(splits.sizes.values()) == 40
  texts = {bytes(split.values.take(np.array([i])).steps().tolist()).decode() for split in splits.parts.values()
           for i in range(len(split))}
  assert texts == {text for _, text in ROWS}


@pytest.mark.parametrize("name, lines, message", [
    ("a.txt", ["x"], "its name must end with .tsv, .csv or .jsonl"),
    ("a.tsv", ["label\ttext", "good\ta", "\tb"], "line 3: the label is missing"),
    ("a.tsv", ["label\ttext", "good\ta", "bad"], "line 3: there is no 'text'"),
    ("a.tsv", ["label\ttext", "good\ta", "bad\tb\tc"], "line 3: more columns than the header has"),
    ("a.csv", ["class,text", "good,a"], "line 2: there is no 'label' .there are: class, text"),
    ("a.csv", ["label,text", "good,a", "bad,  "], "line 3: the text is empty"),
    ("a.jsonl", ['{"label": 1, "text": "a"}', "oops"], "line 2: no JSON"),
    ("a.jsonl", ["[1]"], "line 1: an object with a text and a label is wanted"),
    ("a.tsv", ["label\ttext", "good\ta", "good\tb"], "1 class in its 2 texts: there must be at least 2"),
    ("a.tsv", ["label\ttext", "good\ta", "bad\tb"], "would be empty; give more texts or a larger fraction"),
])
def test_mistakes_are_told(write, tmp_path, name, lines, message):
  write.lines(tmp_path / name, lines)
  with pytest.raises(UserError, match=message):
    LabelledText(train=name).load(tmp_path)


def test_other_mistakes_are_told(write, tmp_path):
  (tmp_path / "a.tsv").write_bytes(b"label\ttext\ngood\t\xff\n")
  write.lines(tmp_path / "b.tsv", ["label\ttext", *(f"{label}\t{text}" for label, text in ROWS)])
  write.lines(tmp_path / "c.tsv", ["label\ttext", "odd\ta"])
  for fields, message in (({"train": "a.tsv"}, "a.tsv, line 2: the text is not UTF-8"),
                          ({}, "name them by the field `train`"),
                          ({"train": "absent.tsv"}, "there is no file .*absent.tsv"),
                          ({"train": "b.tsv", "test": "c.tsv"}, "c.tsv, line 2: the label 'odd' is none of bad, good")):
    with pytest.raises(UserError, match=message):
      LabelledText(**fields).load(tmp_path)
