import pytest

from nasformer.data.series_files import SeriesFiles
from nasformer.types import UserError


def test_dimensions_and_classes_must_agree(write, tmp_path):
  write.lines(tmp_path / "a.ts", [*write.ts_header, *write.waves(20, 0)])
  write.lines(tmp_path / "b.ts", [*write.ts_header, *write.waves(4, 100, 1)])
  write.lines(tmp_path / "c.ts", ["@classLabel true odd", "@data", "1,2:1,2:odd"])
  with pytest.raises(UserError, match="b.ts, line 6: 1 dimensions, and the first series has 2"):
    SeriesFiles(train="a.ts", test="b.ts").load(tmp_path)
  with pytest.raises(UserError, match="c.ts, line 3: the class 'odd' is none that the training series have"):
    SeriesFiles(train="a.ts", test="c.ts").load(tmp_path)


def test_files_are_wanted(tmp_path):
  with pytest.raises(UserError, match="name them by the field `train`"):
    SeriesFiles().load(tmp_path)
