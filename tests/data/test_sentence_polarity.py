from nasformer.data.sentence_polarity import SentencePolarity


def test_latin_1_becomes_utf8(write, tmp_path):
  lines = "".join(f"caf\xe9 {i}\n" for i in range(20)).encode("latin-1")
  write.zip(tmp_path / "sentence_polarity.zip", {"sentence_polarity/rt-polarity.neg": lines,
                                                 "sentence_polarity/rt-polarity.pos": lines.replace(b"c", b"k")})
  splits = SentencePolarity().load(tmp_path)
  assert splits.sizes == {"train": 32, "val": 4, "test": 4}
  train = splits.get("train", "search").values
  assert bytes(train.flat[1:5].tolist()) == "afé".encode()


def test_the_real_file(data_dir):
  assert sum(SentencePolarity().load(data_dir).sizes.values()) == 10662
