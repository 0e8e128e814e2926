import dataclasses
import json
import subprocess
import sys
import types
from typing import Any, Literal, Mapping

from absl import flags
from ml_collections import config_flags
import pytest

from nasformer import config
from nasformer.types import UserError

TABLE = {"vision": "fake_parts:Vision", "text": "fake_parts:Text"}


@dataclasses.dataclass(frozen=True)
class Vision:
  """Patches."""

  kinds: tuple[str, ...] = ("softmax", "cosformer")
  max_depth: int = 14

  def __post_init__(self):
    if self.max_depth < 1:
      raise UserError(f"max_depth={self.max_depth}: at least 1 is needed")


@dataclasses.dataclass(frozen=True)
class Text:
  """Tokens."""

  causal: bool = True


@dataclasses.dataclass(frozen=True)
class Named:
  """Wrong: its field takes the place of the component's name."""

  name: str = "x"


@dataclasses.dataclass(frozen=True)
class Arm:
  restrict: str = ""


@dataclasses.dataclass(frozen=True)
class Train:
  steps: int
  peak_lr: float = 1e-3
  decay: float | None = None
  warmup: int | None = 10
  schedule: Literal["cosine", "linear"] = "cosine"
  shape: tuple[int, float] = (1, 0.5)
  nesterov: bool = False


@dataclasses.dataclass(frozen=True)
class Experiment:
  note: str = ""
  seeds: tuple[int, ...] = (0,)
  train: Train = Train(100)
  space: Vision | Text | str = config.component("fake", "vision", "space")
  spaces: Mapping[str, Any] = config.components("fake", ("vision",), "space")
  limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
  arms: Mapping[str, Arm] = dataclasses.field(default_factory=lambda: {"mixed": Arm(), "all": Arm("depth=2")})
  maybe: Arm | None = None


@pytest.fixture(autouse=True)
def fake_package(monkeypatch):
  monkeypatch.setitem(sys.modules, "fake", types.SimpleNamespace(TABLE=TABLE))
  parts = types.SimpleNamespace(Vision=Vision, Text=Text, Named=Named)
  monkeypatch.setitem(sys.modules, "fake_parts", parts)
  for part in vars(parts).values():
    monkeypatch.setattr(part, "__module__", "fake_parts")


EXPERIMENTS = {
    "default": lambda: Experiment(),
    "names": lambda: Experiment(space="text", spaces={"a": "vision", "b": Text(False)}),
    "values": lambda: Experiment("é", (), Train(1, 0.1, 0.2, None, "linear", (3, 1e-9), True), Vision(("a",), 3)),
    "mappings": lambda: Experiment(limits={"z": 1.5, "flops": 1e300}, arms={"z": Arm("a"), "b": Arm()}, maybe=Arm("b")),
}


def opened():
  return config.open_up(Experiment())


