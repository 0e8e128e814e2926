"""What attention kinds cost beside each other, without their projections, all in one run.

  python experiments/bench/attention.py --rows=softmax,linear,linear/causal [--length=8192] [--batch=1] [--heads=8] [--head_dim=64]
  python experiments/bench/attention.py --rows=linear/causal,linear/causal/kernel.CHUNK=128,softmax/softmax.LONG=1000000

A row is a kind, maybe causal, and what constants of modules of `nasformer.attention` and fields of the kind it is to be tried
with. Rows are timed in turn, round by round, and the fastest round counts, so that a busy machine disturbs them alike; "work" is
the processor time of all threads, which it disturbs least. "gradient" is the forward and the backward pass together. "extra" is
what the compiled programs need beside inputs and outputs, as a multiple of these.
"""

import ast
import importlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from nasformer import attention, registry, workdir
from nasformer.attention.base import Context, Sizes

_ROWS = flags.DEFINE_list("rows", ["softmax", "linear", "linear/causal"], "What to time.")
_LENGTH = flags.DEFINE_integer("length", 8192, "Queries and keys.")
_BATCH = flags.DEFINE_integer("batch", 1, "Sequences.")
_HEADS = flags.DEFINE_integer("heads", 8, "Heads.")
_HEAD_DIM = flags.DEFINE_integer("head_dim", 64, "Width of a head.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds.")


def programs(row: str, inputs: list) -> dict:
  """The compiled forward pass of a row, and its gradient."""
  name, *options = row.split("/")
  fields = {}
  for option in options:
    key, _, value = option.partition("=")
    if "." in key:
      module, _, constant = key.partition(".")
      setattr(importlib.import_module(f"nasformer.attention.{module}"), constant, int(value))
    elif value:
      fields[key] = ast.literal_eval(value)
  kind = registry.lookup(attention.TABLE, name, "attention kind")(**fields)
  declared = kind.core_params(Sizes(_HEADS.value * _HEAD_DIM.value, _HEADS.value, _HEAD_DIM.value))
  params = {key: tensor.init(jax.random.key(0), tensor.shape) for key, tensor in declared.items()}
  attend = lambda params, q, k, v: kind.attend(params, q, k, v, Context(causal="causal" in options))
  loss = lambda parts, slope: (attend(*parts) * slope).sum()
  jax.clear_caches()
  *qkv, slope = inputs
  forward, gradient = jax.jit(attend).lower(params, *qkv), jax.jit(jax.grad(loss)).lower((params, *qkv), slope)
  return {"forward": (forward.compile(), (params, *qkv)), "gradient": (gradient.compile(), ((params, *qkv), slope))}


def main(_):
  rng = np.random.default_rng(0)
  shape = (_BATCH.value, _LENGTH.value, _HEADS.value, _HEAD_DIM.value)
  inputs = [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(4)]
  ways = {}
  for row in _ROWS.value:
    saved = {name: dict(vars(module)) for name, module in _modules().items()}
    ways[row] = programs(row, inputs)
    for name, module in _modules().items():
      vars(module).update(saved[name] if name in saved else {})
  times = {(row, form): [] for row in ways for form in ("forward", "gradient")}
  repeats = max(1, min(50, 4096 // _LENGTH.value))
  for turn in range(_ROUNDS.value + 1):
    for row, form in times:
      run, args = ways[row][form]
      wall, work = time.perf_counter(), time.process_time()
      for _ in range(repeats):
        out = run(*args)
      jax.block_until_ready(out)
      if turn:  # the first round warms up
        times[row, form].append(((time.perf_counter() - wall) / repeats, (time.process_time() - work) / repeats))
  table = Table("", *(f"{form} {what}" for form in ("forward", "gradient") for what in ("(s)", "work (s)", "extra")),
                title=f"{shape}; {workdir.device()}, jax {jax.__version__}")
  for row in ways:
    cells = []
    for form in ("forward", "gradient"):
      memory = ways[row][form][0].memory_analysis()
      extra = memory.temp_size_in_bytes / (memory.argument_size_in_bytes + memory.output_size_in_bytes)
      cells += [f"{part:.4f}" for part in np.min(times[row, form], axis=0)] + [f"{extra:.2f}"]
    table.add_row(row, *cells)
  Console(width=140).print(table)


def _modules():
  return {path.partition(":")[0]: importlib.import_module(path.partition(":")[0]) for path in attention.TABLE.values()} | {
      name: importlib.import_module(name) for name in ("nasformer.attention.kernel", "nasformer.attention.online")}


if __name__ == "__main__":
  app.run(main)
