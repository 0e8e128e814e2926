"""Whether attention kinds are as quick and as small as they should be at 8,192 tokens: figures beside targets.

  python experiments/bench/attention_targets.py [--part=softmax --part=linear ...] [--length=8192] [--out=DIR]

Batch 1, 8 heads of 64, float32. A "core" is the attention between given queries, keys and values, a "layer" has its projections
from and to width 512; kinds without a core (Luna, Mega) are compared with the layer of softmax. As projections alone pass twice
the inputs and outputs of a layer, memory is judged by cores. "Training" is forward and backward. Programs of a comparison run in
turn, round by round, and the fastest run of each counts, as a shared machine drifts. The floor of softmax is the time of as many
multiply-adds in products of matrices of 2,048 x 2,048. A dense form holds the weights of all pairs.

Every part takes a few minutes on two cores and writes its rows to --out (targets.jsonl); the table is printed from that file, so
parts may run one by one.
"""

import dataclasses
import math
import os
import pathlib
import time
import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

from nasformer import attention, registry, workdir
from nasformer.attention import nprf, softmax
from nasformer.attention.base import Context, Core, Sizes
from nasformer.nets import blocks
from nasformer.store.writers import JsonlWriter

WIDTH, HEADS, HEAD_DIM = 512, 8, 64
LINEAR = {"linear": 20, "cosformer": 20, "momentum": 20, "favor": 8, "luna": 8}  # how many times quicker than softmax to train
_LENGTH = flags.DEFINE_integer("length", 8192, "Tokens.")
_ROUNDS = flags.DEFINE_integer("rounds", 4, "Timed rounds, after one that warms up.")
_OUT = flags.DEFINE_string("out", "attention_bench", "Where the rows go.")


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled call, its arguments, the bytes of its inputs and outputs, and those it needs in between."""

  compiled: object
  args: tuple
  seen: int
  between: int

  @property
  def memory(self) -> float:
    """Peak memory by that of inputs and outputs."""
    return 1 + self.between / self.seen

  def run(self) -> float:
    start = time.perf_counter()
    jax.block_until_ready(self.compiled(*self.args))
    return time.perf_counter() - start


def compiled(call, *args) -> Program:
  made = jax.jit(call).lower(*args).compile()
  plan = made.memory_analysis()
  return Program(made, args, plan.argument_size_in_bytes + plan.output_size_in_bytes, plan.temp_size_in_bytes)


def program(name: str, length: int, causal: bool = False, training: bool = False, layer: bool = False) -> Program:
  """One kind; where it has no core, its layer."""
  kind, sizes = registry.lookup(attention.TABLE, name, "attention kind")(), Sizes(WIDTH, HEADS, HEAD_DIM, causal=causal)
  if hasattr(kind, "max_length"):
    kind = dataclasses.replace(kind, max_length=max(length, kind.max_length))
  layer, context, normal = layer or not isinstance(kind, Core), Context(causal=causal), jax.random.normal
  params = blocks.initialise(jax.random.key(0), kind.params(sizes) if layer else kind.core_params(sizes))
  shape = (1, length, WIDTH) if layer else (1, length, HEADS, HEAD_DIM)
  inputs = [normal(jax.random.key(i), shape) for i in range(1 if layer else 3)]
  call = (lambda params, x: kind(params, x, x, context)[0]) if layer else lambda params, *x: kind.attend(params, *x, context)
  if not training:
    return compiled(call, params, *inputs)
  loss = lambda params, slope, *x: (call(params, *x) * slope).sum()
  wanted = (0, *range(2, 2 + len(inputs))) if params else tuple(range(2, 2 + len(inputs)))
  return compiled(jax.grad(loss, wanted), params, normal(jax.random.key(9), shape), *inputs)


def race(programs: dict, rounds: int | None = None) -> dict:
  """Seconds of each."""
  best = {name: min(one.run(), one.run()) for name, one in programs.items()}
  for _ in range(rounds or _ROUNDS.value):
    for name, one in programs.items():
      for _ in range(max(1, min(20, int(0.02 / best[name])))):
        best[name] = min(best[name], one.run())
  return best


# -- parts -------------------------------------------------------------------------------------------------------------
# each yields rows: what is compared, the figure, "at least" or "at most", the target (None: for orientation), seconds


def of_softmax():
  length = _LENGTH.value
  programs = {"blocks": program("softmax", length), "causal": program("softmax", length, causal=True)}
  with unittest.mock.patch.object(softmax, "LONG", math.inf):
    programs["dense"] = program("softmax", length)
  square = jnp.ones((2048, 2048))
  programs["floor"] = compiled(lambda x: x @ x, square)
  seconds = race(programs)
  work = 2 * HEADS * length**2 * HEAD_DIM / 2048**3
  q = jnp.ones((1, length, HEADS, HEAD_DIM))
  library = race({is_causal: compiled(lambda x: jax.nn.dot_product_attention(x, x, x, is_causal=is_causal), q)
                  for is_causal in (False, True)}, 1)
  yield "softmax: dense form / blocks", seconds["dense"] / seconds["blocks"], "at least", 2.5, seconds["blocks"]
  yield "softmax: blocks / floor of matrix products", seconds["blocks"] / (work * seconds["floor"]), "at most", 1.5, None
  yield "softmax: jax.nn / blocks", library[False] / seconds["blocks"], "at least", None, library[False]
  yield "softmax, causal: jax.nn / blocks", library[True] / seconds["causal"], "at least", None, seconds["causal"]


def of_linear():
  length, soft = _LENGTH.value, {}
  for layer in (False, True):
    names = [name for name in LINEAR if layer == (name == "luna")]
    programs = {(name, training, causal): program(name, length, causal, training)
                for name in names for training in (False, True) for causal in (False, True)}
    seconds = race(programs)
    soft = race({training: program("softmax", length, training=training, layer=layer) for training in (False, True)}, 1)
    for name in names:
      for training, word in ((False, "forward"), (True, "training")):
        full, causal = seconds[name, training, False], seconds[name, training, True]
        wanted = LINEAR[name] if training else None
        yield f"{name}, {word}: softmax / {name}", soft[training] / full, "at least", wanted, full
        yield f"{name}, {word}: causal / bidirectional", causal / full, "at most", 2.5, causal
      for training, word in ((False, "forward"), (True, "training")):
        most = max(programs[name, training, causal].memory for causal in (False, True))
        yield f"{name}, {word}: peak memory / inputs and outputs", most, "at most", None if layer else 2, None


def of_nprf():
  length = _LENGTH.value
  programs = {"default": program("nprf", length), "softmax": program("softmax", length)}
  for name, block in (("transforms", nprf.BLOCK), ("pairs", length)):
    with unittest.mock.patch.multiple(nprf, form=lambda *_: name, BLOCK=block):
      programs[name] = program("nprf", length)
  seconds = race(programs, 2)
  yield "nprf: dense form / by sums", seconds["pairs"] / seconds["default"], "at least", 5, seconds["default"]
  yield "nprf: dense form / by transforms", seconds["pairs"] / seconds["transforms"], "at least", None, seconds["transforms"]
  yield "nprf: softmax / by sums", seconds["softmax"] / seconds["default"], "at least", None, None
  yield "nprf: softmax / by transforms", seconds["softmax"] / seconds["transforms"], "at least", None, None
  for training, word in ((False, "forward"), (True, "training")):
    most = max(program("nprf", length, causal, training).memory for causal in (False, True))
    yield f"nprf, {word}: peak memory / inputs and outputs", most, "at most", 2, None


def of_short():
  for layer in (False, True):
    names = [name for name in ("softmax", *LINEAR, "nprf") if layer or name != "luna"]
    for training, word in ((False, "forward"), (True, "training")):
      seconds = race({name: program(name, 128, training=training, layer=layer) for name in names}, 20)
      for name in names[1:]:
        yield (f"{name} {'layer' if layer else 'core'}, 128 tokens, {word}: {name} / softmax",
               seconds[name] / seconds["softmax"], "at most", 2 if layer or name != "favor" else None, seconds[name])


def of_growth():
  lengths = [2048, 4096, 8192, 16384]
  for name in (*LINEAR, "nprf"):
    for causal in (False, True):
      programs = {length: program(name, length, causal, True) for length in lengths}
      seconds = race(programs)
      size = [one.seen + one.between for one in programs.values()]
      power = lambda y: float(np.polyfit(np.log(lengths), np.log(y), 1)[0])
      form = "causal" if causal else "bidirectional"
      yield f"{name}, training, {form}: time grows by length to the", power([*seconds.values()]), "at most", 1.2, None
      yield f"{name}, training, {form}: memory grows by length to the", power(size), "at most", 1.1, None
      jax.clear_caches()


PARTS = {"softmax": of_softmax, "linear": of_linear, "nprf": of_nprf, "short": of_short, "growth": of_growth}
_PARTS = flags.DEFINE_multi_enum("part", list(PARTS), list(PARTS), "What is measured; all if left out.")


def verdicts(rows: list[dict]) -> Table:
  table = Table(title=f"Attention kinds, {WIDTH} wide, {HEADS} heads, batch 1, float32")
  for head in ("comparison", "got", "wanted", "", "milliseconds"):
    table.add_column(head, justify="left" if head in ("comparison", "") else "right")
  for row in {row["comparison"]: row for row in rows}.values():  # the last measurement counts
    wanted, good = "", ""
    if row["target"] is not None:
      wanted = f"{row['sense']} {row['target']:g}"
      good = "yes" if (row["got"] >= row["target"]) == (row["sense"] == "at least") else "NO"
    table.add_row(row["comparison"], f"{row['got']:.2f}", wanted, good, f"{row['ms']:.1f}" if row["ms"] else "")
  return table


def main(_):
  logging.set_verbosity(logging.WARNING)
  console, log = Console(width=140), JsonlWriter(pathlib.Path(_OUT.value) / "targets.jsonl")
  for part in _PARTS.value:
    for comparison, got, sense, target, seconds in PARTS[part]():
      row = {"comparison": comparison, "got": got, "sense": sense, "target": target, "ms": seconds and 1e3 * seconds}
      log.write(row | {"device": workdir.device(), "jax": jax.__version__, "tokens": _LENGTH.value, "load": os.getloadavg()[0]})
  console.print(verdicts(log.read()))
  console.print(f"{workdir.device()}, jax {jax.__version__}")


if __name__ == "__main__":
  app.run(main)
