"""CIFAR-10 in each of its forms; all forms of one set of images give the same splits."""

import io
import pathlib
import pickle
import struct

import numpy as np
import pytest

from nasformer.data import cifar10
from nasformer.data.cifar10 import CLASS_NAMES, Cifar10
from nasformer.types import UserError

BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def planes(pixels):
  return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), 3072)


@pytest.fixture
def batches(write):
  """Pixels and labels of six batches: 90 images in five, 20 in the test batch."""
  pixels, labels = write.flat(90, 32, 3)
  rows = np.array_split(np.arange(90), 5)
  return dict(zip(BATCHES, [(pixels[row], labels[row]) for row in rows] + [write.flat(20, 32, 3, 9)]))


def as_pickles(batches):
  return {name: pickle.dumps({"data": planes(pixels), "labels": labels.tolist()}, protocol=2)
          for name, (pixels, labels) in batches.items()}


def as_binaries(batches):
  return {f"{name}.bin": np.concatenate([labels[:, None].astype(np.uint8), planes(pixels)], 1).tobytes()
          for name, (pixels, labels) in batches.items()}


def write_folder(path, members):
  path.mkdir(parents=True)
  for name, content in members.items():
    (path / name).write_bytes(content)


FORMS = {
    "python folder": lambda write, root, b: write_folder(root / "cifar-10-batches-py", as_pickles(b)),
    "binary folder": lambda write, root, b: write_folder(root / "cifar-10-batches-bin", as_binaries(b)),
    "python archive": lambda write, root, b: write.tar(
        root / "cifar-10-python.tar.gz", {f"cifar-10-batches-py/{k}": v for k, v in as_pickles(b).items()}),
    "binary archive": lambda write, root, b: write.tar(
        root / "cifar-10-binary.tar.gz", {f"cifar-10-batches-bin/{k}": v for k, v in as_binaries(b).items()}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["", "cifar10"])
def test_official_batches(write, batches, tmp_path, form, place):
  FORMS[form](write, tmp_path / place, batches)
  splits = Cifar10(val_fraction=1 / 3).load(tmp_path)
  assert splits.sizes == {"train": 60, "val": 30, "test": 20}
  test = splits.get("test", "evaluate").take(np.arange(20))
  np.testing.assert_array_equal(test["image"], batches["test_batch"][0])
  np.testing.assert_array_equal(test["label"], batches["test_batch"][1])
  val = splits.get("val", "search")
  np.testing.assert_array_equal(val.images[:, 0, 0, 0] // 20, val.labels)
  assert "pixels as published, 20 of the 10,000 test images" in splits.info.note


def test_batches_pickled_by_python_2(write, batches, tmp_path):
  """The official files are: bytes are text there, and NumPy has since moved a module that they name."""
  write_folder(tmp_path / "cifar-10-batches-py", {k: python_2_pickle(*v) for k, v in batches.items()})
  test = Cifar10().load(tmp_path).get("test", "evaluate")
  np.testing.assert_array_equal(test.images, batches["test_batch"][0])
  np.testing.assert_array_equal(test.labels, batches["test_batch"][1])


def python_2_pickle(pixels, labels):
  """Opcode by opcode what Python 2 wrote for {"data": array, "labels": list}; see pickletools."""
  data = planes(pixels).tobytes()
  array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
  dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
  state = b"(K\x01K" + bytes([len(pixels)]) + b"M\x00\x0c\x86" + dtype + b"\x89T" + struct.pack("<I", len(data)) + data
  numbers = b"".join(b"K" + bytes([label]) for label in labels)
  return b"\x80\x02}(U\x04data" + array + state + b"tbU\x06labels](" + numbers + b"eu."


def test_array_record(write, batches, tmp_path):
  prepare(write, tmp_path, "array_record")
  splits = Cifar10(val_fraction=0.2).load(tmp_path)
  assert splits.sizes == {"train": 40, "val": 10, "test": 20}
  for part in ("train", "val", "test"):
    split = splits.get(part, "evaluate")
    np.testing.assert_array_equal(split.images[:, 3, 3, 0] // 20, split.labels)
  assert "pixels as published" in splits.info.note

  (record,) = (tmp_path / "cifar10/3.0.2").glob("*train.array_record*")
  record.write_bytes(record.read_bytes()[:100])
  with pytest.raises(UserError, match="3.0.2.* cannot be read"):
    Cifar10().load(tmp_path)


def prepare(write, root, file_format):
  """Makes what tensorflow-datasets would after a download."""
  tfds = pytest.importorskip("tensorflow_datasets")
  tfds.disable_progress_bar()
  with tfds.core.registered.skip_registration():

    class Copy(tfds.core.GeneratorBasedBuilder):
      name = "cifar10"
      VERSION = tfds.core.Version("3.0.2")
      code_path = None  # nothing lies beside the code of this class

      def _info(self):
        features = {"id": tfds.features.Text(), "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(num_classes=10)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

      def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(50, 0), "test": self._generate_examples(20, 9)}

      def _generate_examples(self, num, first):
        for i, (image, label) in enumerate(zip(*write.flat(num, 32, 3, first))):
          yield i, {"id": f"{i}", "image": io.BytesIO(write.encode(image, "PNG")), "label": int(label)}

  Copy(data_dir=root, file_format=file_format).download_and_prepare()


def test_tfrecord_copy_is_refused(tmp_path):
  folder = tmp_path / "cifar10" / "3.0.2"
  write_folder(folder, {"dataset_info.json": b"{}", "cifar10-train.tfrecord-00000-of-00001": b""})
  with pytest.raises(UserError, match="3.0.2 is no ArrayRecord copy.*file_format='array_record'"):
    Cifar10().load(tmp_path)


def test_jpeg_archives(write, tmp_path):
  write.cifar10(tmp_path)
  splits = Cifar10(val_fraction=1 / 3).load(tmp_path)
  assert splits.sizes == {"train": 60, "val": 30, "test": 20}
  assert splits.info.note.startswith("CIFAR-10 (JPEG)") and "20 of the 10,000 test images" in splits.info.note
  assert splits.info.class_names == CLASS_NAMES


def test_lossless_form_wins(write, batches, tmp_path):
  write.cifar10(tmp_path)
  FORMS["binary archive"](write, tmp_path / "cifar10", batches)
  assert "JPEG" not in Cifar10().load(tmp_path).info.note


def test_several_archives_of_a_part_are_joined(write, tmp_path):
  write.cifar10(tmp_path)
  write.tar(tmp_path / "cifar10" / "more_test_b.tar.gz", write.jpegs("test", *write.flat(10, 32, 3, 11)))
  assert Cifar10().load(tmp_path).sizes["test"] == 30


# -- what can be wrong ------------------------------------------------------------------------------------------------


class Bomb:
  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path("bomb"),)


@pytest.mark.parametrize("change, message", [
    (lambda b: b.pop("data_batch_3"), "cifar-10-batches-py has no data_batch_3"),
    (lambda b: b.update(data_batch_2=b["data_batch_2"][:500]), "data_batch_2 cannot be read"),
    (lambda b: b.update(test_batch=b"hello"), "test_batch cannot be read"),
    (lambda b: b.update(test_batch=pickle.dumps({"data": 1})), "test_batch cannot be read"),
    (lambda b: b.update(test_batch=pickle.dumps([1, 2])), "test_batch cannot be read"),
    (lambda b: b.update(test_batch=pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [3, 99]})),
     "test_batch cannot be read.*labels 3..99"),
    (lambda b: b.update(test_batch=pickle.dumps({"data": np.zeros((2, 100), np.uint8), "labels": [3, 9]})),
     r"test_batch cannot be read.*\(2, 100\)"),
    (lambda b: b.update(test_batch=pickle.dumps(Bomb())), "test_batch cannot be read.*has no place in a CIFAR-10"),
])
def test_bad_pickles(batches, tmp_path, monkeypatch, change, message):
  monkeypatch.chdir(tmp_path)
  members = as_pickles(batches)
  change(members)
  write_folder(tmp_path / "cifar-10-batches-py", members)
  with pytest.raises(UserError, match=message):
    Cifar10().load(tmp_path)
  assert not (tmp_path / "bomb").exists()


