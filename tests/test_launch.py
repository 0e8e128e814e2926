"""The launchers, with a made-up Python that notes what it is asked to do."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))

# Passes for a Python of version $VERSION; `-m venv DIR` makes DIR/bin/python, which has pip unless $NO_PIP is set.
STUB = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in
  -c*) [ "${VERSION:-3.11}" != 3.10 ];;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
  "-m pip --version") [ -z "${NO_PIP:-}" ];;
  "-m pip install"*) [ -z "${OFFLINE:-}" ];;
esac
"""


def stub(folder, *names):
  folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    (folder / name).write_text(STUB)
    (folder / name).chmod(0o755)


@pytest.fixture
def bash(tmp_path):
  """Function (commands, **environment) -> finished process, in a copy of what the launchers need."""
  for name in ("launch", "setup.cfg", "pyproject.toml"):
    copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
    copy(ROOT / name, tmp_path / name)
  tools = tmp_path / "tools"
  tools.mkdir()
  for name in ("bash", "env", "cat", "cksum", "basename", "dirname", "mkdir", "cp"):
    (tools / name).symlink_to(shutil.which(name))

  def call(commands, **environment):
    path = os.pathsep.join([str(tmp_path / "pythons"), str(tools)])
    return subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, text=True, capture_output=True,
                          env={"PATH": path, "CALLS": str(tmp_path / "calls"), **environment})

  return call


@pytest.fixture
def calls(tmp_path):
  """Function () -> what Pythons were asked to do since the last time, without the questions about their version."""

  def take():
    path = tmp_path / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line for line in lines if " -c " not in line and "--version" not in line]

  return take


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
  subprocess.run(["bash", "-n", script], check=True)


def test_the_best_python_is_found(bash, tmp_path):
  find = "source launch/environment.sh; find_python"
  result = bash(find)
  assert result.returncode == 1 and result.stderr.startswith("error: Python 3.11 or newer with venv is needed")
  stub(tmp_path / "pythons", "python")
  assert bash(find).stdout == "python\n"
  stub(tmp_path / "pythons", "python3.11", "python3.12")
  assert bash(find).stdout == "python3.12\n"
  stub(tmp_path / "elsewhere", "mine")
  assert bash(find, PYTHON=str(tmp_path / "elsewhere" / "mine")).stdout == f"{tmp_path}/elsewhere/mine\n"
  assert bash(find, VERSION="3.10").returncode == 1


def test_what_is_installed_is_not_installed_again(bash, calls, tmp_path):
  stub(tmp_path / "pythons", "python3")
  install = 'source launch/environment.sh; install "[test]"'
  assert "installing nasformer[test] into .venv" in bash(install).stdout
  asked = calls()
  assert asked[0] == "python3 -m venv .venv" and len(asked) == 2
  assert asked[1].startswith("python -m pip install") and asked[1].endswith("--editable .[test]")
  again = bash(install)
  assert (again.returncode, again.stdout, calls()) == (0, "", [])
  with open(tmp_path / "setup.cfg", "a") as file:
    file.write("\n# one more requirement\n")
  bash(install)
  assert len(calls()) == 1 and bash(install).stdout == ""


def test_an_installation_that_failed_is_tried_again(bash, calls, tmp_path):
  stub(tmp_path / "pythons", "python3")
  install = 'source launch/environment.sh; install ""'
  assert bash(install, OFFLINE="1").returncode != 0 and len(calls()) == 2
  assert bash(install).returncode == 0 and len(calls()) == 1


def test_an_environment_that_was_cut_short_is_finished(bash, calls, tmp_path):
  """A kill between its Python and its pip."""
  stub(tmp_path / "pythons", "python3")
  stub(tmp_path / ".venv" / "bin", "python")
  assert bash('source launch/environment.sh; install ""', NO_PIP="1").returncode == 0
  assert calls()[0] == "python3 -m venv .venv"


@pytest.mark.parametrize("script, module", [("local.sh", "nasformer.main"), ("test.sh", "pytest"),
                                            ("tpu_pod.sh", "nasformer.main --distributed")])
def test_a_launcher_passes_flags_on(bash, calls, tmp_path, script, module):
  stub(tmp_path / "pythons", "python3")
  result = bash(f"cd launch; bash {script} --one='(0, 1)' two")
  assert result.returncode == 0, result.stderr
  last = calls()[-1]
  assert last.startswith(f"python -m {module}") and last.endswith("--one=(0, 1) two")
