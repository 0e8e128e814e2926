"""What every attention kind costs beside softmax, by length: time and memory of a layer, and where the lines cross.

  python experiments/bench/attention.py [--lengths=64,256,1024,4096] [--kinds='linear,luna,luna(memory_length=8)']
      [--modes=bidirectional,causal] [--dtype=bfloat16] [--batch=8] [--out=DIR]

A layer is the kind with its projections, from width 512 to width 512, 8 heads of 64: forward, forward and backward, and one
step of decoding with all but one position behind it. "softmax (jax.nn)" is `jax.nn.dot_product_attention` between the same
projections. Unless kinds are named there are all, NPRF with a table of all distances, and Mega in chunks of 128. All kinds of
a length are timed in turn, round by round, and the fastest round counts. Memory is the peak of the compiled program. "Of the
device" is the least time that the device could take, by its measured rate of matrix products (m) for the counted ones, the
backward pass counting twice, or by its measured bandwidth (b) for the bytes of all inputs and outputs, whichever is more,
over the time taken. A kind is left out of longer lengths once the next would take more than --most seconds, and out of those
that take more than --most_gb of memory.

Written to --out: attention.jsonl, one line per measurement after one that says where, to which a second run adds its own;
attention.png. So modes, kinds and lengths may be measured one by one; the last measurement of each counts.
`--modes=` only draws again.

`--config.search.attention_table=DIR/attention.jsonl` makes a search of that its cost attention_ms: forward times of the
attention layers of a network, by length and in proportion to their width (`nasformer/score/layers.py`). The latency of whole
networks is what `--stages=latency` measures.
"""

import ast
import dataclasses
import importlib.metadata
import itertools
import math
import os
import pathlib
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from nasformer import attention, config, registry, workdir
from nasformer.attention import naming
from nasformer.attention.base import Context, Sizes
from nasformer.attention.softmax import Softmax
from nasformer.nets import blocks
from nasformer.score.memory import PeakMemory
from nasformer.store.writers import JsonlWriter
from nasformer.types import UserError

WIDTH, HEADS, HEAD_DIM = 512, 8, 64
_LENGTHS = flags.DEFINE_list("lengths", [str(2**i) for i in range(6, 15)], "Tokens.")
_KINDS = flags.DEFINE_list("kinds", [], "Kinds beside softmax; all if left out.")
_MODES = flags.DEFINE_list("modes", ["bidirectional", "causal", "cross"], "Forms of attention.")
_WHAT = flags.DEFINE_list("what", ["forward", "gradient", "step"], "What is timed.")
_BATCH = flags.DEFINE_integer("batch", 1, "Sequences at a time; an accelerator needs several to be busy.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute type.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed rounds.")
_MOST = flags.DEFINE_float("most", 8.0, "Seconds that one call may take.")
_MOST_GB = flags.DEFINE_float("most_gb", 8.0, "Gigabytes that one call may take.")
_OUT = flags.DEFINE_string("out", "attention_bench", "Where the figure and the table go.")


@dataclasses.dataclass(frozen=True)
class Library(Softmax):
  """Softmax as the library of arrays has it."""

  def attend(self, params, q, k, v, context):
    return jax.nn.dot_product_attention(q, k, v, is_causal=context.causal, implementation="xla")


def kinds() -> dict:
  """Those asked for, with room for the longest input, and softmax."""
  longest = max(map(int, _LENGTHS.value))
  usual = (*attention.TABLE, f"nprf(max_distance={longest - 1})", "mega(chunk_size=128)")

  def made(text):
    name, settings = re.fullmatch(r"(.+?)(?:\((.*)\))?", text).groups(default="")
    fields = {field: written(value) for field, _, value in (setting.partition("=") for setting in settings.split())}
    kind = config.from_json(registry.lookup(attention.TABLE, name, "attention kind"), fields, f"--kinds={text}")
    return dataclasses.replace(kind, max_length=longest) if hasattr(kind, "max_length") else kind

  every = [made(text) for text in ("softmax", *(_KINDS.value or usual))]
  return {"softmax": every[0], "softmax (jax.nn)": Library()} | {naming.label(kind): kind for kind in every}


def written(text: str) -> Any:
  """A number, True, False, None, or the text itself."""
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


def able(kind, mode: str, what: str) -> bool:
  if what == "step" and (mode != "causal" or isinstance(kind, Library)):
    return False
  return {"bidirectional": True, "causal": kind.can.causal, "cross": kind.can.cross}[mode]