def test_binary_of_a_wrong_size(batches, tmp_path):
  members = as_binaries(batches)
  members["data_batch_4.bin"] = members["data_batch_4.bin"][:-5]
  write_folder(tmp_path / "cifar-10-batches-bin", members)
  with pytest.raises(UserError, match="data_batch_4.bin cannot be read"):
    Cifar10().load(tmp_path)


def test_truncated_jpeg_archive(write, tmp_path):
  write.cifar10(tmp_path)
  path = tmp_path / "cifar10" / "cifar10_jpeg_train.tar.gz"
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(UserError, match="cifar10_jpeg_train.tar.gz cannot be read.*cut short"):
    Cifar10().load(tmp_path)


@pytest.mark.parametrize("members, message", [
    (lambda w: {"train/cat/0.jpg": w.encode(np.zeros((31, 32, 3), np.uint8), "JPEG")}, "train/cat/0.jpg is 31x32 RGB"),
    (lambda w: {"train/cat/0.jpg": w.encode(np.zeros((32, 32, 1), np.uint8), "JPEG")}, "train/cat/0.jpg is 32x32 L"),
    (lambda w: {"train/cat/0.jpg": b"hello"}, "train/cat/0.jpg cannot be read as an image"),
    (lambda w: {"train/cow/0.jpg": b"hello"}, "train/cow/0.jpg is in no folder of a CIFAR-10 class.*airplane"),
    (lambda w: {"readme.txt": b"hello"}, "train.tar.gz has no image train/CLASS"),
])
def test_bad_members(write, tmp_path, members, message):
  write.cifar10(tmp_path)
  good = write.jpegs("train", *write.flat(90, 32, 3)) if "readme.txt" not in members(write) else {}
  write.tar(tmp_path / "cifar10" / "cifar10_jpeg_train.tar.gz", {**good, **members(write)})
  with pytest.raises(UserError, match=message):
    Cifar10().load(tmp_path)


def test_missing_test_archive(write, tmp_path):
  write.cifar10(tmp_path)
  (tmp_path / "cifar10" / "cifar10_jpeg_test.tar.gz").unlink()
  with pytest.raises(UserError, match=r"has no \*test\*.tar.gz"):
    Cifar10().load(tmp_path)


def test_nothing_there(tmp_path):
  with pytest.raises(UserError, match="no CIFAR-10 in .*cifar-10-python.tar.gz"):
    Cifar10().load(tmp_path)


@pytest.mark.slow
def test_real_copy(data_dir):
  splits = Cifar10().load(data_dir)
  assert splits.sizes["train"] == 45_000 and splits.sizes["val"] == 5_000
  assert splits.sizes["test"] in (5_000, cifar10.NUM_TEST)
  np.testing.assert_allclose(splits.info.mean, (125.3, 123.0, 113.9), atol=0.2)  # of the original, over all 50,000
  assert (np.bincount(splits.get("val", "search").labels) == 500).all()
