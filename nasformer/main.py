"""The one entry point: `python -m nasformer.main --config=FILE.py[:argument] --workdir=DIR [--stages=a,b]`.

Any field of the experiment can be set on the command line, as in `--config.train.steps=500`.
"""

import contextlib
import functools
import importlib
import os
import pathlib
import signal
import sys

from absl import app, flags, logging
from ml_collections import config_dict, config_flags
from rich.console import Console

from nasformer import config
from nasformer.types import Told, UserError, first_line

_TABLES = ("space", "attention", "data", "tasks", "score", "search")

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Experiment file, such as experiments/quickstart/digits.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for everything the run makes. The same command again goes on "
                               "where it stopped.")
_STAGES = flags.DEFINE_list("stages", None, "Stages to run, in order: train, search, derive, retrain, evaluate, report. "
                            "These if left out. On demand: latency (measures networks "
                            "of the space into a table, to predict from) and trust (does the supernet order networks as "
                            "training them alone does?). Or translate, which needs --workdir only.")
_INPUT = flags.DEFINE_string("input", None, "For --stages=translate: text to translate, one sentence per line, plain or .gz; "
                             "standard input if left out.")
_PREFIXES = flags.DEFINE_string("prefixes", None, "For --stages=translate: what each translation is to begin with, line by "
                                "line like the input, plain or .gz; an empty line forces nothing.")
_ARM = flags.DEFINE_string("arm", None, "For --stages=translate: which search's winner translates, or baseline.")
_N_BEST = flags.DEFINE_integer("n_best", 1, "For --stages=translate: translations of each sentence, with their scores.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where data sets lie; NASFORMER_DATA if left out.")
_REPAIR = flags.DEFINE_bool("repair", False, "Set damaged checkpoints and trial logs aside and go on without them.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Be one of several processes, each started with the same flags, that train together; JAX finds "
    "them by itself on Cloud TPU pods and under Slurm and Open MPI. The first one keeps --workdir; all need the data.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Be one of several processes where --distributed does not find them: HOST:PORT of the first, with "
    "--num_processes and --process_id.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: which of them this is, from 0.")
_LIST = flags.DEFINE_bool("list", False, "List every component by table, and every field of --config with its value, and "
                          "end.")


def main(argv: list[str]) -> None:
  """Runs the stages that were asked for."""
  logging.set_verbosity(logging.WARNING)
  console = Console()
  if len(argv) > 1:
    raise UserError(f"{argv[1]!r} is not a flag: flags begin with --, as in --workdir=DIR")
  if _LIST.value:
    _print_tables(console)
    if _CONFIG.value:
      console.print("[bold]fields of this experiment, each a flag[/bold]", highlight=False)
      _print_fields(console, _CONFIG.value, "--config")
    return
  if _STAGES.value == ["translate"]:
    if _WORKDIR.value is None:
      raise UserError("--workdir is missing: --stages=translate needs the directory of a translation run that has ended")
    if _several():
      raise UserError("--stages=translate is for one process: leave the flags of several out")
    _translate()
    return
  for flag in (_CONFIG, _WORKDIR):
    if flag.value is None:
      raise UserError(f"--{flag.name} is missing: try --config=experiments/quickstart/digits.py --workdir=DIR, or --help")
  _run()


def _run() -> None:
  from nasformer import experiment, processes, stages, workdir  # JAX and the rest are not needed to list or to refuse
  from nasformer.compilations import counted
  from nasformer.store import files

  for name in _STAGES.value or ():
    if name not in stages.STAGES:
      raise UserError(f"--stages={','.join(_STAGES.value)}: there is no stage {name!r} (stages: {', '.join(stages.STAGES)}, or translate alone)")
  if _several():
    processes.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  console, path = Console(quiet=not processes.first()), pathlib.Path(_WORKDIR.value)
  with contextlib.ExitStack() as held:
    processes.led(lambda: held.enter_context(files.locked(files.writable_dir(path))))
    closed = processes.agree(lambda: config.close(experiment.Experiment, _CONFIG.value), "flags")
    names = processes.agree(lambda: _STAGES.value or stages.usual(closed), "--stages")
    run = workdir.Run(closed, path, _data_dir(), console, workdir.command_line(), _REPAIR.value)
    processes.led(run.begin)
    if set(names) & set(stages.OF_ALL):
      processes.agree(lambda: (run.splits.info, run.splits.sizes), "data")
    for name in sorted(names, key=list(stages.STAGES).index):
      stage = functools.partial(stages.STAGES[name], run)
      with counted() as count:
        stage() if name in stages.OF_ALL else processes.led(stage)
      if count.num:
        console.print(f"{name}: {count.num} programs compiled", highlight=False)
        run.note_timing(f"{name} total", seconds=count.seconds, compilations=count.num)


def _several() -> bool:
  """Whether this is one of several processes.

  Raises:
    UserError: flags contradict each other.
  """
  given = [f"--{flag.name}" for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID) if flag.value is not None]
  if _DISTRIBUTED.value and given:
    raise UserError(f"--distributed lets JAX find the processes and {' and '.join(given)} would name them: leave one or the"
                    " other out")
  return _DISTRIBUTED.value or bool(given)


def _translate() -> None:
  from nasformer import translating

  sys.stdout.reconfigure(encoding="utf-8")  # as the input is, whatever the terminal says
  for line in translating.translate(pathlib.Path(_WORKDIR.value), _INPUT.value, _ARM.value, _N_BEST.value,
                                    _PREFIXES.value):
    print(line)


def _data_dir() -> pathlib.Path | None:
  named = _DATA_DIR.value or os.environ.get("NASFORMER_DATA")
  return pathlib.Path(named) if named else None


def _print_tables(console: Console) -> None:
  for package in _TABLES:
    console.print(f"[bold]{package}[/bold]", highlight=False)
    for name, path in importlib.import_module(f"nasformer.{package}").TABLE.items():
      module, _, attribute = path.partition(":")
      console.print(f"  {name:20} {first_line(getattr(importlib.import_module(module), attribute))}", highlight=False,
                    markup=False, soft_wrap=True)


def _print_fields(console: Console, fields: config_dict.ConfigDict, path: str) -> None:
  for name in fields:
    if isinstance(fields[name], config_dict.ConfigDict):
      _print_fields(console, fields[name], f"{path}.{name}")
    else:
      console.print(f"  {path}.{name}={fields[name]!r}", markup=False, highlight=False, soft_wrap=True)


def run_main() -> None:
  """Runs `main`; a person's mistake ends in one sentence and exit status 1."""
  try:
    app.run(main, flags_parser=config.parse_flags)
  except UserError as error:
    if not isinstance(error, Told):
      print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
  except BrokenPipeError:  # the reader, such as head, has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)
  except KeyboardInterrupt:
    print("stopped; the same command goes on from here", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
  run_main()
