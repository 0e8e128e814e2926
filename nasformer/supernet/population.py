"""The population pass: many architectures scored by one compiled program, each at about the cost of its own network.

The members are sorted by cost and cut into chunks of C. Chunks run one after another; inside a chunk the members are
mapped together, and nothing is run that no member of it needs. C = 1 costs what each member costs alone; a large C
keeps a chip with large matrix units busy. Which C is best is measured, per device (`fastest_chunk`).
"""

import dataclasses
import functools
import time
from typing import Any, Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from nasformer.types import Params


@dataclasses.dataclass(frozen=True)
class PopulationPass:
  """Scores populations of at most `capacity` members; one compilation, whatever they are.

  Attributes:
    supernet: what the members are networks of.
    task: says what the networks take of a batch, and the metrics: numbers per example, zero for padding.
    capacity: largest population of one call.
    chunk: C, the members that are mapped together.
  """

  supernet: Any
  task: Any
  capacity: int
  chunk: int = 1

  def __call__(self, params: Params, genes: Int[np.ndarray, "P G"], costs: Num[np.ndarray, "P"],
               batches: Iterable[Mapping[str, Array]]) -> dict[str, Float[np.ndarray, "P"]]:
    """Sums of the metrics over all examples of all batches, for each member.

    Args:
      params: of the supernet; shared by all members.
      genes: the population.
      costs: what chunks are sorted by.
      batches: compiled once for each of their shapes.
    """
    order = np.argsort(costs, kind="stable")
    rows = np.zeros((-(-self.capacity // self.chunk) * self.chunk, genes.shape[1]), np.int32)
    rows[: len(genes)] = np.asarray(genes)[order]
    rows[len(genes):] = rows[len(genes) - 1]  # a last chunk that is not full repeats its largest member
    totals: dict[str, np.ndarray] = {}
    for batch in batches:
      sums = self.step(params, jnp.asarray(rows), jnp.int32(len(genes)), batch)
      for name, values in jax.device_get(sums).items():
        values = values.astype(np.float64)
        totals[name] = totals[name] + values if name in totals else values
    inverse = np.argsort(order, kind="stable")
    return {name: values[: len(genes)][inverse] for name, values in totals.items()}

  @functools.cached_property
  def step(self) -> Callable:
    """(params, genes[capacity, G], number of real members, batch) to sums of metrics over the batch; jitted."""
    return jax.jit(self._step)

  def _step(self, params, genes: Int[Array, "P G"], num: Int[Array, ""], batch):
    chunks = genes.reshape(-1, self.chunk, genes.shape[1])

    def member(genes, logits_of):
      values = self.task.metrics(logits_of(params, genes, self.task.inputs(batch)), batch)
      return {name: value.sum() for name, value in values.items()}

    def score(chunk):
      if self.chunk == 1:
        return jax.tree.map(lambda x: x[None], member(chunk[0], self.supernet.exact))
      shared = functools.partial(self.supernet.shared, axis="subnet")
      return jax.vmap(lambda g: member(g, shared), axis_name="subnet")(chunk)

    empty = jax.tree.map(lambda x: jnp.zeros((len(chunks), *x.shape), x.dtype), jax.eval_shape(score, chunks[0]))
    turn = lambda i, out: jax.tree.map(lambda all_, x: all_.at[i].set(x), out, score(chunks[i]))
    sums = jax.lax.fori_loop(0, (num + self.chunk - 1) // self.chunk, turn, empty)
    return jax.tree.map(lambda x: x.reshape(-1), sums)


def fastest_chunk(build: Callable[[int], PopulationPass], params: Params, genes: Int[np.ndarray, "P G"],
                  costs: Num[np.ndarray, "P"], batch: Mapping[str, Array],
                  chunks: Iterable[int] = (1, 4, 16, 64)) -> tuple[int, dict[int, float]]:
  """The chunk size that scores this population fastest on the device at hand, and seconds by chunk size.

  A larger chunk replaces a smaller one only if it is a tenth faster: it reads more memory, and a choice that noise
  decides would differ from run to run.

  Args:
    build: makes a pass of a chunk size.
    params: of the supernet.
    genes: a population to time.
    costs: what chunks are sorted by.
    batch: one batch of the size that will be used.
    chunks: sizes to try, in growing order.
  """
  seconds: dict[int, float] = {}
  best = None
  for chunk in chunks:
    if best is not None and chunk > len(genes):
      break
    run = build(chunk)
    run(params, genes, costs, [batch])
    times = []
    for _ in range(3):
      start = time.perf_counter()
      run(params, genes, costs, [batch])
      times.append(time.perf_counter() - start)
    seconds[chunk] = min(times)
    if best is None or seconds[chunk] < 0.9 * seconds[best]:
      best = chunk
  return best, seconds
