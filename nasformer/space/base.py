"""What a search space is: a table of genes, and the vectorised operations on integer genomes that search is made of.

A subclass is a frozen dataclass whose fields are the choices; it gives the table (`genes`), the bridge to `Spec`
(`decode`, `encode`) and the list of parts that costs are added up from (`parts`). All else is here, once: activity,
canonical form, sampling, mutation, crossover, restriction. The operations are pure, valid under jit, and take and
return `int32[..., G]`.
"""

import dataclasses
import fnmatch
import functools
import itertools
import re
from typing import Any, ClassVar, Iterator, Literal, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Gene:
  """One choice of the space.

  Attributes:
    name: "depth", or "layer.3.num_heads" for a gene of a block.
    values: what can be chosen, smallest first when `kind` is "ordinal".
    kind: whether the order of the values means anything.
    site: the block that the gene belongs to, such as "layer.3"; None for genes of the whole network.
    needs: (gene name, values) pairs; the gene is active only while every named gene has one of its values.
  """

  name: str
  values: tuple
  kind: Literal["ordinal", "categorical"] = "ordinal"
  site: str | None = None
  needs: tuple[tuple[str, tuple], ...] = ()

  @property
  def field(self) -> str:
    """The name without its site: genes of one field play one role in different blocks."""
    return self.name.rsplit(".", 1)[-1]


