"""Vocabularies: of the size asked for, without loss, the same every time, and refused when they do not fit."""

import re

import numpy as np
import pytest
import sentencepiece

from nasformer.data.vocabulary import BOS, EOS, MODELS, PAD, UNK, Vocabularies, Vocabulary
from nasformer.types import UserError

HARD = ["", " ", "   ", " lead", "trail ", "two  spaces", "tab\tand\u00a0more", "line\nfeed\r", "\x00", "Größe ½ ﬁ ①",
        "日本語", "😀👩\u200d👩\u200d👧", "e\u0301 é", "<s> </s> <unk> <pad> <0x41>", "\u2028\u0085", " ⁇ ", "\u2585",
        "\ufeffBOM"]


@pytest.fixture(scope="module")
def text(write):
  return [write.sentence(language, number) for language in ("en", "de") for number in range(150)]


@pytest.fixture(scope="module", params=MODELS)
def vocabulary(request, text):
  return Vocabulary.train(text, 305, request.param)


def test_any_text_comes_back(vocabulary, text):
  for sentence in (*HARD, *text[:20]):
    (tokens,) = vocabulary.encode([sentence])
    assert vocabulary.decode([tokens]) == [sentence]
    assert not {PAD, BOS, EOS, UNK} & set(tokens) and max(tokens, default=5) < vocabulary.size


def test_random_text_comes_back(vocabulary):
  draw = np.random.default_rng(0)
  points = [chr(point) for point in draw.integers(1, 0x2FFFF, 3000) if not 0xD800 <= point < 0xE000 and point != 0x2581]
  texts = ["".join(points[i : i + 10]) for i in range(0, len(points), 10)]
  assert vocabulary.decode(vocabulary.encode(texts)) == texts


def test_the_sign_for_a_space_is_the_exception(vocabulary):
  assert vocabulary.decode(vocabulary.encode(["a\u2581b"])) == ["a b"]


def test_decoding_ends_at_the_first_end(vocabulary):
  (tokens,) = vocabulary.encode(["house garden"])
  rows = [[BOS, *tokens, EOS, *tokens, PAD], np.array([*tokens, EOS, PAD, PAD], np.int32), [EOS], []]
  assert vocabulary.decode(rows) == ["house garden", "house garden", "", ""]
  assert vocabulary.decode([]) == [] == vocabulary.encode([])


def test_known_text_takes_fewer_tokens(vocabulary, text):
  known, unknown = (sum(map(len, vocabulary.encode(lines))) for lines in (text, [line[::-1] for line in text]))
  assert known < 0.8 * unknown


@pytest.mark.parametrize("model", MODELS)
def test_training_is_deterministic(text, model):
  one, two = (Vocabulary.train(iter(text), 303, model) for _ in range(2))
  assert one.fingerprint == two.fingerprint != Vocabulary.train(text, 304, model).fingerprint
  assert one.size == 303 and one.complete


@pytest.mark.parametrize("model", MODELS)
def test_limits_of_the_size_are_told_exactly(text, model, capfd):
  """The smallest has the special tokens, all bytes, all characters (a space counts as one) and nothing else."""
  with pytest.raises(UserError, match=r"vocab_size=5000 is more than the .* allows: set it to at most \d+$") as told:
    Vocabulary.train(text, 5000, model)
  largest = int(re.search(r"\d+$", str(told.value))[0])
  assert Vocabulary.train(text, largest, model).size == largest
  with pytest.raises(UserError, match=f"at most {largest}$"):
    Vocabulary.train(text, largest + 1, model)
  smallest = 4 + 256 + len(set("".join(text)))
  assert Vocabulary.train(text, smallest, model).size == smallest
  with pytest.raises(UserError, match=f"too small for the characters of the .*: set it to at least {smallest}$"):
    Vocabulary.train(text, smallest - 1, model)
  assert capfd.readouterr() == ("", "")


def test_no_text(capfd):
  with pytest.raises(UserError, match="vocab_size=300: no vocabulary can be learned from the training text"):
    Vocabulary.train([], 300)
  assert capfd.readouterr() == ("", "")


def test_rare_characters_can_be_left_to_bytes(text):
  rare = [*text, "Ω"]
  whole, most = (Vocabulary.train(rare, 305, coverage=coverage) for coverage in (1.0, 0.999))
  assert [len(each.encode(["Ω"])[0]) for each in (whole, most)] == [2, 3]  # with a space
  assert most.decode(most.encode(["Ω"])) == ["Ω"]


def test_long_sentences_are_learned_from(text):
  long = Vocabulary.train([*text, "Ψ" + "x" * 10_000], 306)
  assert len(long.encode(["Ψ"])[0]) == 2


def test_files(vocabulary, tmp_path):
  path = tmp_path / "deep" / "joint.model"
  vocabulary.write(path)
  assert [file.name for file in path.parent.iterdir()] == ["joint.model"]
  assert Vocabulary.read(path, 305).fingerprint == vocabulary.fingerprint
  with pytest.raises(UserError, match="joint.model has 305 tokens and vocab_size=400: set vocab_size=305, or delete"):
    Vocabulary.read(path, 400)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x0a\xff\xff\xff"])
def test_damaged_files(tmp_path, content, capfd):
  path = tmp_path / "joint.model"
  path.write_bytes(content)
  with pytest.raises(UserError, match="joint.model cannot be read as a vocabulary .*delete it to have it made again"):
    Vocabulary.read(path, 305)
  assert capfd.readouterr() == ("", "")


def test_foreign_files(tmp_path, text):
  """A model with the usual numbers of sentencepiece, and one without bytes."""
  for name, special in (("a", {"byte_fallback": True}), ("b", {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3})):
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(text), model_prefix=str(tmp_path / name),
                                             minloglevel=3, vocab_size=305, hard_vocab_limit=False, **special)
    size = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / f"{name}.model")).get_piece_size()
    with pytest.raises(UserError, match=f"{name}.model is a vocabulary without byte fallback or whose first tokens"):
      Vocabulary.read(tmp_path / f"{name}.model", size)


def test_both_sides(text, tmp_path):
  sides = text[:150], text[150:]
  joint = Vocabularies.train(*sides, size=305, joint=True, model="unigram", coverage=1.0)
  apart = Vocabularies.train(*sides, size=300, joint=False, model="bpe", coverage=1.0)
  assert joint.joint and not apart.joint
  assert len({joint.fingerprint, apart.fingerprint, apart.source.fingerprint, apart.target.fingerprint}) == 4
  assert joint.source.fingerprint == Vocabulary.train(text, 305).fingerprint
  for made, size in ((joint, 305), (apart, 300)):
    folder = tmp_path / str(size)
    assert Vocabularies.read(folder, size, made.joint) is None
    made.write(folder)
    assert Vocabularies.read(folder, size, made.joint).fingerprint == made.fingerprint
    with pytest.raises(UserError, match=f"was made with joint={made.joint}: set joint={made.joint}, or delete it"):
      Vocabularies.read(folder, size, not made.joint)
  (tmp_path / "300" / "target.model").unlink()
  assert Vocabularies.read(tmp_path / "300", 300, False) is None
