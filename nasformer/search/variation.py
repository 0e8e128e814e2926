"""How new networks are made of known ones, beside what `nasformer.space.base.Space` does itself. Valid under jit."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nasformer.space.base import Space
from nasformer.types import UserError


def mutate(
    key: Array, space: Space, genes: Int[Array, "P G"], rates: float | Float[Array, "*G"], near: float
) -> Int[Array, "P G"]:
  """Gives each gene another option with its own probability, and at least one active gene of every genome.

  Where chance would change none, the gene that came nearest to it is changed. Genes that come to life are drawn anew.

  Args:
    key: consumed.
    space: of the genomes; its restrictions hold.
    genes: canonical genomes.
    rates: probability of every gene, above 0.
    near: share of the changes of ordinal genes that go to the next smaller or larger option.
  """
  flip, place, step, fill = jax.random.split(key, 4)
  options, num = np.argsort(~space.allowed, axis=-1, kind="stable").astype(np.int32), space.allowed.sum(-1)
  luck = jax.random.uniform(flip, genes.shape) / rates
  luck = jnp.where(space.active(genes) & (num > 1), luck, jnp.inf)
  changes = luck <= jnp.maximum(1, luck.min(-1, keepdims=True))
  at = jnp.asarray(np.cumsum(space.allowed, -1) - 1)[np.arange(space.num_genes), genes]
  other = (at + 1 + (jax.random.uniform(place, genes.shape) * (num - 1)).astype(jnp.int32)) % num
  way, small = jax.random.uniform(step, (2, *genes.shape))
  beside = jnp.where((at == 0) | ((way < 0.5) & (at < num - 1)), at + 1, at - 1)
  ordinal = np.array([gene.kind == "ordinal" for gene in space.genes])
  other = jnp.where(ordinal & (small < near) & (num > 1), beside, other)
  changed = jnp.where(changes & (num > 1), jnp.asarray(options)[np.arange(space.num_genes), other], genes)
  return space.canonical(jnp.where(space.active(genes), changed, space.draw(fill, len(genes))))


def neighbours(space: Space, genes: Int[Array, "G"]) -> tuple[Int[Array, "N G"], Bool[Array, "N"]]:
  """All networks that differ in the option of one gene; a gene that comes to life takes its first option.

  Returns:
    One genome for each allowed option of each gene, and which of them are other networks.
  """
  gene, option = np.nonzero(space.allowed)
  base = jnp.where(space.active(genes), genes, space.allowed.argmax(-1).astype(np.int32))
  near = jnp.tile(base, (len(gene), 1)).at[np.arange(len(gene)), gene].set(option.astype(np.int32))
  near = space.canonical(near)
  return near, (near != genes).any(-1)


def mutation_rate(given: float | None, space: Space) -> float:
  """The rate as it was given, or the one that changes one gene of a genome on average."""
  return 1 / space.num_genes if given is None else given


def check_rates(mutation_rate: float | None, near: float) -> None:
  """Refuses settings of `mutate` that mean nothing.

  Args:
    mutation_rate: as in a strategy's field; None where it is found later.
    near: likewise.

  Raises:
    UserError: one is out of its range.
  """
  if mutation_rate is not None and not 0 < mutation_rate <= 1:
    raise UserError(f"strategy.mutation_rate={mutation_rate} must be above 0 and at most 1")
  if not 0 <= near <= 1:
    raise UserError(f"strategy.near={near} must lie between 0 and 1")