@dataclasses.dataclass(frozen=True)
class Part:
  """A piece of the network whose cost depends on few genes; the last of them says whether it exists.

  Attributes:
    name: "layer.3.attention".
    role: what it is to the network, such as "attention"; parts of one role share one price table.
    genes: names of the genes that it depends on.
  """

  name: str
  role: str
  genes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Space:
  """Base of all spaces.

  Attributes:
    restrict: narrows the space without changing what its genes mean: `pattern=value,value` rules separated by
      semicolons, patterns being shell wildcards over gene names, as in "layer.*.kind=softmax; depth=12,13".
  """

  spec: ClassVar[type]  # of the networks of the space
  restrict: str = ""

  @property
  def genes(self) -> tuple[Gene, ...]:
    """The table of genes, in the order of the genome."""
    raise NotImplementedError

  @property
  def parts(self) -> tuple[Part, ...]:
    """The pieces that a cost is the sum of."""
    raise NotImplementedError

  def decode(self, genes: np.ndarray) -> Any:
    """The `Spec` of one genome."""
    raise NotImplementedError

  def encode(self, spec: Any) -> np.ndarray:
    """The canonical genome of a `Spec` of this space."""
    raise NotImplementedError

  def check(self, kinds: Mapping[str, Any]) -> None:
    """Refuses attention kinds that cannot be where this space puts them, whatever the task; here all can.

    Args:
      kinds: by name; each says what it `can`.

    Raises:
      UserError: one cannot.
    """

  # -- what genes are to one another, beyond which are active: nothing, unless a subclass says so ----------------------

  def settle(self, genes: Int[Array | np.ndarray, "*P G"],
             keep: Bool[Array | np.ndarray, "*P G"] | None = None) -> Int[Array | np.ndarray, "*P G"]:
    """Genomes whose active genes can stand together, near the given ones; what can stand already is left alone.

    Args:
      genes: genomes, as varied gene by gene; NumPy arrays are settled on the host.
      keep: genes that are to stay as they are if possible.
    """
    del keep
    return genes

  @functools.cached_property
  def links(self) -> tuple[tuple[tuple[int, ...], Bool[np.ndarray, "..."]], ...]:
    """Which options can stand together: tables over genes and over helpers, variables that are numbered after the genes."""
    return ()

  def free(self, genes: Int[Array | np.ndarray, "*P G"]) -> Bool[Array, "*P G"]:
    """Which active genes the others leave a choice."""
    return self.active(genes)

  def _log_ways(self, which: Bool[np.ndarray, "G"]) -> float:
    """Logarithm of how many ways there are to choose these genes: all that are active but those that others need."""
    return np.log(self.allowed.sum(1))[which].sum()

  # -- the table as arrays ------------------------------------------------------------------------------------------

  @functools.cached_property
  def index(self) -> dict[str, int]:
    """Position of each gene in the genome, by name."""
    return {gene.name: i for i, gene in enumerate(self.genes)}

  @property
  def num_genes(self) -> int:
    return len(self.genes)

  @functools.cached_property
  def allowed(self) -> Bool[np.ndarray, "G K"]:
    """Which options of each gene may be chosen, after `restrict`."""
    width = max(len(gene.values) for gene in self.genes)
    table = np.array([[k < len(gene.values) for k in range(width)] for gene in self.genes])
    for pattern, values in _rules(self.restrict):
      rows = [i for i, gene in enumerate(self.genes) if fnmatch.fnmatchcase(gene.name, pattern)]
      if not rows:
        names = sorted({re.sub(r"\.\d+\.", ".*.", gene.name) for gene in self.genes})
        raise UserError(f"restrict={self.restrict!r}: no gene matches {pattern!r} (genes: {', '.join(names)})")
      for i in rows:
        options = [str(value) for value in self.genes[i].values]
        unknown = [value for value in values if value not in options]
        if unknown:
          raise UserError(f"restrict={self.restrict!r}: {self.genes[i].name} cannot be {unknown[0]!r}"
                          f" (it can be: {', '.join(options)})")
        table[i] &= np.array([k < len(options) and options[k] in values for k in range(width)])
        if not table[i].any():
          raise UserError(f"restrict={self.restrict!r}: no value is left for {self.genes[i].name}")
    return table

  @functools.cached_property
  def _alive(self) -> Bool[np.ndarray, "G K G"]:
    """[controller, its option, target]: whether the option lets the target gene be active (transitively closed)."""
    width = self.allowed.shape[1]
    table = np.ones((self.num_genes, width, self.num_genes), bool)
    for target, gene in enumerate(self.genes):
      for name, values in gene.needs:
        controller = self.index[name]
        if controller >= target:
          raise ValueError(f"gene {gene.name!r} must come after {name!r}, which it needs")
        options = self.genes[controller].values
        table[controller, : len(options), target] &= [value in values for value in options]
        table[:, :, target] &= table[:, :, controller]
    return table

  # -- operations on genomes ----------------------------------------------------------------------------------------

  def active(self, genes: Int[Array | np.ndarray, "*P G"]) -> Bool[Array, "*P G"]:
    """Which genes mean something, given the others."""
    return jnp.asarray(self._alive)[jnp.arange(self.num_genes), genes].all(-2)

  def _active_here(self, genes: Int[np.ndarray, "G"]) -> Bool[np.ndarray, "G"]:
    """The same of one genome on the host, where it takes no time."""
    return self._alive[np.arange(self.num_genes), genes].all(-2)

  def canonical(self, genes: Int[Array | np.ndarray, "*P G"]) -> Int[Array, "*P G"]:
    """The one genome of a network: settled, and inactive genes are 0."""
    return jnp.where(self.active(genes), self.settle(genes), 0)

  def contains(self, genes: Int[Array | np.ndarray, "*P G"]) -> Bool[Array, "*P"]:
    """Whether a canonical genome is a member, restrictions included."""
    genes = jnp.asarray(genes)
    inside = (genes >= 0) & (genes < self.allowed.shape[1])
    clipped = jnp.where(inside, genes, 0)
    legal = jnp.asarray(self.allowed)[jnp.arange(self.num_genes), clipped] & (self.settle(clipped) == genes)
    return (inside & jnp.where(self.active(clipped), legal, genes == 0)).all(-1)

  def sample(self, key: Array, num: int) -> Int[Array, "P G"]:
    """Draws genomes, every gene uniform over its allowed options and independent of the others."""
    return self.canonical(self.draw(key, num))

  def draw(self, key: Array, num: int) -> Int[Array, "P G"]:
    """The same before inactive genes are set to 0: the values that they take if others bring them to life."""
    return self._at(jax.random.uniform(key, (num, self.num_genes)))

  def mutate(self, key: Array, genes: Int[Array, "P G"], rates: float | Float[Array, "*G"]) -> Int[Array, "P G"]:
    """Redraws each gene with its own probability (HAT 3.3: resampled from its list, so it may stay as it is)."""
    flip, place = jax.random.uniform(key, (2, *genes.shape))
    new = jnp.where((flip < rates) | ~self.active(genes), self._at(place), genes)
    return self.canonical(self.settle(new, flip < rates))

  def cross(self, key: Array, one: Int[Array, "P G"], two: Int[Array, "P G"]) -> Int[Array, "P G"]:
    """Takes every gene from either parent with probability 1/2, an active gene before an inactive one."""
    flip, place = jax.random.uniform(key, (2, *one.shape))
    in_one, in_two = self.active(one), self.active(two)
    child = jnp.where(in_one & ((flip < 0.5) | ~in_two), one, two)
    return self.canonical(jnp.where(in_one | in_two, child, self._at(place)))

  def _at(self, place: Float[Array, "P G"]) -> Int[Array, "P G"]:
    """Allowed options by their place in [0, 1), so that a uniform place gives a uniform option."""
    options = np.argsort(~self.allowed, axis=-1, kind="stable").astype(np.int32)  # the allowed ones come first
    number = (place * self.allowed.sum(-1)).astype(jnp.int32)
    return jnp.asarray(options)[jnp.arange(self.num_genes), number]

  # -- views --------------------------------------------------------------------------------------------------------

  def values(self, genes: np.ndarray) -> dict[str, Any]:
    """Chosen value by gene name, active genes only."""
    genes = self.settle(np.asarray(genes))
    active = self._active_here(genes)
    return {gene.name: gene.values[int(genes[i])] for i, gene in enumerate(self.genes) if active[i]}

  def genome(self, values: dict[str, Any]) -> np.ndarray:
    """The canonical genome with these values; genes that are not named are inactive, or take their first option and settle.

    Raises:
      UserError: a value is not among the options of its gene.
    """
    genes = np.zeros(self.num_genes, np.int32)
    for i, gene in enumerate(self.genes):
      if gene.name in values:
        if values[gene.name] not in gene.values:
          raise UserError(f"{gene.name} = {values[gene.name]!r} is outside the space (options: {gene.values})")
        genes[i] = gene.values.index(values[gene.name])
    genes = self.settle(genes, np.array([gene.name in values for gene in self.genes]))
    return np.where(self._active_here(genes), genes, 0).astype(np.int32)

  def uniform_genomes(self) -> Iterator[np.ndarray]:
    """Every allowed genome in which all blocks are alike: the architectures people write by hand."""
    fields: dict[str, list[int]] = {}
    for i, gene in enumerate(self.genes):
      fields.setdefault(gene.field if gene.site else gene.name, []).append(i)
    options = [[k for k in range(self.allowed.shape[1]) if self.allowed[rows, k].all()] for rows in fields.values()]
    seen, combinations = set(), np.ndindex(*map(len, options))
    while flat := list(itertools.islice(combinations, 1024)):
      genomes = np.zeros((len(flat), self.num_genes), np.int32)
      for rows, allowed, chosen in zip(fields.values(), options, zip(*flat)):
        genomes[:, rows] = np.array(allowed)[list(chosen), None]
      alive = self._alive[np.arange(self.num_genes), genomes].all(-2)
      genomes = np.where(alive, genomes, 0)
      for genes in genomes[(self.settle(genomes) == genomes).all(-1)]:
        if genes.tobytes() not in seen:
          seen.add(genes.tobytes())
          yield genes

  def log10_size(self) -> float:
    """Decimal logarithm of the number of distinct networks (genomes of one network counted once)."""
    controllers = sorted({self.index[name] for gene in self.genes for name, _ in gene.needs})
    choices = [np.flatnonzero(self.allowed[i]) for i in controllers]
    free = ~np.isin(np.arange(self.num_genes), controllers)
    total = -np.inf
    for flat in np.ndindex(*map(len, choices)):
      alive = np.ones(self.num_genes, bool)
      for i, options, k in zip(controllers, choices, flat):
        alive &= self._alive[i, options[k]]
      if any(k and not alive[i] for i, k in zip(controllers, flat)):
        continue  # an inactive controller is counted with one of its options
      total = np.logaddexp(total, self._log_ways(alive & free))
    return float(total / np.log(10))


def _rules(text: str) -> Iterator[tuple[str, list[str]]]:
  for rule in filter(None, (rule.strip() for rule in text.split(";"))):
    pattern, equals, values = rule.partition("=")
    if not equals or not values.strip():
      raise UserError(f"restrict={text!r}: {rule!r} is not of the form pattern=value,value")
    yield pattern.strip(), [value.strip() for value in values.split(",")]
