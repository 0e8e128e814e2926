"""`--stages=translate`: translates text with the winner of a work directory."""

import pathlib
import sys
from typing import Iterator

from nasformer import deploy
from nasformer.data import files
from nasformer.types import UserError


def translate(workdir: pathlib.Path, source: str | None, arm: str | None = None, n_best: int = 1,
              prefixes: str | None = None) -> Iterator[str]:
  """Lines to print, one for each line of the input, or up to `n_best` with the number of that line and their scores in front.

  Args:
    workdir: of a translation run whose search has ended.
    source: a text file, plain or .gz; None or "-" reads standard input.
    arm: which search's winner; the main one if None.
    n_best: how many translations of each line.
    prefixes: a text file, plain or .gz, of what the translations of each line are to begin with; None forces nothing.

  Raises:
    UserError: the run does not translate, a text is missing, empty or not UTF-8, or prefixes do not fit the input.
  """
  translator, params, _ = deploy.load(workdir, arm)
  if not hasattr(translator, "n_best"):
    raise UserError(f"--workdir={workdir}: --stages=translate needs a translation run, this one is of another task")
  beam = translator.decoding.beam
  if not 1 <= n_best <= beam:
    raise UserError(f"--n_best={n_best}: it must lie between 1 and {beam}, the beam of this run")
  sentences = files.text_lines(_standard_input(), "standard input") if source in (None, "-") else files.lines(
      pathlib.Path(source))
  forced = None if prefixes is None else translator.forced(sentences, _prefixes(prefixes), f"--prefixes={prefixes}")
  cut = translator.too_long(sentences)
  if cut:
    print(f"{cut} of {len(sentences)} lines have more than {translator.lengths[-1] - 1} tokens and were cut", file=sys.stderr)
  for number, found in enumerate(translator.n_best(params, sentences, forced), 1):
    if n_best == 1:
      yield files.one_line(found[0][0]) if found else ""
    else:
      yield from (f"{number}\t{score:.4f}\t{files.one_line(text)}" for text, score in found[:n_best])


def _prefixes(path: str) -> list[str]:
  if not pathlib.Path(path).is_file():
    raise UserError(f"--prefixes={path}: there is no such file, give a text with one line for each line of the input")
  return files.text_lines(files.content(pathlib.Path(path)), f"--prefixes={path}")


def _standard_input() -> bytes:
  return sys.stdin.buffer.read()
