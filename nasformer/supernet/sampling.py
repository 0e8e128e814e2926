"""Which networks a training step of the supernet draws, and the loss that is averaged over them."""

import dataclasses
from typing import Any, Callable, Literal, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from nasformer.space.base import Space
from nasformer.types import Params, Population, UserError

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How each step draws networks.

  Attributes:
    rule: "uniform" draws every network at random (HAT 2.2); "sandwich" draws the largest, the smallest and random ones
      (Yu and Huang 2019, "Universally Slimmable Networks", 3.2). Categorical genes are random in all of them.
    num_networks: networks per step; their gradients are averaged.
    distill: all but the largest network learn from the largest one's outputs instead of the labels (in-place
      distillation, ibid. 3.3).
  """

  rule: Literal["uniform", "sandwich"] = "uniform"
  num_networks: int = 1
  distill: bool = False

  def __post_init__(self):
    if self.rule not in ("uniform", "sandwich"):
      raise UserError(f"sampling.rule={self.rule!r}: it must be 'uniform' or 'sandwich'")
    least = 2 if self.rule == "sandwich" else 1
    if self.num_networks < least:
      raise UserError(f"sampling.num_networks={self.num_networks}: the {self.rule} rule needs at least {least}")

  def __call__(self, key: Array, space: Space) -> Population:
    """Draws `num_networks` genomes."""
    genes = space.sample(key, self.num_networks)
    if self.rule == "uniform":
      return genes
    return genes.at[0].set(extreme(space, genes[0], "largest")).at[1].set(extreme(space, genes[1], "smallest"))


def extreme(space: Space, genes: Array, which: Literal["largest", "smallest"]) -> Array:
  """The genome with every ordinal gene at its largest or smallest allowed option and settled, the others as they are."""
  options = np.arange(space.allowed.shape[1])
  ends = np.where(space.allowed, options, -1).max(1) if which == "largest" else space.allowed.argmax(1)
  ordinal = np.array([gene.kind == "ordinal" for gene in space.genes])
  moved = jnp.where(ordinal, jnp.asarray(ends, jnp.int32), genes)
  # a gene that comes to life here was 0 before, which a restriction may forbid
  legal = jnp.asarray(space.allowed)[jnp.arange(space.num_genes), moved]
  return space.canonical(jnp.where(legal, moved, jnp.asarray(space.allowed.argmax(1), jnp.int32)))


def supernet_loss(supernet: Any, sampling: Sampling, task: Any) -> Callable:
  """The loss of one training step, for `nasformer.train.step.make_step`.

  Args:
    supernet: what is trained.
    sampling: draws networks from the step's key, so that all parts of a step's batch see the same ones.
    task: `prepare`s batches, says what the networks take of them (`inputs`), and gives `loss` and `distillation` of each example.

  Returns:
    (params, batch, keys) -> (mean loss, (metrics, which entries of the parameters were used)).
  """

  def of_one(params, genes, batch, key, teacher):
    logits = supernet.exact(params, genes, task.inputs(batch), key)
    value = task.loss(logits, batch).mean()
    if teacher is not None:
      target, largest = teacher
      distilled = task.distillation(logits, target, batch).mean()
      value = jnp.where((genes == largest).all(), value, distilled)
    return value

  def of_step(params, batch, keys):
    genes = sampling(keys.step, supernet.space)
    augment, noise, tie = jax.random.split(keys.micro, 3)
    batch = task.prepare(augment, batch)
    teacher = None
    if sampling.distill:
      largest = genes[0] if sampling.rule == "sandwich" else extreme(
          supernet.space, supernet.space.sample(tie, 1)[0], "largest")
      teacher = jax.lax.stop_gradient(supernet.exact(params, largest, task.inputs(batch))), largest
    used = jax.tree.map(lambda x: x.any(0), jax.vmap(supernet.used)(genes))
    value = _mean_over(of_one)(params, genes, batch, jax.random.split(noise, len(genes)), teacher)
    return value, ({}, used)

  return of_step


def _mean_over(of_one: Callable) -> Callable:
  """Mean of `of_one(params, genes, batch, key, teacher)` over genes and keys, one network after another.

  Reverse-mode differentiation of a loop would store every network's activations at once; here the gradients are summed
  on the way forward, so that memory does not grow with the number of networks.
  """

  def forward(params, genes, batch, keys, teacher):
    gradient = jax.value_and_grad(of_one)

    def add(total, row):
      return jax.tree.map(jnp.add, total, gradient(params, row[0], batch, row[1], teacher)), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zeros, (genes, keys))
    return jax.tree.map(lambda x: x / len(genes), total)

  @jax.custom_vjp
  def mean(params, genes, batch, keys, teacher):
    return jax.lax.map(lambda row: of_one(params, row[0], batch, row[1], teacher), (genes, keys)).mean()

  def backward(grads, cotangent):
    return jax.tree.map(lambda g: g * cotangent, grads), None, None, None, None

  mean.defvjp(forward, backward)
  return mean
