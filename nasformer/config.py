"""Configuration: frozen dataclasses inside, ConfigDict at the door.

A configuration is a tree of frozen dataclasses, which give names, types, defaults and checks. `open_up` turns it into a
locked ConfigDict whose fields a config file and flags may change; `close` turns it back, once. In the ConfigDict and on
disk a component (a row of some package's TABLE) is `{"name": row}` and its fields; fields that are not given have their
defaults. Another component is chosen where the dataclass is made, because its fields differ:

    def get_config(space="vision"):
      return config.open_up(Experiment(space=space, limits={"flops": 1e6}))

    --config=experiments/a.py:vision --config.space.max_depth=4 --config.seeds='(0,1,2)' --config.limits.flops=2e6
"""

import collections.abc
import contextlib
import dataclasses
import difflib
import importlib
import math
import pathlib
import re
import runpy
import sys
import traceback
import types
import typing
from typing import Any, Iterable, Iterator, Literal, Mapping, Sequence, TypeVar, Union

from absl import flags
from ml_collections import config_dict

from nasformer.registry import lookup
from nasformer.types import UserError

T = TypeVar("T")

_WANTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple, such as '(1, 2)' or '(\"a\", \"b\")',",
    config_dict.ConfigDict: "a mapping of fields",
}


# -- declaring fields -------------------------------------------------------------------------------------------------


def component(package: str, default: str, what: str) -> Any:
  """A dataclass field that holds a component; it may be made with an instance or, if it is to be opened, with a name.

  Args:
    package: the package whose TABLE has the names, such as "nasformer.space".
    default: the name of the default.
    what: the noun used in errors, such as "space".
  """
  meta = {"table": package, "what": what}
  return dataclasses.field(default_factory=lambda: _close_component(default, meta, what), metadata=meta)


def components(package: str, defaults: Sequence[str], what: str) -> Any:
  """A dataclass field that holds a mapping to components; by default, each of `defaults` under its own name.

  Args:
    package: as for `component`.
    defaults: names of the defaults.
    what: as for `component`.
  """
  meta = {"table": package, "what": what}
  return dataclasses.field(default_factory=lambda: {name: _close_component(name, meta, what) for name in defaults},
                           metadata=meta)


# -- from dataclasses -------------------------------------------------------------------------------------------------


def open_up(experiment: Any) -> config_dict.ConfigDict:
  """The locked ConfigDict of a dataclass; a None becomes a placeholder of the field's type.

  Raises:
    UserError: a value has the wrong type, or a component's name is unknown.
  """
  return _open(_build(type(experiment), experiment, "config"), Any, {}).lock()


def to_json(experiment: Any) -> dict:
  """The dataclass in JSON types: dicts, lists, numbers, strings, None.

  Raises:
    UserError: as for `open_up`.
  """
  return _tree(_build(type(experiment), experiment, "config"), {})


def _open(value: Any, hint: Any, meta: Mapping) -> Any:
  opened = config_dict.ConfigDict()
  if value is None:
    return config_dict.placeholder(_flag_type(hint))
  if dataclasses.is_dataclass(value):
    if meta:
      opened["name"] = _name_of(type(value), meta)
    for name, (field, field_hint) in _fields(type(value)).items():
      opened[name] = _open(getattr(value, name), field_hint, field.metadata)
    return opened
  if isinstance(value, Mapping):
    for name, item in value.items():
      opened[name] = _open(item, typing.get_args(_without_none(hint))[1], meta)
    return opened
  return value


def _tree(value: Any, meta: Mapping) -> Any:
  if dataclasses.is_dataclass(value):
    fields = {name: _tree(getattr(value, name), field.metadata) for name, (field, _) in _fields(type(value)).items()}
    return {"name": _name_of(type(value), meta), **fields} if meta else fields
  if isinstance(value, Mapping):
    return {name: _tree(item, meta) for name, item in value.items()}
  return [_tree(item, {}) for item in value] if isinstance(value, tuple) else value


def _name_of(cls: type, meta: Mapping) -> str:
  """The row of the table that is this class, or its path if it is nobody's row."""
  path = f"{cls.__module__}:{cls.__qualname__}"
  return next((name for name, row in _table(meta).items() if row == path), path)


# -- to dataclasses ---------------------------------------------------------------------------------------------------


