"""The suite runs on two CPU devices, and every call is checked against its annotations of shapes and types."""

import dataclasses
import fcntl
import gc
import io
import math
import os
import pathlib
import resource
import runpy
import shutil
import subprocess
import sys

QUICK = ("--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # most of the time goes to compiling
         " --xla_cpu_prefer_vector_width=128")
os.environ.setdefault("XLA_FLAGS", QUICK)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the other worker has the other core

import jax
import jaxtyping
import pytest
import rich.console
from absl.testing import flagsaver
from jax.experimental.compilation_cache import compilation_cache
from jax.extend.core import ClosedJaxpr, Jaxpr

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jaxtyping.install_import_hook("nasformer", "beartype.beartype")

ROOT = pathlib.Path(__file__).parent.parent
MOST_MEMORY = 2.5e9  # bytes that a process of tests may fill before it forgets its compiled programs
MICRO = f"--config={ROOT / 'tests' / 'micro.py'}"
MICRO_TEXT = f"--config={ROOT / 'tests' / 'micro_text.py'}"


def pytest_collection_modifyitems(items):
  """Files that need a finished run come first, the two runs at the same time: else one worker would wait for the last file."""
  needs = {"finished_text": set(), "finished": set()}
  for item in items:
    for name in needs.keys() & item.fixturenames:
      needs[name].add(item.path)
  items.sort(key=lambda item: [item.path not in files for files in needs.values()])


def pytest_collection_finish():
  """What stays to the end, as modules and the tests themselves, is not gone through again and again for what can be freed."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 20, 100)


@pytest.fixture(scope="session")
def compiled(request):
  """Folder in pytest's cache for compiled programs, which outlive processes there; None where the cache is switched off."""
  return str(request.config.cache.mkdir("compiled")) if hasattr(request.config, "cache") else None


@pytest.fixture(autouse=True, scope="module")
def programs(request, compiled):
  """What the pipeline and searches compile is kept for other tests and processes, and the next run. To keep what tests of single
  parts compile would cost more than it saves; in memory it stays for the next file, as long as there is room."""
  keep = request.path.parent.name in ("tests", "search")
  jax.config.update("jax_compilation_cache_dir", compiled if keep else None)
  compilation_cache.reset_cache()
  yield
  if memory() > MOST_MEMORY:
    jax.clear_caches()


def memory():
  """Bytes of this process; without end where the system does not say."""
  pages = pathlib.Path("/proc/self/statm")
  return int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else math.inf


# -- the program -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Program:
  """`python -m nasformer.main` on a micro configuration, in processes with the devices and the compiled programs of the tests.

  Attributes:
    config: which one.
    compiled: folder of compiled programs, or None.
    keeps: whether it keeps what it compiles; one that will be killed must not, for it might leave half a file.
    devices: of each process.
  """

  config: str = MICRO
  compiled: str | None = None
  keeps: bool = True
  devices: int = 2

  def start(self, *flags, **options):
    """The running process."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(self.devices), "XLA_FLAGS": QUICK,
           "JAX_COMPILATION_CACHE_DIR": self.compiled or "",
           "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0" if self.keeps else "1e9"}
    return subprocess.Popen([sys.executable, "-m", "nasformer.main", self.config, *flags], cwd=ROOT, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

  def run(self, *flags, **options):
    """(exit status, standard output, standard error)."""
    process = self.start(*flags, **options)
    output, errors = process.communicate()
    return process.returncode, output, errors


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
  """A folder that all workers of this test session share."""
  folder = tmp_path_factory.getbasetemp()
  return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def program(compiled):
  return Program(MICRO, compiled)


@pytest.fixture(scope="session")
def text_program(compiled):
  return Program(MICRO_TEXT, compiled)


@pytest.fixture(scope="session")
def finished(program, shared):
  """Work directory of an uninterrupted run of all stages, with what it printed in output.txt; copy it to change it."""
  return run_once(program, shared, "finished")


@pytest.fixture(scope="session")
def finished_text(text_program, shared):
  """The same of the translation pipeline."""
  return run_once(text_program, shared, "finished_text")


def run_once(program, shared, name):
  workdir = shared / name
  with open(shared / f"{name}.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # one worker makes it, the others wait
    if not (workdir / "output.txt").exists():
      status, output, errors = program.run(f"--workdir={workdir}")
      assert status == 0, errors
      (workdir / "output.txt").write_text(output)
  return workdir


@pytest.fixture
def copied(finished, tmp_path):
  """A copy of the finished work directory."""
  return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def contents():
  """Function (folder) -> bytes of every file by its path, but for the lock and the log of times."""

  def read(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "timings.jsonl"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}

  return read


@pytest.fixture
def make_run():
  """Function (work directory, **fields of the micro experiment) -> Run that prints into memory."""
  from nasformer import config, experiment, workdir

  closed = config.close(experiment.Experiment, runpy.run_path(ROOT / "tests" / "micro.py")["get_config"]())
  return lambda path, **fields: workdir.Run(dataclasses.replace(closed, **fields), path,
                                            console=rich.console.Console(file=io.StringIO(), width=80))


@pytest.fixture
def command(monkeypatch, capsys):
  """Function (*flags) -> (exit status, standard output, standard error) of the program, run in this process."""
  from nasformer import main, stages  # define flags, some of them in the libraries that they import

  monkeypatch.setattr(main.app, "run", lambda main, flags_parser: main(flags_parser(sys.argv)))
  monkeypatch.delenv("NASFORMER_DATA", raising=False)

  def call(*flags):
    monkeypatch.setattr(sys, "argv", ["main.py", *flags])
    status = 0
    with flagsaver.flagsaver():
      try:
        main.run_main()
      except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()

  return call


# -- counting ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def count_products():
  """Function (fn, *args) -> multiply-adds of all matrix products, convolutions and Fourier transforms that fn does; args may
  be shapes."""
  return lambda fn, *args: _products(jax.make_jaxpr(fn)(*args).jaxpr)


def _products(jaxpr):
  return sum(map(_equation_products, jaxpr.eqns))


def _equation_products(equation):
  inner = [_products(getattr(part, "jaxpr", part)) for value in equation.params.values()
           for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, (Jaxpr, ClosedJaxpr))]
  match equation.primitive.name:
    case "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      lhs = equation.invars[0].aval.shape
      return equation.outvars[0].aval.size * math.prod(lhs[i] for i in contracted)
    case "conv_general_dilated":
      kernel, out_features = equation.invars[1].aval, equation.params["dimension_numbers"].rhs_spec[0]
      return equation.outvars[0].aval.size * kernel.size // kernel.shape[out_features]
    case "fft":  # of real numbers: half of 5 N log N / 2 multiply-adds
      length, = equation.params["fft_lengths"]
      transforms = max(equation.invars[0].aval.size, equation.outvars[0].aval.size) // length
      return transforms * round(1.25 * length * math.log2(length))
    case "scan":
      return equation.params["length"] * sum(inner)
    case "cond":
      return max(inner)
    case "while":
      assert not sum(inner), "products in a loop of unknown length cannot be counted"
  return sum(inner)
