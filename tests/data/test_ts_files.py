import pytest

from nasformer.data.ts_files import read
from nasformer.types import UserError


def test_ts_by_hand(write, tmp_path):
  path = write.lines(tmp_path / "a.ts.gz", [*write.ts_header, "", "1,2,3:4,5,6:up", "7:8:down"])
  one, two = read(path)
  assert one.label == "up" and one.values.tolist() == [[1, 4], [2, 5], [3, 6]]
  assert two.label == "down" and two.values.tolist() == [[7, 8]] and two.where.endswith("a.ts.gz, line 8")


def test_csv_by_hand(write, tmp_path):
  (case,) = read(write.lines(tmp_path / "a.csv", ["3,0.5,-1e2"]))
  assert case.label == "3" and case.values.tolist() == [[0.5], [-100]]


@pytest.mark.parametrize("name, lines, message", [
    ("a.txt", ["1"], "its name must end with .ts or .csv"),
    ("a.ts", ["@data", "1,2:up"], "line 2: the header lacks @classLabel true"),
    ("a.ts", ["@classLabel false", "@data"], "line 1: the series have no class labels"),
    ("a.ts", ["@timeStamps true"], "line 1: series with time stamps"),
    ("a.ts", ["1,2:up"], "line 1: a header line begins with @"),
    ("a.ts", ["@classLabel true up", "@data", "1,2"], "line 3: the label is missing, or '1,2' is none of up"),
    ("a.ts", ["@classLabel true up", "@data", "1,2:3:up"], "line 3: its dimensions have 2, 1 values"),
    ("a.ts", ["@classLabel true up", "@data", "1,?:up"], "line 3, dimension 1: value 2 is missing"),
    ("a.ts", ["@classLabel true up", "@data"], "has no series behind @data"),
    ("a.csv", ["up"], "line 1: a label, a comma and values are wanted"),
])
def test_mistakes_are_told(write, tmp_path, name, lines, message):
  with pytest.raises(UserError, match=message):
    read(write.lines(tmp_path / name, lines))
