"""The contract of every data set of sentence pairs of the table, and what is left out of them."""

import dataclasses
import json
import re

import numpy as np
import pytest

from nasformer.data import TABLE, pairs
from nasformer.data.batching import eval_batches, train_batches
from nasformer.data.parallel import Parallel
from nasformer.data.text_files import TextFiles
from nasformer.data.vocabulary import BOS, EOS, PAD, UNK, Vocabularies, Vocabulary
from nasformer.registry import lookup
from nasformer.types import UserError, first_line

STAGES = {"train": "search", "val": "search", "test": "evaluate"}
CARVED = {"tatoeba", "text_files"}


def part(splits, name):
  return splits.get(name, STAGES[name])


def rows(split):
  """Source and target tokens of all pairs, in their order."""
  return [tokens.rows(np.arange(len(split)), 128).tolist() for tokens in (split.source_tokens, split.target_tokens)]


def test_info_agrees_with_the_text(text):
  splits = text.load()
  info = splits.info
  assert info.name == text.name and info.note.endswith(".") and first_line(lookup(TABLE, text.name))
  assert (info.source_language, info.target_language) == ("en", "de")
  assert (info.source_vocab, info.target_vocab, info.joint) == (*[text.make().vocab_size] * 2, True)
  assert json.loads(json.dumps(dataclasses.asdict(info)))["lengths"] == list(info.lengths)
  vocabularies = part(splits, "val").vocabularies
  assert info.fingerprint == vocabularies.fingerprint == vocabularies.source.fingerprint
  assert all(len(part(splits, name)) == splits.sizes[name] > 0 for name in STAGES)


def test_tokens_spell_the_sentences(text):
  for name in STAGES:
    split = part(text.load(), name)
    for side, tokens, vocabulary in zip((split.sources, split.targets), rows(split),
                                        (split.vocabularies.source, split.vocabularies.target)):
      assert vocabulary.decode(tokens) == list(side)
      assert not {BOS, UNK} & {token for row in tokens for token in row}


def test_loading_twice_gives_the_same(text):
  one, two = text.load(), text.load()
  assert one.info == two.info
  for name in STAGES:
    assert rows(part(one, name)) == rows(part(two, name))
    assert list(part(one, name).sources) == list(part(two, name).sources)
  for _, a, b in zip(range(5), *(train_batches(part(each, "train"), 256, seed=0) for each in (one, two))):
    assert all((a[key] == b[key]).all() for key in a)


@pytest.mark.parametrize("joint", [True, False])
def test_cache_gives_the_same(text, tmp_path, monkeypatch, joint):
  fields = {} if joint else {"joint": False, "vocab_size": 310, "model": "bpe"}
  plain, first = text.load(**fields), text.load(cache_dir=tmp_path, **fields)
  names = {"origin", *(["joint.model"] if joint else ["source.model", "target.model"])}
  assert {path.name for path in (tmp_path / "vocabulary").iterdir()} == names
  monkeypatch.setattr(Vocabularies, "train", None)  # now it must be read
  again = text.load(cache_dir=tmp_path, **fields)
  assert plain.info == first.info == again.info
  for name in STAGES:
    assert rows(part(plain, name)) == rows(part(first, name)) == rows(part(again, name))


def test_a_source_is_in_one_part(text):
  splits = text.load()
  sources = {name: set(part(splits, name).sources) for name in STAGES}
  assert sum(map(len, sources.values())) == len(set.union(*sources.values()))


def test_seed_moves_sentences_between_carved_parts_only(text):
  one, two = text.load(split_seed=0), text.load(split_seed=1)
  moved = [set(part(one, name).sources) != set(part(two, name).sources) for name in STAGES]
  assert moved == [text.name in CARVED | {"numbers"}] * 3


def test_limits(text):
  whole, limited = text.load(), text.load(max_train=60, max_val=3)
  assert limited.sizes == {"train": 60, "val": 3, "test": whole.sizes["test"]}
  for name in ("train", "val"):
    chosen, everything = ([*zip(part(each, name).sources, part(each, name).targets)] for each in (limited, whole))
    assert set(chosen) <= set(everything)
  assert list(part(limited, "test").sources) == list(part(whole, "test").sources)


def test_batches_of_any_part(text):
  splits = text.load()
  for name in STAGES:
    split = part(splits, name)
    seen = []
    for batch in eval_batches(split, 256):
      real = batch["index"] >= 0
      seen += batch["index"][real].tolist()
      assert split.vocabularies.target.decode(batch["target"][real]) == [split.targets[i] for i in batch["index"][real]]
    assert sorted(seen) == list(range(len(split)))


