"""What the population pass costs, beside the alternatives and the machine's limits, all in one run.

  python experiments/bench/population.py [--space=vision] [--members=16] [--batch=8] [--chunks=1,2,4]
  python experiments/bench/population.py --space=hat_wmt --batch=32 [--tokens=32] [--vocabulary=8000]

Rows: every member sliced and compiled alone (the floor); the bounded pass for several chunk sizes; the masked network one
member after another, and under a plain vmap; and one training step of the supernet. "work" counts the members' own
multiply-adds, so the last columns say how much of the floor and of the measured matrix-product peak each way reaches.
Rows are timed in turn, round by round, and the fastest round counts (of training steps, which draw other networks each time,
the mean), so that a busy machine disturbs them alike. The peak of
memory is that of the compiled program: arguments (the supernet's weights among them), results and what it needs in between.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

from nasformer import attention, registry, space, workdir
from nasformer import supernet as supernets
from nasformer.nets.translation import Translation, TranslationNet
from nasformer.nets.vision import Vision, VisionNet
from nasformer.space.translation import Translation as TranslationSpace
from nasformer.supernet.population import PopulationPass
from nasformer.supernet.sampling import Sampling, supernet_loss
from nasformer.tasks.image_classification import ImageClassification
from nasformer.tasks.translation import TranslationTask
from nasformer.train import state, step
from nasformer.train.optimizer import Optimizer

FLOOR = "sliced, each compiled (floor)"
_SPACE = flags.DEFINE_string("space", "vision", "Row of the table of spaces.")
_MEMBERS = flags.DEFINE_integer("members", 16, "Architectures, drawn at random.")
_BATCH = flags.DEFINE_integer("batch", 8, "Images, or pairs of sentences, per architecture.")
_CHUNKS = flags.DEFINE_list("chunks", ["1", "2", "4"], "Chunk sizes of the bounded pass.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds.")
_IMAGE = flags.DEFINE_integer("image_size", 32, "Side of the images.")
_PATCH = flags.DEFINE_integer("patch_size", 4, "Side of the patches.")
_TOKENS = flags.DEFINE_integer("tokens", 32, "Tokens of source and target.")
_VOCABULARY = flags.DEFINE_integer("vocabulary", 8000, "Size of the vocabulary.")
_WAYS = flags.DEFINE_list("ways", ["sliced", "bounded", "masked", "training"], "Which rows.")


def peak_flops(size: int = 2048) -> tuple:
  """A large float32 matrix product: what the machine can do at most."""
  product = jax.jit(lambda a: a @ a)
  return product, jnp.ones((size, size)), 2 * size**3


def images(space_, kinds):
  """Task, network family and a batch of random images."""
  net = VisionNet(Vision(patch_size=_PATCH.value), (_IMAGE.value, _IMAGE.value, 3), 10, kinds)
  rng = np.random.default_rng(0)
  return ImageClassification(), net, {
      "image": rng.integers(0, 256, (_BATCH.value, *net.image_shape)).astype(np.uint8),
      "label": rng.integers(0, 10, _BATCH.value).astype(np.int32)}


def sentences(space_, kinds):
  """Task, network family and a batch of random pairs without padding."""
  config = Translation(dropout=0.0, count_length=_TOKENS.value, count_vocabulary=True)
  widths = max(space_.encoder_embed_dim), max(space_.decoder_embed_dim)
  net = TranslationNet(config, _VOCABULARY.value, _VOCABULARY.value, kinds, widths)
  rng = np.random.default_rng(0)
  draw = lambda: rng.integers(4, _VOCABULARY.value, (_BATCH.value, _TOKENS.value)).astype(np.int32)
  return TranslationTask(), net, {"source": draw(), "target": draw(), "weight": np.ones(_BATCH.value, np.float32)}


def main(_):
  logging.set_verbosity(logging.WARNING)
  space_ = registry.lookup(space.TABLE, _SPACE.value, "space")()
  kinds = tuple((name, registry.lookup(attention.TABLE, name)()) for name in space_.kinds)
  task, net, batch = (sentences if isinstance(space_, TranslationSpace) else images)(space_, kinds)
  batch = jax.device_put(batch)
  supernet = registry.lookup(supernets.BY_NETWORK, type(net).__name__)(space_, net)
  params = jax.jit(supernet.init)(jax.random.key(0))
  genes = np.asarray(space_.sample(jax.random.key(1), _MEMBERS.value))
  specs = [space_.decode(row) for row in genes]
  flops = np.array([2.0 * net.count_spec(spec).products for spec in specs])
  ways = dict(_ways(supernet, task, params, genes, specs, flops, batch))
  product, operand, peak_work = peak_flops()
  ways["matrix product"] = (lambda: product(operand), 0.0)
  run_s = {name: [] for name in ways}
  for turn in range(_ROUNDS.value + 1):
    for name, (run, _) in ways.items():
      start = time.perf_counter()
      jax.block_until_ready(run())
      if turn:  # the first round warms up
        run_s[name].append(time.perf_counter() - start)
  # every training step draws another network, so there the mean is what counts
  best = {name: np.mean(times) if name.startswith("training") else min(times) for name, times in run_s.items()}
  _print(ways, best, flops.sum() * _BATCH.value, peak_work / best["matrix product"])


def _ways(supernet, task, params, genes, specs, flops, batch):
  """(name, (what to time, seconds of compilation))."""
  start = time.perf_counter()
  sums = lambda logits, b: {name: value.sum() for name, value in task.metrics(logits, b).items()}
  if "sliced" in _WAYS.value:
    alone = []
    for spec in specs:
      small, module = supernet.derive(params, spec), supernet.module(spec)
      score = lambda p, b, m=module: sums(m.apply({"params": p}, task.inputs(b)), b)
      alone.append((jax.jit(score).lower(small, batch).compile(), small))
    yield FLOOR, (lambda: [run(p, batch) for run, p in alone], time.perf_counter() - start)
  if "bounded" in _WAYS.value:
    for chunk in map(int, _CHUNKS.value):
      run = PopulationPass(supernet, task, len(genes), chunk)
      yield f"bounded, C = {chunk}", _compiled(lambda run=run: run(params, genes, flops, [batch]))
    run = PopulationPass(supernet, task, len(genes), 1).step.lower(params, genes, len(genes), batch).compile()
    memory = run.memory_analysis()
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    print(f"peak memory of the bounded pass, C = 1: {used / 1e9:.2f} GB, of which the weights"
          f" {sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1e9:.2f} GB")
  if "masked" in _WAYS.value:
    masked = lambda p, g, b: sums(supernet.masked(p, g, task.inputs(b)), b)
    over = {"masked, one by one": lambda of_one, g: jax.lax.map(of_one, g),
            "masked, plain vmap": lambda of_one, g: jax.vmap(of_one)(g)}
    for name, mapped in over.items():
      run = jax.jit(lambda p, g, b, mapped=mapped: mapped(lambda x: masked(p, x, b), g))
      yield name, _compiled(lambda run=run: run(params, jnp.asarray(genes), batch))
  if "training" in _WAYS.value:
    yield "training step, one network", _training(supernet, task, params, batch)


def _training(supernet, task, params, batch):
  loss = supernet_loss(supernet, Sampling(), task)
  optimizer = Optimizer().make(1000)
  update = step.make_step(loss, optimizer)
  held = [state.init(jax.tree.map(jnp.copy, params), optimizer)]

  def run():
    held[0], metrics = update(held[0], batch, jax.random.key(0))
    return metrics

  return _compiled(run)


def _compiled(run):
  start = time.perf_counter()
  jax.block_until_ready(run())
  return run, time.perf_counter() - start


def _print(ways, best, work, peak):
  table = Table("", "run (s)", "compile (s)", "examples/s", "of the floor", "of the peak",
                title=f"{_SPACE.value}: {_MEMBERS.value} members x {_BATCH.value} examples; {workdir.device()}, jax"
                f" {jax.__version__}; float32 matrix products reach {peak / 1e9:.0f} GFLOP/s")
  floor = best[FLOOR] if FLOOR in best else float("nan")
  for name, (_, compile_s) in ways.items():
    if name == "matrix product":
      continue
    seconds, members = best[name], 1 if name.startswith("training") else _MEMBERS.value
    share = [f"{floor / seconds:.0%}", f"{work / seconds / peak:.0%}"] if members > 1 else ["", ""]
    table.add_row(name, f"{seconds:.3f}", f"{compile_s:.1f}", f"{members * _BATCH.value / seconds:.0f}", *share)
  Console(width=120).print(table)


if __name__ == "__main__":
  app.run(main)