def close(cls: type[T], config: config_dict.ConfigDict) -> T:
  """The dataclass of a ConfigDict that `open_up` made and others changed.

  Raises:
    UserError: a field is unknown, has the wrong type or is refused by its dataclass; its flag is named.
  """
  return _build(cls, config, "--config")


def from_json(cls: type[T], tree: Mapping, where: str = "config") -> T:
  """The dataclass that `to_json` told.

  Args:
    cls: its class.
    tree: what `to_json` returned, perhaps after a round trip through a file.
    where: what errors call the root of the tree.

  Raises:
    UserError: a field is unknown, has the wrong type or is refused by its dataclass.
  """
  return _build(cls, tree, where)


def _build(cls: type[T], value: Any, path: str) -> T:
  given, fields = _entries(value, path), _fields(cls)
  for name in given:
    if name not in fields:
      raise UserError(f"{path}.{name}: there is no such field; {_nearest(name, fields)}")
  closed = {name: _close(given[name], hint, field.metadata, f"{path}.{name}")
            for name, (field, hint) in fields.items() if name in given}
  for name, (field, _) in fields.items():
    if name not in closed and field.default is field.default_factory:  # both are MISSING: there is no default
      raise UserError(f"{path}.{name}: this field has no default and must be given")
  try:
    return cls(**closed)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def _close(value: Any, hint: Any, meta: Mapping, path: str) -> Any:
  if value is None and types.NoneType in typing.get_args(hint):
    return None
  hint = _without_none(hint)
  origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
  if origin in (dict, collections.abc.Mapping):
    return {name: _close(item, inner[1], meta, f"{path}.{name}") for name, item in _entries(value, path).items()}
  if meta:
    return _close_component(value, meta, path)
  if dataclasses.is_dataclass(hint):
    return _build(hint, value, path)
  if origin is tuple and isinstance(value, (tuple, list)):
    hints = inner[:1] * len(value) if inner[1:] == (...,) else inner or (Any,) * len(value)
    if len(hints) == len(value):
      return tuple(_close(item, each, {}, f"{path}[{i}]") for i, (item, each) in enumerate(zip(value, hints)))
  if origin is Literal and value in inner or hint is Any:
    return value
  if hint in (bool, int, float, str) and _is_a(value, hint):
    return hint(value)
  wanted = f"one of {', '.join(map(repr, inner))}" if origin is Literal else _WANTED[origin]
  raise UserError(f"{path}={value!r}: {wanted} is wanted")


def _is_a(value: Any, kind: type) -> bool:
  if isinstance(value, bool) or kind is bool:
    return isinstance(value, bool) and kind is bool  # Python counts True as an integer
  if kind is float:
    return isinstance(value, (int, float)) and math.isfinite(value)
  return isinstance(value, kind)


def _close_component(value: Any, meta: Mapping, path: str) -> Any:
  if isinstance(value, str):
    value = {"name": value}
  if dataclasses.is_dataclass(value):
    return _build(type(value), value, path)
  fields = _entries(value, path)
  if "name" not in fields:
    raise UserError(f"{path}: the name of the {meta['what']} is missing (all: {', '.join(sorted(_table(meta)))})")
  try:
    cls = lookup(_table(meta), str(fields.pop("name")), meta["what"])
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  assert "name" not in _fields(cls), f"{cls} cannot be a component: its field `name` would hide the component's name"
  return _build(cls, fields, path)


def _entries(value: Any, path: str) -> dict[str, Any]:
  if dataclasses.is_dataclass(value):
    return {name: getattr(value, name) for name in _fields(type(value))}
  if isinstance(value, config_dict.ConfigDict):
    return {name: value[name] for name in vars(value)["_fields"]}  # in the order written; keys() would sort them
  if not isinstance(value, Mapping):
    raise UserError(f"{path}={value!r}: {_WANTED[config_dict.ConfigDict]} is wanted")
  return dict(value)


# -- what a class says ------------------------------------------------------------------------------------------------


def _fields(cls: type) -> dict[str, tuple[dataclasses.Field, Any]]:
  """Fields of a dataclass with their annotations, by name."""
  hints = typing.get_type_hints(cls)
  return {field.name: (field, hints[field.name]) for field in dataclasses.fields(cls) if field.init}