@pytest.mark.parametrize("stage", ["train", "search", "retrain", "report"])
def test_test_part_is_refused(text, stage):
  with pytest.raises(UserError, match=f"'{stage}' may not read the part 'test'"):
    text.load().get("test", stage)


def test_missing_data_directory_is_told(text, tmp_path):
  if text.name == "numbers":
    return  # embedded
  dataset = text.make()
  if text.name != "text_files":  # whose paths may lie anywhere
    with pytest.raises(UserError, match="--data_dir.*NASFORMER_DATA"):
      dataset.load(None)
    with pytest.raises(UserError, match="absent.*no directory"):
      dataset.load(tmp_path / "absent")
  with pytest.raises(UserError, match=re.escape(str(tmp_path))):
    dataset.load(tmp_path)


@pytest.mark.parametrize("fields, message", [
    ({"val_fraction": 0.0}, "val_fraction=0.0 must lie between 0 and 1"),
    ({"max_train": -1}, "max_train=-1 must not be negative"),
    ({"max_val": 10**6}, "max_val=1000000 is more than the .* sentence pairs there are in 'val': use 0 for all"),
    ({"model": "word"}, "model='word' must be one of unigram, bpe"),
    ({"coverage": 0.5}, "coverage=0.5 must lie between 0.9 and 1"),
    ({"max_length": 1}, "max_length=1: use at least"),
    ({"vocab_pairs": 0}, "vocab_pairs=0"),
    ({"lengths": ()}, r"lengths=\(\) must ascend"),
    ({"lengths": (64, 32)}, r"lengths=\(64, 32\) must ascend"),
    ({"lengths": (0, 128)}, r"lengths=\(0, 128\) must ascend"),
    ({"lengths": (16, 32)}, r"lengths=\(16, 32\) must end with at least max_length="),
    ({"vocab_size": 100}, r"vocab_size=100 is too small .* at least \d{3}"),
    ({"vocab_size": 10**5}, "vocab_size=100000 is more than the training text allows: set it to at most"),
    ({"max_length": 2, "lengths": (2,)}, "max_length=2 leaves no sentence pair"),
    ({"source_language": "xx"}, "has no pair xx-de, it has .*de-en"),
    ({"source_language": "de"}, "has no pair de-de"),
])
def test_bad_fields_are_told(text, fields, message):
  if text.name == "text_files" and "source_language" in fields:
    return  # any language
  with pytest.raises(UserError, match=message):
    text.load(**fields)


def test_cached_vocabulary_must_fit(text, tmp_path):
  text.load(cache_dir=tmp_path)
  path = tmp_path / "vocabulary" / "joint.model"
  with pytest.raises(UserError, match=r"joint.model has (\d+) tokens and vocab_size=303: set vocab_size=\1"):
    text.load(cache_dir=tmp_path, vocab_size=303)
  with pytest.raises(UserError, match="joint.model was made with joint=True"):
    text.load(cache_dir=tmp_path, joint=False)
  path.write_bytes(path.read_bytes()[:500])
  with pytest.raises(UserError, match="joint.model cannot be read as a vocabulary"):
    text.load(cache_dir=tmp_path)


def test_cached_vocabulary_is_of_this_text(own, tmp_path):
  """A start that failed may have left a vocabulary of other files."""
  folder = tmp_path / "work"
  load = lambda train, **fields: own(train, cache_dir=folder, **fields)
  one = load(range(100))
  assert load(range(100)).info == one.info
  for train, fields in ((range(101), {}), (range(100), {"model": "bpe"})):
    with pytest.raises(UserError, match="vocabulary was learned from other sentences, or by other fields"):
      load(train, **fields)
  (folder / "vocabulary" / "origin").unlink()  # as before there was one
  assert load(range(101)).info.fingerprint == one.info.fingerprint


@pytest.fixture
def own(write, tmp_path):
  """Function (training pairs, validation pairs, test pairs, **fields) -> splits; pairs are numbers or texts."""

  def load(train, val=range(500, 510), test=range(600, 610), cache_dir=None, **fields):
    fields = {"vocab_size": 305} | fields
    for prefix, chosen in (("", train), ("val_", val), ("test_", test)):
      both = [pair if isinstance(pair, tuple) else (write.sentence("en", pair), write.sentence("de", pair))
              for pair in chosen]
      for side, lines in zip(("source", "target"), zip(*both)):
        fields[prefix + side] = str(write.lines(tmp_path / f"{prefix}{side}", list(lines)))
    return TextFiles(source_language="en", target_language="de", **fields).load(tmp_path, cache_dir)

  return load


