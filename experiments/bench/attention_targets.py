"""Whether attention kinds are as quick and as small as they should be at 8,192 tokens: figures beside targets.

  python experiments/bench/attention_targets.py [--part=softmax --part=linear ...] [--length=8192] [--out=DIR]

Batch 1, 8 heads of 64, float32. A "core" is the attention between given queries, keys and values, a "layer" has its projections
from and to width 512; Luna, Mega and VVT, which own theirs, are compared with the layer of softmax. As projections alone pass
twice the inputs and outputs of a layer, memory is judged by cores; that of Luna is its two attentions between what it projects.
At 128 tokens layers are judged, and cores are shown. "Training" is forward and backward. Programs of a comparison run in turn,
round by round, and the fastest run of each counts, as a shared machine drifts. The floor of softmax is the time of as many
multiply-adds in products of matrices of 2,048 x 2,048. A dense form holds the weights of all pairs.

Every part takes a few minutes on two cores and writes its rows to --out (targets.jsonl); the table is printed from that file, so
parts may run one by one. `--part=pytorch`, which compares softmax with PyTorch's fused one, needs torch and is left out unless
named.
"""

import dataclasses
import math
import os
import pathlib
import time
import unittest.mock
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

from nasformer import attention, registry, workdir
from nasformer.attention import kernel, luna, nprf, softmax
from nasformer.attention.base import Context, Kind, Sizes, Tensor
from nasformer.nets import blocks
from nasformer.store.writers import JsonlWriter

WIDTH, HEADS, HEAD_DIM = 512, 8, 64
LINEAR = {"linear": 20, "cosformer": 20, "momentum": 20, "favor": 8, "luna": 8}  # how many times quicker than softmax to train
SMALL = (*LINEAR, "nprf", "vicinity")  # in memory
SHORT = (*SMALL, "vvt")  # quick at few tokens
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


def kind_of(name: str, length: int, **fields) -> Kind:
  """The kind, with room for so many tokens."""
  kind = registry.lookup(attention.TABLE, name, "attention kind")(**fields)
  return dataclasses.replace(kind, max_length=max(length, kind.max_length)) if hasattr(kind, "max_length") else kind


