"""Notebooks are short, clean, and run from the first cell to the last."""

import ast
import json
import pathlib

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "launch" / "colab").glob("*.ipynb"))
over_notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
  return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


@over_notebooks
def test_it_opens_with_a_badge_an_installation_and_imports(path):
  install, imports, *code = cells(path, "code")
  assert "colab-badge.svg" in cells(path, "markdown")[0] and "pip install" in install
  assert all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(imports).body)
  assert not any("pip install" in cell or "import " in cell for cell in code)


@over_notebooks
def test_it_is_short(path):
  code = cells(path, "code")[1:]
  assert sum(len(cell.splitlines()) for cell in code) <= 60
  for node in ast.walk(ast.parse("\n".join(code))):
    assert not isinstance(node, ast.FunctionDef) or node.end_lineno - node.lineno < 10


@over_notebooks
def test_it_holds_no_output(path):
  assert all(not cell["outputs"] and cell["execution_count"] is None
             for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code")


@over_notebooks
def test_it_runs(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("MPLBACKEND", "agg")
  names = {"__name__": "__main__"}
  for cell in cells(path, "code")[1:]:
    exec(compile(cell, str(path), "exec"), names)