@pytest.mark.parametrize("make", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_nothing_is_lost_on_the_way_to_configdict_and_json(make):
  experiment = config.from_json(Experiment, config.to_json(make()))
  assert config.close(Experiment, config.open_up(make())) == experiment
  tree = config.to_json(experiment)
  assert config.from_json(Experiment, json.loads(json.dumps(tree))) == experiment
  assert json.loads(json.dumps(tree)) == tree == config.to_json(make())


def test_the_default_is_made_of_components():
  assert Experiment().space == Vision() and Experiment().spaces == {"vision": Vision()}
  assert config.close(Experiment, opened()) == Experiment()


def test_components_are_told_by_name():
  tree = config.to_json(Experiment(space="text"))
  assert tree["space"] == {"name": "text", "causal": True}
  assert tree["spaces"] == {"vision": {"name": "vision", "kinds": ["softmax", "cosformer"], "max_depth": 14}}
  assert opened().space.name == "vision"


def test_a_component_of_ones_own_is_told_by_its_path(monkeypatch):
  monkeypatch.setitem(TABLE, "vision", "elsewhere:Vision")
  assert config.to_json(Experiment(space=Vision(), spaces={}))["space"]["name"] == "fake_parts:Vision"
  assert config.close(Experiment, config.open_up(Experiment(space="fake_parts:Text", spaces={}))).space == Text()


def test_mappings_keep_their_order():
  made = config.close(Experiment, config.open_up(Experiment(limits={"z": 1.0, "a": 2.0})))
  assert list(made.limits) == ["z", "a"] and list(made.arms) == ["mixed", "all"]
  opened_up = opened()
  opened_up.arms = {"y": {"restrict": "a"}, "b": {}}
  assert list(config.close(Experiment, opened_up).arms) == ["y", "b"]


def test_the_opened_config_is_locked_and_typed():
  with pytest.raises(AttributeError, match="steps"):
    opened().train.step = 3
  with pytest.raises(TypeError):
    opened().train.steps = "many"
  with pytest.raises(TypeError):
    opened().train.decay = "much"


def test_a_whole_number_is_a_number():
  made = config.close(Experiment, config.open_up(Experiment(train=Train(1, peak_lr=1, shape=(2, 3)), limits={"x": 5})))
  assert [*map(type, made.train.shape)] == [int, float]
  assert type(made.train.peak_lr) is type(made.limits["x"]) is float


@pytest.mark.parametrize("change, message", [
    ({"train": {"steps": True}}, "config.train.steps=True: a whole number is wanted"),
    ({"train": {"steps": 1.0}}, "config.train.steps=1.0: a whole number is wanted"),
    ({"train": {"steps": None}}, "config.train.steps=None: a whole number is wanted"),
    ({"train": {"steps": 1, "peak_lr": "fast"}}, "config.train.peak_lr='fast': a number is wanted"),
    ({"train": {"steps": 1, "peak_lr": float("nan")}}, "config.train.peak_lr=nan: a number is wanted"),
    ({"train": {"steps": 1, "nesterov": 1}}, "config.train.nesterov=1: true or false is wanted"),
    ({"train": {"steps": 1, "schedule": "cos"}}, "config.train.schedule='cos': one of 'cosine', 'linear' is wanted"),
    ({"train": {"steps": 1, "shape": [1]}}, "config.train.shape=[1]: a tuple"),
    ({"train": {"steps": 1, "stepz": 2}}, "config.train.stepz: there is no such field; did you mean 'steps'?"),
    ({"train": {}}, "config.train.steps: this field has no default and must be given"),
    ({"train": 3}, "config.train=3: a mapping of fields is wanted"),
    ({"seeds": 3}, "config.seeds=3: a tuple"),
    ({"seeds": [0, "1"]}, "config.seeds[1]='1': a whole number is wanted"),
    ({"note": 3}, "config.note=3: text is wanted"),
    ({"limits": {"flops": "few"}}, "config.limits.flops='few': a number is wanted"),
    ({"space": {"max_depth": 3}}, "config.space: the name of the space is missing (all: text, vision)"),
    ({"space": {"name": "visoin"}}, "config.space: unknown space 'visoin': did you mean 'vision'"),
    ({"space": {"name": 3}}, "config.space: unknown space '3'"),
    ({"space": {"name": "text", "max_depth": 1}}, "config.space.max_depth: there is no such field; there are: causal"),
    ({"space": {"name": "vision", "max_depth": 0}}, "config.space: max_depth=0: at least 1 is needed"),
    ({"spaces": {"x": {"name": "vision", "max_depth": 0}}}, "config.spaces.x: max_depth=0: at least 1 is needed"),
    ({"space": None}, "config.space=None: a mapping of fields is wanted"),
    ({"qqq": 1}, "config.qqq: there is no such field; there are: note, seeds, train"),
])
def test_what_is_wrong_is_told_with_its_place(change, message):
  with pytest.raises(UserError) as told:
    config.from_json(Experiment, change)
  assert str(told.value).startswith(message)


def test_a_component_has_no_field_called_name():
  with pytest.raises(AssertionError, match="cannot be a component"):
    config.open_up(Experiment(space="fake_parts:Named"))


# -- the command line: what ml_collections lets through, in whatever form, becomes one sentence ----------------------

CONFIG_FILE = '''
from nasformer import config
import test_config_twin

def get_config(size="tiny"):
  experiment = {"tiny": test_config_twin.Experiment, "unknown": lambda: test_config_twin.Experiment(space="visoin")}
  cfg = config.open_up(experiment[size]())
  return cfg
'''


@pytest.fixture
def parse(tmp_path, monkeypatch):
  """Parses arguments as a program would; {} in them stands for a config file."""
  (tmp_path / "tiny.py").write_text(CONFIG_FILE)
  (tmp_path / "syntax.py").write_text("def get_config(:\n")
  (tmp_path / "empty.py").write_text("")
  (tmp_path / "returns.py").write_text("def get_config():\n  pass\n")
  monkeypatch.delitem(sys.modules, "config_config", raising=False)  # where ml_collections leaves the last one
  monkeypatch.setitem(sys.modules, "test_config_twin", sys.modules[__name__])
  monkeypatch.chdir(tmp_path)

  def run(*arguments):
    argv = ["program", *(argument.replace("{}", "--config=tiny.py") for argument in arguments)]
    values = flags.FlagValues()
    flags.DEFINE_string("stages", "all", "", flag_values=values)
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    assert config.parse_flags(argv, values) == ["program"]
    return values.config and config.close(Experiment, values.config)

  return run


def test_without_overrides(parse):
  assert parse() is None
  assert parse("{}", "--stages=train") == Experiment()


@pytest.mark.parametrize("argument, value", [
    ("--config.seeds=(0,1,2)", lambda made: made.seeds == (0, 1, 2)),
    ("--config.seeds=5", lambda made: made.seeds == (5,)),
    ('--config.space.kinds=("softmax",)', lambda made: made.space.kinds == ("softmax",)),
    ("--config.space.kinds=softmax", lambda made: made.space.kinds == ("softmax",)),
    ("--config.train.peak_lr=1", lambda made: made.train.peak_lr == 1.0 and type(made.train.peak_lr) is float),
    ("--config.train.decay=0.1", lambda made: made.train.decay == 0.1),
    ("--config.train.nesterov", lambda made: made.train.nesterov is True),
    ("--noconfig.train.nesterov", lambda made: made.train.nesterov is False),
    ("--config.train.schedule=linear", lambda made: made.train.schedule == "linear"),
    ("--config.arms.mixed.restrict=depth=3", lambda made: made.arms["mixed"] == Arm("depth=3")),
    ("--config.spaces={'x': {'name': 'text'}}", lambda made: made.spaces == {"x": Text()}),
    ("--config.limits={'z': 1, 'b': 2}", lambda made: list(made.limits.items()) == [("z", 1.0), ("b", 2.0)]),
    ("--config.maybe={'restrict': 'depth=1'}", lambda made: made.maybe == Arm("depth=1")),
])
def test_overrides(parse, argument, value):
  assert value(parse("{}", argument))


@pytest.mark.parametrize("arguments, message", [
    (["--config=tinny.py"], "--config=tinny.py: there is no such file; did you mean 'tiny.py'"),
    (["--config=tinny.py", "--config.note=a"], "--config=tinny.py: there is no such file; did you mean 'tiny.py'"),
    (["--config", "tinny.py"], "--config=tinny.py: there is no such file"),
    (["--config=."], "--config=.: there is no such file; there are: empty.py, returns.py, syntax.py, tiny.py"),
    (["--config=syntax.py"], "--config=syntax.py: SyntaxError: "),
    (["--config=empty.py"], "--config=empty.py: KeyError: 'get_config'"),
    (["--config=returns.py"], "--config=returns.py: get_config returned None; what config.open_up returns"),
    (["{}:unknown"], "--config=tiny.py:unknown: config.space: unknown space 'visoin': did you mean 'vision'"),
    (["{}:huge"], "--config=tiny.py:huge: KeyError on line 7: 'huge'"),
    (["{}", "--config.trian.steps=3"], "--config.trian: there is no such field; did you mean 'train'?"),
    (["{}", "--config.train.stepz=3"], "--config.train.stepz: there is no such field; did you mean 'steps'?"),
    (["{}", "--config.train.steps.x=3"], "--config.train.steps.x: there is no such field; there are: none"),
    (["{}", "--config.a-b=3"], "--config.a-b: there is no such field"),
    (["{}", "--config.train.steps=1e3"], "--config.train.steps=1e3: a whole number is wanted"),
    (["{}", "--config.train.peak_lr=inf"], "--config.train.peak_lr=inf: a number is wanted"),
    (["{}", "--config.train.steps", "few"], "--config.train.steps=few: a whole number is wanted"),
    (["{}", "--config.train.decay=None"], "--config.train.decay=None: a number is wanted"),
    (["{}", "--config.train.nesterov=2"], "--config.train.nesterov=2: true or false is wanted"),
    (["{}", "--config.seeds=(0,1"], "--config.seeds=(0,1: a tuple, such as"),
    (["{}", "--config.seeds=(0,'a')"], "--config.seeds[1]='a': a whole number is wanted"),
    (["{}", "--config.space=text"], "--config.space=text: a mapping of fields is wanted"),
    (["{}", "--config.space.name=text"], "--config.space.kinds: there is no such field; there are: causal"),
    (["{}", "--config.space.max_depth=0"], "--config.space: max_depth=0: at least 1 is needed"),
    (["{}", "--config.train.schedule=cos"], "--config.train.schedule='cos': one of 'cosine', 'linear' is wanted"),
    (["--config.note=a", "{}"], "--config.note=a: a field can only be set after --config=FILE.py"),
    (["--config.note=a"], "--config.note=a: a field can only be set after --config=FILE.py"),
    (["{}", "--stagse=train"], "Unknown command line flag 'stagse'. Did you mean: stages"),
    (["--config"], "Missing value for flag --config"),
])
def test_a_mistake_on_the_command_line_is_one_sentence(parse, arguments, message):
  with pytest.raises(UserError) as told:
    parse(*arguments)
  assert str(told.value).startswith(message) and "\n" not in str(told.value) and "Traceback" not in str(told.value)


def test_as_the_flags_parser_of_a_program(tmp_path):
  (tmp_path / "empty.py").write_text("")
  program = """
import sys
from absl import app
from ml_collections import config_flags
from nasformer import config, types
config_flags.DEFINE_config_file("config")
try:
  app.run(lambda argv: print("ran", argv[1:]), flags_parser=config.parse_flags)
except types.UserError as error:
  sys.exit(str(error))
"""
  def run(*arguments):
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr

  assert run("rest") == (0, "ran ['rest']\n", "")
  assert run(f"--config={tmp_path}/empty.py") == (1, "", f"--config={tmp_path}/empty.py: KeyError: 'get_config'\n")
