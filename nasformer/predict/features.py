"""Features of architectures for predictors, by name: tokens of numbers made from the table of genes alone.

They hold for any space and are valid under jit. Genes of one field in blocks of one stack ("encoder.0.ffn_dim",
"encoder.1.ffn_dim", ...) play one role and share a column; inactive genes count nowhere.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nasformer.space.base import Gene, Space

TABLE = {
    "means": "nasformer.predict.features:Means",
    "blocks": "nasformer.predict.features:Blocks",
    "both": "nasformer.predict.features:Both",
}


class Column(NamedTuple):
  """One number that genes of one role share: their value, or 1 where they have one certain value.

  Attributes:
    name: "encoder.ffn_dim" or, of a categorical role, "encoder.kind=softmax".
    genes: positions of the genes.
    worth: the number by gene and option; 0 for options that a gene does not have.
  """

  name: str
  genes: tuple[int, ...]
  worth: Float[np.ndarray, "N K"]


def role(gene: Gene) -> str:
  """What a gene is to the network, in whichever block: "encoder.ffn_dim" for "encoder.3.ffn_dim"."""
  return gene.name if gene.site is None else f"{stack(gene.site)}.{gene.field}"


def stack(site: str) -> str:
  """The stack of alike blocks that a block belongs to: "encoder" for "encoder.3"."""
  return site.rpartition(".")[0] or site


def roles(space: Space) -> dict[str, list[int]]:
  """Positions of the genes of every role, in the order of the table."""
  found: dict[str, list[int]] = {}
  for i, gene in enumerate(space.genes):
    found.setdefault(role(gene), []).append(i)
  return found


def columns(space: Space, scaled: bool = False) -> Iterator[Column]:
  """The columns of all roles.

  Args:
    space: whose genes.
    scaled: whether sizes are divided by the largest size of their role.
  """
  width = space.allowed.shape[1]
  for name, genes in roles(space).items():
    rows = [space.genes[i] for i in genes]
    if rows[0].kind == "categorical":
      for value in dict.fromkeys(value for gene in rows for value in gene.values):
        worth = [[k < len(gene.values) and gene.values[k] == value for k in range(width)] for gene in rows]
        yield Column(f"{name}={value}", tuple(genes), np.array(worth, np.float32))
    else:
      worth = np.array([[*_sizes(gene), *[0.0] * (width - len(gene.values))] for gene in rows], np.float32)
      yield Column(name, tuple(genes), worth / np.abs(worth).max() if scaled else worth)


def _sizes(gene: Gene) -> list[float]:
  """The values of an ordinal gene as numbers: themselves, or their places from 1 on."""
  if all(isinstance(value, (int, float)) for value in gene.values):
    return [float(value) for value in gene.values]
  return [1.0 + k for k in range(len(gene.values))]


def _chosen(space: Space, genes: Int[Array | np.ndarray, "P G"], column: Column) -> Float[Array, "P N"]:
  """The number of each gene of a column; those of inactive genes mean nothing."""
  at = np.array(column.genes)
  return jnp.asarray(column.worth)[jnp.arange(len(at)), jnp.asarray(genes)[:, at]]


@dataclasses.dataclass(frozen=True)
class Means:
  """Means over active blocks: a mean size or the share of each kind per role, as HAT does; one token."""

  def names(self, space: Space) -> tuple[str, ...]:
    """What the features are."""
    return tuple(column.name for column in columns(space))

  def __call__(self, space: Space, genes: Int[Array | np.ndarray, "P G"]) -> Float[Array, "P 1 Q"]:
    active = space.active(genes)

    def mean(column):
      alive = active[:, np.array(column.genes)]
      return jnp.where(alive, _chosen(space, genes, column), 0).sum(-1) / jnp.maximum(alive.sum(-1), 1)

    return jnp.stack([mean(column) for column in columns(space)], -1)[:, None]


@dataclasses.dataclass(frozen=True)
class Blocks:
  """One token per block, in order, after one for the whole network: sizes, one-hot kinds, and whether the block exists."""

  def names(self, space: Space) -> tuple[str, ...]:
    """What the features of a token are; a token has 0 for those of other stacks."""
    return (*(column.name for column in columns(space)), "exists")

  def tokens(self, space: Space) -> tuple[str, ...]:
    """What the tokens are."""
    return ("network", *dict.fromkeys(gene.site for gene in space.genes if gene.site is not None))

  def __call__(self, space: Space, genes: Int[Array | np.ndarray, "P G"]) -> Float[Array, "P T Q"]:
    active, tokens = space.active(genes), self.tokens(space)
    place = {name: t for t, name in enumerate(tokens)}
    at = [place["network" if gene.site is None else gene.site] for gene in space.genes]

    def spread(column):
      where = np.array(column.genes)
      chosen = jnp.where(active[:, where], _chosen(space, genes, column), 0)
      return jnp.zeros((len(genes), len(tokens))).at[:, np.array([at[i] for i in where])].set(chosen)

    exists = jnp.zeros((len(genes), len(tokens))).at[:, np.array(at)].max(active.astype(jnp.float32)).at[:, 0].set(1)
    return jnp.stack([*(spread(column) for column in columns(space, scaled=True)), exists], -1)


@dataclasses.dataclass(frozen=True)
class Both:
  """Means, then every number that a block of its own can have, as one token."""

  def names(self, space: Space) -> tuple[str, ...]:
    """What the features are."""
    blocks = Blocks()
    own = [f"{token}:{name}" for token in blocks.tokens(space) for name in blocks.names(space)]
    return (*Means().names(space), *(own[i] for i in _possible(space)))

  def __call__(self, space: Space, genes: Int[Array | np.ndarray, "P G"]) -> Float[Array, "P 1 Q"]:
    blocks = Blocks()(space, genes)
    own = blocks.reshape(len(blocks), -1)[:, np.array(_possible(space), int)]
    return jnp.concatenate([Means()(space, genes), own[:, None]], -1)


def _possible(space: Space) -> tuple[int, ...]:
  """Which of all tokens' features a network of the space can have, the network's own ones left out: they are means."""
  names, tokens = Blocks().names(space), Blocks().tokens(space)
  own = {(space.genes[i].site, column.name) for column in columns(space) for i in column.genes}
  own |= {(token, "exists") for token in tokens}
  return tuple(t * len(names) + q for t, token in enumerate(tokens) for q, name in enumerate(names)
               if t and (token, name) in own)
