"""Several processes that run one command together, such as one on each host of a TPU pod.

The first process alone reads and writes the work directory, prints, searches and measures; all of them train, each on its
share of every batch, and the weights are the same in all. So only the first needs the work directory, all need the data,
and nothing that is decided can differ between them. A process that dies ends the others: JAX watches them.
"""

import hashlib
import itertools
import pickle
import re
from typing import Any, Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from nasformer.types import Told, UserError

_WAIT_MS = 7 * 24 * 3600 * 1000  # for a stage of the first process, such as a search
_END_S = 30  # a process that fails waits so long for the others to end too
_TEXT_BYTES = 4096  # of a mistake
_PIECE_BYTES = 1 << 26  # that are sent at once: a checkpoint may be larger than what a 32-bit number counts
_MEETINGS = itertools.count()


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
  """Makes this process one of several. To be called before JAX is used.

  Args:
    coordinator: "HOST:PORT" of the first process; None, as for the others, where JAX finds the processes by itself.
    num_processes: how many there are.
    process_id: which this one is, from 0.

  Raises:
    UserError: the arguments contradict each other, or JAX finds no other processes.
  """
  given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
  missing = [f"--{name}" for name, value in given.items() if value is None]
  if len(missing) not in (0, 3):
    raise UserError(f"{' and '.join(missing)} missing: each process needs all of --coordinator=HOST:PORT, --num_processes"
                    " and --process_id, or --distributed alone")
  if coordinator is not None:
    if not re.fullmatch(r".+:\d+", coordinator):
      raise UserError(f"--coordinator={coordinator} must be HOST:PORT of the first process, such as 10.0.0.1:8476")
    if num_processes < 1:
      raise UserError(f"--num_processes={num_processes} must be at least 1")
    if not 0 <= process_id < num_processes:
      raise UserError(f"--process_id={process_id} must be one of 0 to {num_processes - 1}, for"
                      f" --num_processes={num_processes}")
  jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from ending the process
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id, shutdown_timeout_seconds=_END_S)
  except ValueError as error:  # no kind of cluster was detected
    raise UserError("--distributed: JAX finds no other processes here, as it does on Cloud TPU, Slurm and Open MPI: give"
                    " each process --coordinator=HOST:PORT --num_processes=N --process_id=I instead") from error


def first() -> bool:
  """Whether this is the process that keeps the work directory; the only one is."""
  return jax.process_index() == 0


def share() -> tuple[int, int]:
  """Which process this is, of how many."""
  return jax.process_index(), jax.process_count()


def led(act: Callable[[], Any]) -> Any:
  """What the first process gets from `act`, in all of them; the others wait for it.

  Args:
    act: is called in the first process only; where there are several, its result must be picklable.

  Raises:
    UserError: `act` raised one; in the other processes it is `Told`.
  """
  if jax.process_count() == 1:
    return act()
  message = pickle.dumps(_outcome(act)) if first() else b""
  _meet()
  value, mistake = pickle.loads(_heard(message))
  if mistake is not None:
    raise _mistake(mistake)
  return value


def agree(act: Callable[[], Any], what: str) -> Any:
  """What `act` gives, once it is certain that it gives the same in all processes.

  Args:
    act: is called in each; what it returns is compared by its `repr`.
    what: what that is, for the message.

  Raises:
    UserError: `act` raised one in some process, or one got something else than the first; in the others it is `Told`.
  """
  if jax.process_count() == 1:
    return act()
  value, mistake = _outcome(act)
  mine = np.zeros(32 + _TEXT_BYTES, np.uint8)
  said = hashlib.sha256(repr(value).encode()).digest() + (mistake or "").encode()[:_TEXT_BYTES]
  mine[: len(said)] = np.frombuffer(said, np.uint8)
  _meet()
  found = multihost_utils.process_allgather(mine)
  for number, row in enumerate(found):
    if row[32]:
      said = row[32:].tobytes().rstrip(bytes(1)).decode(errors="ignore")
      raise _mistake(f"process {number}: {said}" if number else said)
  for number, row in enumerate(found):
    if (row != found[0]).any():
      raise _mistake(f"process {number} of {len(found)} has other {what} than the first: give all the same")
  return value


def _outcome(act: Callable[[], Any]) -> tuple[Any, str | None]:
  """What `act` returns, and what it says of a person's mistake."""
  try:
    return act(), None
  except UserError as error:
    return None, str(error)


def _heard(message: bytes) -> bytes:
  """What the first process says, in all of them, with zeros behind; in pieces of few lengths, for each is compiled."""
  whole, rest = multihost_utils.broadcast_one_to_all(np.array(divmod(len(message), _PIECE_BYTES), np.int32)).tolist()
  pieces = []
  for number, size in enumerate([_PIECE_BYTES] * whole + [1 << rest.bit_length()]):
    mine = np.frombuffer(message, np.uint8)[number * _PIECE_BYTES :][:size]
    pieces.append(multihost_utils.broadcast_one_to_all(np.pad(mine, (0, size - len(mine)))).tobytes())
  return b"".join(pieces)


def _mistake(text: str) -> UserError:
  return UserError(text) if first() else Told(text)


def _meet() -> None:
  """Waits for all processes without keeping their devices busy."""
  multihost.get_barrier_sync_fn()(key=f"nasformer {next(_MEETINGS)}", timeout_ms=_WAIT_MS)