class Program(NamedTuple):
  """A compiled call, its arguments, its multiply-adds in matrix products, and what it holds in memory at most, in MB."""

  compiled: Any
  args: tuple
  products: int
  memory: float

  def floor(self, rate: float, bandwidth: float) -> tuple[float, str]:
    """Least seconds, and by what."""
    plan = self.compiled.memory_analysis()
    moved = plan.argument_size_in_bytes + plan.output_size_in_bytes
    return max((self.products / rate, "m"), (moved / bandwidth, "b"))


def program(kind, mode: str, what: str, length: int) -> Program:
  batch, causal, side = _BATCH.value, mode == "causal", 2 ** (int(math.log2(length)) // 2)
  grid = (side, length // side) if kind.can.grid else None
  sizes = Sizes(WIDTH, HEADS, HEAD_DIM, WIDTH if mode == "cross" else None, causal=causal, grid=grid)
  params = blocks.initialise(jax.random.key(0), kind.params(sizes))
  dtype = jnp.dtype(_DTYPE.value)
  x, source, weight = (jax.random.normal(jax.random.key(i), (batch, length, WIDTH), dtype) for i in range(3))
  context = Context(causal=causal, stream=mode == "cross", grid=grid)
  layer = lambda params, x, source: kind(params, x, source if mode == "cross" else x, context)[0]
  products = batch * kind.count(sizes, length, length, causal).products
  if what == "forward":
    call, args = layer, (params, x, source)
  elif what == "gradient":
    loss = lambda params, x, source, weight: (layer(params, x, source) * weight).astype(jnp.float32).sum()
    call, args, products = jax.grad(loss, argnums=(0, 1, 2)), (params, x, source, weight), 3 * products
  else:
    state = kind.begin(params, batch, length, dtype)
    call = lambda params, x, state: kind.step(params, x, state, jnp.int32(length - 1))[:2]
    args, products = (params, x[:, :1], state), products // length
  compiled = jax.jit(call).lower(*args).compile()
  return Program(compiled, args, products, PeakMemory().planned(compiled))


def ceilings() -> tuple[float, float]:
  """Multiply-adds of matrix products, and bytes of a large array read and written, in a second on this device."""
  side, many = (2048, 2**25) if jax.default_backend() == "cpu" else (8192, 2**29)
  square = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(_DTYPE.value))
  product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
  fastest = lambda call, *args: min(timed(call, args, 5) for _ in range(4))
  big = jnp.ones(many, jnp.float32)
  return side**3 / fastest(product, square, square), 2 * big.nbytes / fastest(copy, big)


def timed(compiled, args, repeat: int) -> float:
  start = time.perf_counter()
  for _ in range(repeat):
    out = compiled(*args)
  jax.block_until_ready(out)
  return (time.perf_counter() - start) / repeat


def measure(mode: str, what: str, device: tuple[float, float], console: Console) -> list[dict]:
  rows, last = [], {}
  for length in map(int, _LENGTHS.value):
    wanted = {}
    for name, kind in kinds().items():
      growth = 4.5 * (length / last[name][0]) ** 2 / 4 if name in last else 0
      if able(kind, mode, what) and not (name in last and last[name][1] * growth > _MOST.value):
        wanted[name] = kind
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
      made = pool.map(lambda kind: program(kind, mode, what, length), wanted.values())
      ready = {name: one for name, one in zip(wanted, made) if one.memory <= 1e3 * _MOST_GB.value}
    best = {}
    for turn in range(_ROUNDS.value + 1):
      for name, one in ready.items():
        repeat = 1 if name not in best else max(1, min(50, int(0.02 / best[name])))
        seconds = timed(one.compiled, one.args, repeat)
        best[name] = seconds if turn <= 1 else min(best[name], seconds)  # the first round warms up
    last = {name: (length, seconds) for name, seconds in best.items()}
    for name, one in ready.items():
      least, by = one.floor(*device)
      rows.append({"mode": mode, "what": what, "length": length, "kind": name, "ms": 1e3 * best[name], "memory_mb": one.memory,
                   "of_device": least / best[name], "by": by})
    console.print(f"{mode}, {what}, {length}: {', '.join(f'{name} {1e3 * value:.3g}' for name, value in best.items())} ms")
    jax.clear_caches()
  return rows


def crossing(rows: list[dict], name: str) -> str:
  """The length from which on a kind is faster than softmax, between two measured ones by a line in logarithms.

  At the last length it must be faster by 5 %, for less is chance.
  """
  at = lambda kind: {row["length"]: row["ms"] for row in rows if row["kind"] == kind}
  soft, mine = at("softmax"), at(name)
  lengths = sorted(set(soft) & set(mine))
  gains = [math.log(soft[length] / mine[length]) for length in lengths]
  if not gains or gains[-1] <= 0.05:
    return f"beyond {lengths[-1]:,}" if lengths else ""
  last = max((i for i, gain in enumerate(gains) if gain <= 0), default=None)
  if last is None:
    return f"below {lengths[0]:,}"
  share = -gains[last] / (gains[last + 1] - gains[last])
  return f"{lengths[last] * (lengths[last + 1] / lengths[last]) ** share:,.0f}"


def exponent(rows: list[dict], name: str, column: str) -> float:
  """Power of the length by which time or memory grows from 2,048 tokens on."""
  points = [(row["length"], row[column]) for row in rows if row["kind"] == name and row["length"] >= 2048]
  return float(np.polyfit(*np.log(np.array(points)).T, 1)[0]) if len(points) > 1 else math.nan


def summary(rows: list[dict], mode: str, what: str) -> Table:
  rows = [row for row in rows if (row["mode"], row["what"]) == (mode, what)]
  lengths = sorted({row["length"] for row in rows})
  table = Table(title=f"{mode}, {what}: milliseconds of a layer ({_DTYPE.value}, batch {_BATCH.value})")
  for head in ("kind", *(f"{length:,}" for length in lengths), "faster than softmax from", "time ~ n^", "memory ~ n^",
               "of the device"):
    table.add_column(head, justify="left" if head == "kind" else "right")
  for name in dict.fromkeys(row["kind"] for row in rows):
    at = {row["length"]: row for row in rows if row["kind"] == name}
    last = at[max(at)]
    table.add_row(name, *(f"{at[length]['ms']:.3g}" if length in at else "" for length in lengths),
                  "" if name == "softmax" else crossing(rows, name), f"{exponent(rows, name, 'ms'):.2f}",
                  f"{exponent(rows, name, 'memory_mb'):.2f}", f"{last['of_device']:.0%} {last['by']}")
  return table


def picture(rows: list[dict]) -> Figure:
  """A row for each mode; a column for the time of each of what is timed, and one for the memory of a gradient."""
  modes, whats = (list(dict.fromkeys(row[name] for row in rows)) for name in ("mode", "what"))
  columns = [(what, "ms") for what in whats] + [("gradient", "memory_mb")]
  figure = Figure((4 * len(columns), 3 * len(modes) + 0.8), layout="constrained")
  every = figure.subplots(len(modes), len(columns), squeeze=False)
  names = list(dict.fromkeys(row["kind"] for row in rows))
  handles = {}
  for place, (mode, (what, unit)) in zip(every.flat, itertools.product(modes, columns)):
    for number, name in enumerate(names):
      mine = [row for row in rows if (row["mode"], row["what"], row["kind"]) == (mode, what, name)]
      line = sorted((row["length"], row[unit]) for row in mine)
      if line:
        handles[name], = place.loglog(*zip(*line), color="black" if name == "softmax" else f"C{number % 10}", marker=".",
                                      label=name, ls="--" if number > 9 else "-", lw=2 if name == "softmax" else 1)
    place.set(title=f"{mode}, {what if unit == 'ms' else 'memory of a gradient'}", xlabel="tokens",
              ylabel="ms" if unit == "ms" else "MB at most")
    place.set_visible(place.has_data())
  figure.legend(handles=[handles[name] for name in names], loc="outside lower center", ncols=6, fontsize=8)
  return figure


def main(_):
  logging.set_verbosity(logging.WARNING)
  console, folder = Console(width=220), pathlib.Path(_OUT.value)
  log = JsonlWriter(folder / "attention.jsonl")
  header = {"device": workdir.device(), "jax": importlib.metadata.version("jax"), "dtype": _DTYPE.value, "batch": _BATCH.value,
            "width": WIDTH, "heads": HEADS}
  if not log.read():
    log.write(header)
  if log.read()[0] != header:
    raise UserError(f"--out={folder} holds {log.read()[0]}, not {header}: name another folder")
  device = ceilings()
  console.print(f"{2e-12 * device[0]:.3g} TFLOP/s of matrix products, {1e-9 * device[1]:.4g} GB/s")
  for mode in _MODES.value:
    for what in _WHAT.value:
      if what != "step" or mode == "causal":
        for row in measure(mode, what, device, console):
          log.write(row | {"load": os.getloadavg()[0]})
  rows = list({tuple(row[name] for name in ("mode", "what", "length", "kind")): row for row in log.read()[1:]}.values())
  picture(rows).savefig(folder / "attention.png", dpi=90)
  for mode, what in dict.fromkeys((row["mode"], row["what"]) for row in rows):
    console.print(summary(rows, mode, what))
  console.print(f"{header['device']}, jax {header['jax']}; table and figure: {folder}")


def run_main():
  try:
    app.run(main)
  except UserError as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  run_main()