def test_training_gives_way(own, write):
  """To the same pair, and to the same source with other spaces and another translation."""
  splits = own([*range(100), 500, (f" {write.sentence('en', 600)} ", "anders")])
  assert splits.sizes == {"train": 100, "val": 10, "test": 10}
  assert "left out of train: 2 with a source sentence of another part" in splits.info.note


def test_validation_gives_way_to_test(own, write):
  double = (write.sentence("en", 505) + " ", "etwas anderes")
  splits = own([*range(100), 505, 600], test=[*range(600, 610), double])
  assert splits.sizes == {"train": 100, "val": 9, "test": 11}
  assert "left out of train: 2 with" in splits.info.note and "left out of val: 1 with" in splits.info.note
  assert double[1] in part(splits, "test").targets


def test_empty_sides_are_left_out_of_training(own):
  splits = own([*range(100), ("", "leer"), ("empty", " "), ("\t", "")])
  assert splits.sizes["train"] == 100 and "left out of train: 3 with an empty side" in splits.info.note


def test_long_sentences_are_left_out_but_not_of_test(own, write):
  long = (" ".join(write.sentence("en", i) for i in range(20)), "kurz")
  wordy = ("short", " ".join(write.sentence("de", i) for i in range(20)))
  tested = [*range(600, 610), (wordy[0] + "!", wordy[1]), (long[0] + "!", long[1])]
  splits = own([*range(100), long, wordy], [*range(500, 510), long[::-1]], tested, max_length=64, lengths=(16, 64))
  assert splits.sizes == {"train": 100, "val": 10, "test": 12}
  test = part(splits, "test")
  assert test.targets[10] == wordy[1] and test.sources[11] == long[0] + "!"  # as they were written
  for i, tokens in ((10, test.target_tokens), (11, test.source_tokens)):
    row = tokens.rows(np.array([i]), 64)[0]
    assert row[-1] == EOS and PAD not in row
  assert "left out of train: 2 of more than 63 tokens" in splits.info.note
  assert "left out of val: 1 of more than 63" in splits.info.note
  assert "cut in test: 2 of more than 63 tokens, references in the loss only" in splits.info.note


def test_vocabulary_knows_training_text_only(own):
  """A sign that only other parts have is spelled in its bytes."""
  splits = own(range(100), [("Ω val", "Ω")] * 3, [("Ψ test", "Ψ")] * 3)
  split = part(splits, "test")
  tokens = split.vocabularies.source.encode(["a", "Ω", "Ψ"])
  assert [len(row) for row in tokens][1:] == [3, 3]  # a space and two bytes
  assert split.vocabularies.source.decode(rows(split)[0]) == ["Ψ test"] * 3


def test_vocabulary_is_learned_from_a_sample_where_text_is_long(own, monkeypatch):
  learned = []
  train = Vocabulary.train
  monkeypatch.setattr(Vocabulary, "train",
                      lambda sentences, *rest: learned.append(list(sentences)) or train(learned[-1], *rest))
  whole, sampled = own(range(300)), own(range(300), vocab_pairs=100)
  assert [len(text) for text in learned] == [600, 200] and set(learned[1]) < set(learned[0])
  assert whole.sizes == sampled.sizes and whole.info.fingerprint != sampled.info.fingerprint


def test_parts_must_not_be_empty(own):
  with pytest.raises(UserError, match="the part 'train' would be empty"):
    own([500, 600])
  with pytest.raises(UserError, match="the part 'val' would be empty"):
    own(range(100), range(600, 605))


@dataclasses.dataclass(frozen=True)
class Given(Parallel):
  def load(self, data_dir, cache_dir=None):
    side = [f"Satz {i}" for i in range(50)]
    lines = pairs.Lines(side, side)
    return self.assemble("given", "", {"train": lines, "test": pairs.Lines(["a", "b"], ["a", " "])}, cache_dir)


def test_any_data_set_with_an_untranslated_test_sentence_is_refused():
  with pytest.raises(UserError, match="given: pair 2 of the part 'test' has an empty side"):
    Given(vocab_size=270).load(None)
