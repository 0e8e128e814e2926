import collections
import dataclasses
import importlib
import pathlib
import pkgutil

import pytest

import nasformer
from nasformer.registry import lookup
from nasformer.types import UserError, first_line

TABLE = {"ordered": "collections:OrderedDict", "chain": "collections:ChainMap", "gone": "collections:Gone"}


def tables():
  for info in pkgutil.iter_modules([str(pathlib.Path(nasformer.__file__).parent)]):
    table = getattr(importlib.import_module(f"nasformer.{info.name}"), "TABLE", {}) if info.ispkg else {}
    yield from ((info.name, name, table) for name in table)


def test_a_row_and_a_path_of_ones_own():
  assert lookup(TABLE, "ordered") is collections.OrderedDict
  assert lookup(TABLE, "collections:Counter") is collections.Counter


def test_an_unknown_name_shows_the_nearest_and_all():
  with pytest.raises(UserError, match=r"unknown space 'orderd': did you mean 'ordered'.*\(all: chain, gone, ordered\)"):
    lookup(TABLE, "orderd", "space")
  with pytest.raises(UserError, match="unknown component 'xyz': there are"):
    lookup(TABLE, "xyz")


@pytest.mark.parametrize("name", ["gone", "no_such_module:X", "collections:Nothing"])
def test_what_cannot_be_imported_says_so(name):
  with pytest.raises(UserError, match=f"space '{name}' could not be imported"):
    lookup(TABLE, name, "space")


@pytest.mark.parametrize("package, name, table", list(tables()))
def test_every_row_is_a_frozen_dataclass_with_a_line_for_the_list(package, name, table):
  cls = lookup(table, name)
  assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
  assert first_line(cls)
  assert "name" not in {field.name for field in dataclasses.fields(cls)}
  assert cls() == cls(), "every field has a default"
