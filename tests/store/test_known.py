"""A number is measured once, whoever asks again."""

import math

import numpy as np

from nasformer.store.known import Known


def test_asked_again_it_is_the_same(tmp_path):
  path, asked = tmp_path / "costs.jsonl", []

  def measure(genes):
    asked.append(genes.tolist())
    return math.nan if genes[0] else float(len(asked))

  genes = np.array([[0, 1], [0, 2], [1, 0]], np.int32)
  first = [Known(measure, "ms", path)(row) for row in genes]
  known = Known(measure, "ms", path)
  again = [known(row) for row in genes for _ in range(2)]
  np.testing.assert_array_equal(again, np.repeat([1.0, 2.0, math.nan], 2))
  np.testing.assert_array_equal(first, [1.0, 2.0, math.nan])
  assert asked == genes.tolist()
  path.write_bytes(path.read_bytes()[:-4])  # the last line was cut short
  assert Known(measure, "ms", path)(genes[0]) == 1.0
  assert math.isnan(Known(measure, "ms", path)(genes[2])) and len(asked) == 4


def test_without_a_file_it_lasts_as_long_as_the_process():
  known = Known(lambda genes: float(genes.sum()), "ms")
  assert known(np.array([1, 2], np.int32)) == 3.0 == known([1, 2])