def program(kind: Kind, length: int, causal: bool = False, training: bool = False, layer: bool = False) -> Program:
  """Its layer or its core."""
  side, number, normal = 2 ** (int(math.log2(length)) // 2), 1 if layer else 3, jax.random.normal
  grid = (side, length // side) if kind.can.grid else None
  sizes, context = Sizes(WIDTH, HEADS, HEAD_DIM, causal=causal, grid=grid), Context(causal=causal, grid=grid)
  if layer:
    tensors, call = kind.params(sizes), lambda params, x: kind(params, x, x, context)[0]
  elif isinstance(kind, luna.Luna):
    number = 3 if causal else 2
    slots = Tensor((kind.memory_length, HEADS, HEAD_DIM), (None, "heads", "head_dim"), jax.nn.initializers.normal())
    tensors, call = {"slots": slots}, lambda params, *x: nested(kind, params["slots"], *x)
  else:
    tensors, call = kind.core_params(sizes), lambda params, *x: kind.attend(params, *x, context)
  params = blocks.initialise(jax.random.key(0), tensors)
  shape = (1, length, WIDTH) if layer else (1, length, HEADS, HEAD_DIM)
  inputs = [normal(jax.random.key(i), shape) for i in range(number)]
  if not training:
    return compiled(call, params, *inputs)
  loss = lambda params, slope, *x: (call(params, *x) * slope).sum()
  wanted = (0, *range(2, 2 + len(inputs))) if params else tuple(range(2, 2 + len(inputs)))
  return compiled(jax.grad(loss, wanted), params, normal(jax.random.key(9), shape), *inputs)


def nested(kind: luna.Luna, slots: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array | None = None) -> jax.Array:
  """What Luna does between its projections; the causal form has values beside its keys."""
  if v is None:
    found = kind._softmax(slots[None], k, k, None, Context(), 0)
    return kind._softmax(q, found, found, None, Context(), 1)
  weights = jnp.logaddexp2(jnp.einsum("bsnh,lnh->bsnl", k, slots), 0.0)
  return luna._by_chunks(q, v, None, weights, 1 + jnp.arange(q.shape[1], dtype=q.dtype)[None], None)


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
  kind = kind_of("softmax", length)
  programs = {"blocks": program(kind, length), "causal": program(kind, length, causal=True)}
  with unittest.mock.patch.object(softmax, "LONG", math.inf):
    programs["dense"] = program(kind, length)
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
  length, soft, words = _LENGTH.value, {}, {False: "forward", True: "training"}
  for layer in (False, True):
    names = [name for name in (*LINEAR, "nprf") if layer == (name == "luna")]
    programs = {(name, training, causal): program(kind_of(name, length), length, causal, training, layer)
                for name in names for training in words for causal in (False, True)}
    seconds = race(programs)
    softmax_kind = kind_of("softmax", length)
    soft = race({training: program(softmax_kind, length, training=training, layer=layer) for training in words}, 1)
    for name in names:
      for training, word in words.items():
        full, causal = seconds[name, training, False], seconds[name, training, True]
        wanted = LINEAR.get(name) if training else None
        yield f"{name}, {word}: softmax / {name}", soft[training] / full, "at least", wanted, full
        yield f"{name}, {word}: causal / bidirectional", causal / full, "at most", 2.5, causal


def of_memory():
  for name in SMALL:
    kind = kind_of(name, _LENGTH.value)
    for training, word in ((False, "forward"), (True, "training")):
      most = max(program(kind, _LENGTH.value, causal, training).memory for causal in {False, kind.can.causal})
      yield f"{name} core, {word}: peak memory / inputs and outputs", most, "at most", 2, None


def of_nprf():
  length = _LENGTH.value
  for training, word in ((False, "forward"), (True, "training")):
    programs = {"sums": program(kind_of("nprf", length), length, training=training),
                "softmax": program(kind_of("softmax", length), length, training=training)}
    whole = kind_of("nprf", length, max_distance=length - 1)
    for name, form, block in (
        ("transforms", "transforms", nprf.BLOCK), ("dense", "pairs", length), ("blocks", "pairs", nprf.BLOCK)):
      with unittest.mock.patch.multiple(nprf, form=lambda *_: form, BLOCK=block):
        programs[name] = program(whole, length, training=training)
    seconds = race(programs, 1)
    for name in ("transforms", "sums"):
      wanted = 5 if training or name == "sums" else None
      yield f"nprf, {word}: dense form / by {name}", seconds["dense"] / seconds[name], "at least", wanted, seconds[name]
      yield f"nprf, {word}: dense form in blocks / by {name}", seconds["blocks"] / seconds[name], "at least", None, None
      yield f"nprf, {word}: softmax / by {name}", seconds["softmax"] / seconds[name], "at least", None, None


def of_short():
  for layer in (False, True):
    names = [name for name in ("softmax", *SHORT) if layer or name not in ("luna", "vvt")]
    for training, word in ((False, "forward"), (True, "training")):
      seconds = race({name: program(kind_of(name, 128), 128, training=training, layer=layer) for name in names}, 20)
      for name in names[1:]:
        yield (f"{name} {'layer' if layer else 'core'}, 128 tokens, {word}: {name} / softmax",
               seconds[name] / seconds["softmax"], "at most", 2 if layer else None, seconds[name])


def of_layers():
  """Kinds that own their projections, which published code is timed with."""
  length = _LENGTH.value
  for name, kind in {"luna": kind_of("luna", length), "mega": kind_of("mega", length),
                     "mega in chunks": kind_of("mega", length, chunk_size=128)}.items():
    for causal, form in ((False, ""), (True, ", causal")):
      for training, word in ((False, "forward"), (True, "training")):
        programs = {each: program(one, length, causal, training, layer=True)
                    for each, one in ((name, kind), ("softmax", kind_of("softmax", length)))}
        seconds = race(programs, 1)
        gain = seconds["softmax"] / seconds[name]
        yield f"{name} layer{form}, {word}: softmax / {name}", gain, "at least", None, seconds[name]
        jax.clear_caches()


def of_chunks():
  """Chunks of the causal scan, beside those of the size in use: on another device another size may be better."""
  sizes = [kernel.CHUNK * 2**i // 2 for i in range(4)]
  for name in ("linear", "cosformer", "momentum", "favor"):
    programs = {}
    for size in sizes:
      with unittest.mock.patch.object(kernel, "CHUNK", size):
        programs[size] = program(kind_of(name, _LENGTH.value), _LENGTH.value, causal=True, training=True)
    seconds = race(programs)
    for size in sizes:
      wanted = None if size == kernel.CHUNK else 0.95
      yield (f"{name}, causal, training: chunks of {size} / of {kernel.CHUNK}", seconds[size] / seconds[kernel.CHUNK], "at least",
             wanted, seconds[size])
    jax.clear_caches()


def of_pytorch():
  try:
    import torch  # no part of the installation
  except ImportError as error:
    raise app.UsageError("--part=pytorch needs torch, which is not installed") from error
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  length, kind = _LENGTH.value, kind_of("softmax", _LENGTH.value)
  inputs = [torch.randn(1, HEADS, length, HEAD_DIM, requires_grad=True) for _ in range(4)]

  class Fused(NamedTuple):
    causal: bool
    training: bool

    def run(self):
      start = time.perf_counter()
      with torch.set_grad_enabled(self.training):
        out = torch.nn.functional.scaled_dot_product_attention(*inputs[:3], is_causal=self.causal)
      if self.training:
        torch.autograd.grad(out, inputs[:3], inputs[3])
      return time.perf_counter() - start

  for causal, form in ((False, "softmax"), (True, "softmax, causal")):
    for training, word in ((False, "forward"), (True, "training")):
      seconds = race({"ours": program(kind, length, causal, training), "torch": Fused(causal, training)}, 3)
      yield f"{form}, {word}: PyTorch {torch.__version__} / ours", seconds["torch"] / seconds["ours"], "at least", 1, seconds["ours"]


def of_growth():
  lengths = [2048, 4096, 8192, 16384]
  for name in (*LINEAR, "nprf"):
    for causal in (False, True):
      kind = kind_of(name, lengths[-1])
      programs = {length: program(kind, length, causal, True, layer=name == "luna") for length in lengths}
      seconds = race(programs)
      size = [one.seen + one.between for one in programs.values()]
      power = lambda y: float(np.polyfit(np.log(lengths), np.log(y), 1)[0])
      form = "causal" if causal else "bidirectional"
      yield f"{name}, training, {form}: time grows by length to the", power([*seconds.values()]), "at most", 1.2, None
      yield f"{name}, training, {form}: memory grows by length to the", power(size), "at most", 1.1, None
      jax.clear_caches()


PARTS = {"softmax": of_softmax, "linear": of_linear, "memory": of_memory, "nprf": of_nprf, "short": of_short,
         "layers": of_layers, "growth": of_growth, "chunks": of_chunks, "pytorch": of_pytorch}
_PARTS = flags.DEFINE_multi_enum("part", [name for name in PARTS if name != "pytorch"], list(PARTS),
                                 "What is measured; all but pytorch if left out.")


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
