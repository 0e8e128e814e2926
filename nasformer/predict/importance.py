"""Which features, and which roles of genes, decide the quality of a network; and a space without those that do not.

RankNAS prunes its space by the importance of features; the released code takes the absolute Kendall tau of a feature with
the labels and drops inputs of the ranker, so that the genes behind them drift (arXiv 2109.07383). Here the genes are
fixed. To which value the paper fixes them is not known; ours is the one with the best mean label.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nasformer.predict.features import Means, columns, roles
from nasformer.space.base import Gene, Space
from nasformer.types import UserError


def importance(
    inputs: Float[Array, "E Q"], targets: Float[Array, "E"], weights: Float[Array, "E"]
) -> Float[Array, "Q"]:
  """Absolute Kendall tau of every feature with the targets; 0 of a constant feature. Valid under jit.

  Args:
    inputs: features of labelled networks.
    targets: labels; pairs that are tied here are left out.
    weights: of the rows; 0 for rows that only fill up.
  """
  pairs = jnp.where(weights[:, None] * weights > 0, jnp.sign(targets[:, None] - targets), 0) * weights[:, None] * weights
  of = lambda column: jnp.abs(jnp.where(pairs != 0, pairs * jnp.sign(column[:, None] - column), 0).sum())
  return jax.lax.map(of, inputs.T) / jnp.maximum(jnp.abs(pairs).sum(), 1e-6)


def select(
    inputs: Float[Array, "E Q"], targets: Float[Array, "E"], weights: Float[Array, "E"], keep: int
) -> Int[Array, "N"]:
  """Positions of the most important features, the most important one first."""
  return jnp.argsort(-importance(inputs, targets, weights), stable=True)[:keep]


def prune(space: Space, genes: Int[np.ndarray, "E G"], targets: Float[np.ndarray, "E"], keep: int) -> Space:
  """The space in which only the most important roles of genes are free.

  A role is what genes of one field are in all blocks of a stack, such as "layer.ffn"; its importance is the largest one
  of its mean features. Every other role is fixed to the value with the best mean label, the same in all blocks. A role
  whose genes have no allowed value in common stays as it is.

  Args:
    space: to narrow.
    genes: labelled genomes.
    targets: labels, larger is better.
    keep: how many roles stay free.

  Raises:
    UserError: no label is finite, or `keep` is not the number of some of the roles.
  """
  found = {name: at for name, at in roles(space).items() if (space.allowed[at].sum(1) > 1).any()}
  if not 0 < keep <= len(found):
    raise UserError(f"keep={keep}: the space has {len(found)} roles with a choice ({', '.join(found)}), so 1 to"
                    f" {len(found)} can stay free")
  fine = np.isfinite(targets)
  if fine.sum() < 2:
    raise UserError(f"{fine.sum()} of {len(targets)} labels are finite: at least 2 are needed to prune a space")
  genes, targets = np.asarray(genes)[fine], np.asarray(targets, np.float32)[fine]
  of_column = np.asarray(importance(Means()(space, genes)[:, 0], jnp.asarray(targets), jnp.ones(len(targets))))
  worth = {name: max(value for column, value in zip(columns(space), of_column) if column.genes == tuple(at))
           for name, at in found.items()}
  dropped = sorted(found, key=lambda name: -worth[name])[keep:]
  rules = [rule for name in dropped for rule in _fix(space, found[name], genes, targets)]
  return dataclasses.replace(space, restrict="; ".join(filter(None, (space.restrict, *rules))))


def _fix(space: Space, at: list[int], genes: Int[np.ndarray, "E G"], targets: Float[np.ndarray, "E"]) -> list[str]:
  """Rules that give the genes of a role the value of the best mean label among those allowed to all of them."""
  active = np.asarray(space.active(genes))[:, at]
  shared = [value for value in space.genes[at[0]].values if all(_allows(space, i, value) for i in at)]
  means = {}
  for value in shared:
    option = [space.genes[i].values.index(value) for i in at]
    uses = (active & (genes[:, at] == option)).sum(1)
    if uses.sum():
      means[value] = (uses * targets).sum() / uses.sum()
  names = dict.fromkeys(_pattern(space.genes[i]) for i in at)
  return [f"{name}={max(means, key=means.__getitem__)}" for name in names] if means else []


def _pattern(gene: Gene) -> str:
  """A rule's name for a gene, together with those of its role in other blocks."""
  blocks, dot, _ = (gene.site or "").rpartition(".")
  return f"{blocks}.*.{gene.field}" if dot else gene.name


def _allows(space: Space, gene: int, value: object) -> bool:
  options = space.genes[gene].values
  return value in options and bool(space.allowed[gene, options.index(value)])
