"""Progress with the time that is left: a bar on a terminal, a line now and then in a log file."""

import contextlib
import time
from typing import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LOG_EVERY_S = 15.0


@contextlib.contextmanager
def bar(console: Console, label: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
  """Shows how far a stage is.

  Args:
    console: where.
    label: what is going on.
    total: units of work in all.
    done: units that an earlier run did.

  Yields:
    (units done, note) -> None, to be called as work goes on.
  """
  show = _terminal if console.is_terminal else _log
  with show(console, label, total, done) as update:
    yield update


@contextlib.contextmanager
def _terminal(console, label, total, done):
  columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
             TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
  with Progress(*columns, console=console) as progress:
    task = progress.add_task(label, total=total, completed=done, note="")
    yield lambda now, note="": progress.update(task, completed=now, note=note)


@contextlib.contextmanager
def _log(console, label, total, done):
  start = last = time.monotonic()
  first = done

  def update(now, note=""):
    nonlocal last
    if time.monotonic() - last >= _LOG_EVERY_S and now < total:
      last = time.monotonic()
      left = (last - start) / max(now - first, 1e-9) * (total - now)
      console.print(f"{label}: {now}/{total}, {_clock(left)} left  {note}", highlight=False)

  console.print(f"{label} ...", highlight=False)
  yield update
  console.print(f"{label}: done in {_clock(time.monotonic() - start)}", highlight=False)


def _clock(seconds: float) -> str:
  return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
