"""What strategies that learn from labels remember: scored networks in an array of fixed size. Valid under jit."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from nasformer.search import order


@struct.dataclass
class Archive:
  """Scored networks, the best first; before the first scores there is none.

  Attributes:
    genes: canonical genomes.
    scores: one column per objective; -inf in rows that only fill up.
  """

  genes: Int[Array, "P G"]
  scores: Float[Array, "P M"]

  @classmethod
  def empty(cls, num_genes: int) -> "Archive":
    """One without rows."""
    return cls(jnp.zeros((0, num_genes), jnp.int32), jnp.zeros((0, 1)))

  @property
  def alive(self) -> Bool[Array, "P"]:
    """Rows that hold a network whose evaluation did not fail."""
    return ~order.failed(self.scores)

  def add(self, genes: Int[Array, "N G"], scores: Float[Array, "N M"], size: int) -> "Archive":
    """The archive with more networks, each once; beyond `size` the worst are forgotten."""
    genes = jnp.concatenate([self.genes, genes])
    scores = order.first_met(genes, jnp.concatenate([self.scores.reshape(-1, scores.shape[1]), scores]))
    best = order.best_first(scores)[:size]
    genes, scores = genes[best], scores[best]
    missing = max(size - len(genes), 0)
    return Archive(jnp.pad(genes, ((0, missing), (0, 0))),
                   jnp.pad(scores, ((0, missing), (0, 0)), constant_values=-jnp.inf))

  def best(self, num: int) -> "Archive":
    """The first rows."""
    return Archive(self.genes[:num], self.scores[:num])

  def knows(self, genes: Int[Array, "N G"]) -> Bool[Array, "N"]:
    """Which of these networks it holds."""
    return ((genes[:, None] == self.genes).all(-1) & self.alive).any(-1)

  def labels(self) -> Float[Array, "P"]:
    """One number per network that orders them as their objectives do, larger is better."""
    if self.scores.shape[1] == 1:
      return jnp.where(self.alive, self.scores[:, 0], 0)
    return -jnp.zeros(len(self.scores)).at[order.best_first(self.scores)].set(jnp.arange(len(self.scores), dtype=jnp.float32))


def most_promising(
    genes: Int[Array, "P G"], worth: Float[Array, "P"], num: int
) -> tuple[Int[Array, "N G"], Float[Array, "N"]]:
  """The `num` distinct networks of the highest predicted worth; -inf marks those that must not be taken."""
  worth = order.first_met(genes, worth[:, None])[:, 0]
  best = jnp.argsort(-worth)[:num]
  return genes[best], worth[best]
