"""How new networks are made of known ones, beside what `nasformer.space.base.Space` does itself. Valid under jit."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nasformer.space.base import Space
from nasformer.types import UserError


def mutate(
    key: Array, space: Space, genes: Int[Array, "P G"], rates: float | Float[Array, "*G"], eta: float
) -> Int[Array, "P G"]:
  """Gives each gene another option with its own probability, and at least one active gene of every genome.

  Where chance would change none, the gene that came nearest to it is changed. Genes that come to life are drawn anew. A change
  that cannot stand together with the other genes is settled, and may be undone by that.
  An ordinal gene grows as often as it shrinks, where it can; of its n allowed options, the one at distance d has weight
  (1 - (d - 1) / (n - 1))^eta, the shape of polynomial mutation (Deb and Agrawal 1999). Other genes take any option alike.

  Args:
    key: consumed.
    space: of the genomes; its restrictions hold.
    genes: canonical genomes.
    rates: probability of every gene, above 0.
    eta: how much ordinal genes prefer near options; 0 not at all.
  """
  flip, pick, fill = jax.random.split(key, 3)
  num = space.allowed.sum(-1)
  luck = jax.random.uniform(flip, genes.shape) / rates
  luck = jnp.where(space.free(genes) & (num > 1), luck, jnp.inf)
  changes = (luck <= jnp.maximum(1, luck.min(-1, keepdims=True))) & (num > 1)
  other = jax.random.categorical(pick, jnp.asarray(_log_weights(space, eta))[np.arange(space.num_genes), genes])
  genes = jnp.where(space.active(genes), genes, space.draw(fill, len(genes)))
  return space.canonical(space.settle(jnp.where(changes, other.astype(jnp.int32), genes), changes))


def _log_weights(space: Space, eta: float) -> Float[np.ndarray, "G K K"]:
  """[gene, from, to]: how likely each change is, up to a factor of its own for each gene and start."""
  place, steps = np.cumsum(space.allowed, -1), np.maximum(space.allowed.sum(-1) - 1, 1)[:, None, None]
  ahead = place[:, None] - place[:, :, None]
  possible = space.allowed[:, None] & ~np.eye(space.allowed.shape[1], dtype=bool)
  weights = possible * (1 - (np.maximum(np.abs(ahead), 1) - 1) / steps) ** eta
  larger, smaller = ((weights * side).sum(-1, keepdims=True) for side in (ahead > 0, ahead < 0))
  weights = weights / np.maximum(np.where(ahead > 0, larger, smaller), 1e-30)
  ordinal = np.array([gene.kind == "ordinal" for gene in space.genes])[:, None, None]
  return np.log(np.where(possible, np.where(ordinal, weights, 1), 1e-30)).astype(np.float32)


def neighbours(space: Space, genes: Int[Array | np.ndarray, "G"]) -> tuple[Int[Array, "N G"], Bool[Array, "N"]]:
  """All networks that differ in the option of one gene; a gene that comes to life takes its first option.

  Returns:
    One genome for each allowed option of each gene, and which of them are other networks.
  """
  gene, option = np.nonzero(space.allowed)
  base = jnp.where(space.active(genes), genes, space.allowed.argmax(-1).astype(np.int32))
  changed = gene[:, None] == np.arange(space.num_genes)
  near = space.canonical(space.settle(jnp.where(changed, option[:, None].astype(np.int32), base), changed))
  return near, (near != genes).any(-1)


def mutation_rate(given: float | None, space: Space) -> float:
  """The rate as it was given, or the one that changes one gene of a genome on average."""
  return 1 / space.num_genes if given is None else given


def check_rates(mutation_rate: float | None, eta: float) -> None:
  """Refuses settings of `mutate` that mean nothing.

  Args:
    mutation_rate: as in a strategy's field; None where it is found later.
    eta: likewise.

  Raises:
    UserError: one is out of its range.
  """
  if mutation_rate is not None and not 0 < mutation_rate <= 1:
    raise UserError(f"strategy.mutation_rate={mutation_rate} must be above 0 and at most 1")
  if not 0 <= eta < math.inf:
    raise UserError(f"strategy.eta={eta} must be a number from 0")