def _table(meta: Mapping) -> Mapping[str, str]:
  return importlib.import_module(meta["table"]).TABLE


def _without_none(hint: Any) -> Any:
  if typing.get_origin(hint) not in (Union, types.UnionType):
    return hint
  return Union[tuple(each for each in typing.get_args(hint) if each is not types.NoneType)]


def _flag_type(hint: Any) -> type:
  """The type that ConfigDict and flags hold a field as."""
  hint = _without_none(hint)
  origin = typing.get_origin(hint) or hint
  if origin is Literal:
    return type(typing.get_args(hint)[0])
  return origin if origin in (bool, int, float, str, tuple) else config_dict.ConfigDict


def _nearest(name: str, names: Iterable[str]) -> str:
  names = list(names)
  near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
  return f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(names) or 'none'}"


# -- the command line -------------------------------------------------------------------------------------------------


def parse_flags(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Parses the command line of a program that has a config file flag `--config`; a `flags_parser` for `absl.app.run`.

  Args:
    argv: the program's name and its arguments.
    flag_values: where the flags are defined.

  Returns:
    The program's name and the arguments that are not flags.

  Raises:
    UserError: an unknown flag, config file or field, a value of the wrong type, or an error in the config file.
  """
  try:
    with _neighbours(argv):
      rest = flag_values(argv)
  except Exception as error:  # absl and ml_collections let exceptions of many types through
    _check_overrides(argv, _load(argv), str(error))
    raise UserError(" ".join(str(error).split())) from error
  if not isinstance(flag_values["config"].value, config_dict.ConfigDict):
    _load(argv)  # ml_collections keeps quiet about a missing file until the config is used
  return rest


@contextlib.contextmanager
def _neighbours(argv: Sequence[str]) -> Iterator[None]:
  """Lets a config file import the files beside it, as a program does."""
  given, before = _given(argv), list(sys.path)
  if given is not None:
    sys.path.insert(0, str(pathlib.Path(given[1].split(":", 1)[0]).parent))
  try:
    yield
  finally:
    sys.path[:] = before


def _given(argv: Sequence[str]) -> re.Match | None:
  return re.search(r"\0--?config[=\0]([^\0]+)", "\0".join(argv))


def _load(argv: Sequence[str]) -> config_dict.ConfigDict | None:
  """What the config file returns, loaded once more where its errors can be seen; None if there is no `--config`."""
  given = _given(argv)
  if given is None:
    return None
  path, *argument = given[1].split(":", 1)
  if not pathlib.Path(path).is_file():
    known = {*pathlib.Path().glob("experiments/*/*.py"), *pathlib.Path(path).parent.glob("*.py")}
    raise UserError(f"--config={given[1]}: there is no such file; {_nearest(path, sorted(map(str, known)))}")
  try:
    with _neighbours(argv):
      config = runpy.run_path(path)["get_config"](*argument)
  except UserError as error:
    raise UserError(f"--config={given[1]}: {error}") from error
  except Exception as error:  # the file is the user's own program
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f" on line {lines[-1]}" if lines else ""
    raise UserError(f"--config={given[1]}: {type(error).__name__}{where}: {error}") from error
  if not isinstance(config, config_dict.ConfigDict):
    raise UserError(f"--config={given[1]}: get_config returned {config!r}; what config.open_up returns is wanted")
  return config


def _check_overrides(argv: Sequence[str], config: config_dict.ConfigDict | None, reason: str) -> None:
  """Finds the field that the parser gave up on, which its `reason` may not name."""
  for argument in argv[1:]:
    given = re.match(r"--?(?:no)?config\.([^=]+)", argument)
    if given is None:
      continue
    if config is None or reason.startswith(f"Found {argument} in argv before"):
      raise UserError(f"{argument}: a field can only be set after --config=FILE.py")
    holder, place = config, "--config"
    for name in given[1].split("."):
      names = holder.keys() if isinstance(holder, config_dict.ConfigDict) else []
      if name not in names:
        raise UserError(f"{place}.{name}: there is no such field; {_nearest(name, names)}")
      kind, holder, place = holder.get_type(name), holder[name], f"{place}.{name}"
    if reason.startswith(f"flag {place}=") and kind in _WANTED:
      raise UserError(f"{reason.partition(': ')[0].removeprefix('flag ')}: {_WANTED[kind]} is wanted")
