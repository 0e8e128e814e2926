"""What the laws are about: every row of the table of spaces, cut down to small sizes, with networks and something to
feed them. A row of a known family is covered the day it is added; a new family needs a class here.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry, space
from nasformer.attention.base import Sizes
from nasformer.nets.encoder import EncoderTransformer
from nasformer.nets.sequence import Channels, Rows, Sequence, SequenceNet, Symbols
from nasformer.nets.translation import PAD, Pair, Sliced, Translation, TranslationNet
from nasformer.nets.vision import Vision, VisionNet
from nasformer.ops.losses import smoothed_cross_entropy
from nasformer.space.encoder import Encoder
from nasformer.space.translation import Translation as TranslationSpace
from nasformer.supernet.encoder import Supernet
from nasformer.supernet.translation import TranslationSupernet

KINDS = {name: registry.lookup(attention.TABLE, name)() for name in attention.TABLE}
LESS = {f"{name} less": dataclasses.replace(kind, **{field: getattr(kind, field) // 2 for field in kind.elastic
                                                     if getattr(kind, field) is not None})
        for name, kind in KINDS.items() if kind.elastic}  # with other sizes of their own
EVERY = tuple((KINDS | LESS).items())
CARRIES = [name for name, kind in KINDS.items() if kind.first_carry(Sizes(1, 1, 1), 1, 1, jnp.float32) is not None]
SPACES = {name: registry.lookup(space.TABLE, name)() for name in space.TABLE}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling
quick = functools.partial(jax.jit, compiler_options=QUICK)


def portion(kinds, name, turn=0, least=1):
  """A row's share of the kinds: rows of a family have all of them together, and as few each as that takes.

  Args:
    kinds: to be shared out.
    name: of the row.
    turn: how many rows further the sharing begins.
    least: how many kinds a row has in any case.
  """
  rows = rows_like(name)
  number = (rows.index(name) + turn) % len(rows)
  first, last = (len(kinds) * i // len(rows) for i in (number, number + 1))
  return tuple(kinds[i % len(kinds)] for i in range(first, max(last, first + min(least, len(kinds)))))


class Images:
  """Encoder spaces, and networks that classify images. A row has its portion of all kinds, unless some are named."""

  spaces, supernet, many, able = Encoder, Supernet, 8, tuple(KINDS)
  inputs = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (3, 4, 6, 2)), jnp.float32)
  other = inputs.at[1].set(255 - inputs[1])

  def net(self, name):
    return VisionNet(Vision(2), (4, 6, 2), 3, EVERY, (100.0, 120.0), (60.0, 50.0))

  def shrunk(self, name, kinds):
    """The same class of space with short lists of small sizes."""
    mlp = {"ffn_dim": (5, 10)} if SPACES[name].ffn_dim else {"mlp_ratio": (0.5, 1.0)}
    heads = {"num_heads": (1, 3)} if SPACES[name].num_heads else {"head_budget": 4, "head_step": 1}
    depth = (1, 2, 3) if kinds else (1, 2)
    kinds = kinds or portion(self.able, name, least=2)
    return dataclasses.replace(SPACES[name], embed_dim=(6, 10), depth=depth, head_dim=4, kinds=kinds, **heads, **mlp)

  def small(self, name, spec):
    """Function of the small network's parameters -> logits."""
    network = EncoderTransformer(self.net(name), spec)
    return lambda params: network.apply({"params": params}, self.inputs)

  def loss(self, logits):
    return smoothed_cross_entropy(logits, jnp.array([0, 2, 1]), 0.1).mean()

  def full_size(self, name):
    """The space with every kind, networks of its sizes, and the shape of one image."""
    this = dataclasses.replace(SPACES[name], kinds=self.able)
    net = VisionNet(Vision(8), (64, 64, 3), 10, EVERY)
    return this, net, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)

  def few(self, name, this):
    """The same space with its portion of the kinds, and few layers."""
    return dataclasses.replace(this, kinds=portion(this.kinds, name), depth=(2, 3))

  def grows(self, this, gene, cost):
    """Whether a network of this space costs more, and not only as much, with more of it."""
    return not (this.head_budget and gene.field in ("depth", "num_heads"))  # all heads are always the same


class Texts(Images):
  """Networks that classify texts, of encoder spaces: named by a prefix, as the rows are those of images."""

  able, source = tuple(name for name, kind in KINDS.items() if not kind.can.grid), Symbols(9)
  inputs = Rows(jnp.array([[5, 4, 2, 7, 1], [3, 6, 0, 0, 0], [0] * 5, [1, 2, 3, 8, 0]]), jnp.array([5, 2, 0, 4]))
  other = Rows(inputs.values.at[1].set(jnp.array([6, 2, 4, 8, 8])), inputs.length.at[1].set(3))

  def net(self, name):
    return SequenceNet(Sequence(2, "sinusoidal", "max"), self.source, 6, 3, EVERY, 10)

  def loss(self, logits):
    return smoothed_cross_entropy(logits, jnp.array([0, 2, 1, 1]), 0.1).mean()

  def full_size(self, name):
    this, _, _ = super().full_size(name)
    net = SequenceNet(Sequence(), self.source, 128, 10, EVERY, max(this.embed_dim))
    return this, net, jax.eval_shape(lambda: Rows(self.source.example(1, 128), jnp.array([128])))


class Series(Texts):
  """The same of series of two channels."""

  source = Channels((1.0, -1.0), (2.0, 0.5))
  inputs = Texts.inputs._replace(values=jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 2)), jnp.float32))
  other = Texts.other._replace(values=inputs.values.at[1].set(1 - inputs.values[1]))


class Translations:
  """Encoder-decoder spaces, and networks that translate.

  What they choose from differs from row to row, since only few choices at a time compile quickly: together they cover
  every kind in every module, every span, both norms and all ways to share embeddings.
  """

  spaces, supernet, many = TranslationSpace, TranslationSupernet, 34
  inputs = Pair(jnp.array([[5, 4, 2, PAD], [9, 2, PAD, PAD], [PAD] * 4, [7, 8, 10, 2]]),
                jnp.array([[5, 2, PAD, PAD], [3, 6, 4, 2], [PAD] * 4, [7, 7, 2, PAD]]))
  other = Pair(inputs.source.at[1].set(jnp.array([4, 3, 3, 2])), inputs.target.at[1].set(jnp.array([8, 2, PAD, PAD])))
  modules = {"encoder": None, "decoder": "causal", "cross": "cross"}

  def able(self, module, kinds, divides=True):
    """The kinds that can work in this module, where heads divide a fixed width or are always of one number."""
    needs = [need for need in (self.modules[module], "divides" if divides else None) if need]
    can = {name: kind.can for name, kind in EVERY}
    return [kind for kind in kinds if all(getattr(can[kind], need) for need in needs) and not can[kind].grid]

  def net(self, name):
    number = rows_like(name).index(name)
    embeddings = ("joint", "decoder", "separate")[number % 3]
    config = Translation(("post", "pre")[number % 2], embeddings, ("relu", "gelu")[number // 2 % 2])
    return TranslationNet(config, 11, 11 if embeddings == "joint" else 13, EVERY, (8, 8))

  def shrunk(self, name, kinds):
    number, fields = rows_like(name).index(name), {}
    divides = all(dict(EVERY)[kind].can.divides for kind in kinds)
    for turn, module in enumerate(self.modules):
      able = self.able(module, kinds or KINDS, divides)
      fields[f"{module}_kinds"] = tuple(able) if kinds else portion(able, name, turn)
      fields[f"{module}_heads"] = (1, 2) if (number + turn) % 3 == 1 and len(kinds) != 1 and divides else (2,)
    span, depth = (((1, 2), (2, 3)), ((1, 3), (3,)), ((1, 2), (2,)))[number % 3]
    widths = {"encoder_embed_dim": (6, 8), "decoder_embed_dim": (6, 8)}
    if number % 3 or kinds:  # where the table of embeddings is not shared by both sides, or it must be quick
      widths[list(widths)[number % 2]] = (8,)
    return dataclasses.replace(
        SPACES[name], encoder_depth=depth, decoder_depth=(1, 2), encoder_ffn_dim=(3, 5), decoder_ffn_dim=(3, 5), span=span,
        qkv_dim=4, **widths, **fields)

  def small(self, name, spec):
    network, (source, target) = Sliced(self.net(name), spec), self.inputs
    return lambda params: network.decode(params, network.encode(params, source), source != PAD, target)

  def loss(self, logits):
    real = self.inputs.target != PAD
    return (smoothed_cross_entropy(logits, self.inputs.target, 0.1) * real).sum() / real.sum()

  def full_size(self, name):
    able = {f"{module}_kinds": tuple(self.able(module, KINDS)) for module in self.modules}
    this, tokens = dataclasses.replace(SPACES[name], **able), jax.ShapeDtypeStruct((1, 30), jnp.int32)
    widths = max(this.encoder_embed_dim), max(this.decoder_embed_dim)
    net = TranslationNet(Translation(count_vocabulary=True), 100, 100, EVERY, widths)
    return this, net, Pair(tokens, tokens)

  def few(self, name, this):
    fields = [f"{module}_kinds" for module in self.modules]
    kinds = {field: portion(getattr(this, field), name, turn) for turn, field in enumerate(fields)}
    return dataclasses.replace(this, encoder_depth=(3,), decoder_depth=(1, 2), **kinds)

  def grows(self, this, gene, cost):
    """Heads divide a fixed width, and encoder layers that are attended to have no parameters of their own."""
    return "num_heads" not in gene.field and not (gene.field == "span" and cost.unit == "parameters")


FAMILIES = (Images(), Translations())
READERS = {"texts": Texts(), "series": Series()}  # in front of a row, with a colon: its networks read these


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A small supernet of a row, parameters of which none is zero, a batch, and genomes.

  Kinds share no projections, all, or those of values, row by row.
  """

  name: str
  family: Any
  supernet: Any
  params: Any
  genes: Any

  @property
  def inputs(self):
    return self.family.inputs

  @functools.cached_property
  def specs(self):
    return [self.supernet.space.decode(np.asarray(row)) for row in self.genes]

  @functools.cached_property
  def logits(self):
    """What the small networks say."""
    if "_slopes" in self.__dict__:
      return np.stack([logits for _, logits in self._slopes])
    host = jax.device_get(self.params)
    return np.stack([quick(self._small(spec))(self.supernet.derive(host, spec)) for spec in self.specs])

  @property
  def grads(self):
    """Gradients of the loss of the small networks, by the parameters that they are cut out of."""
    return [gradient for gradient, _ in self._slopes]

  @functools.cached_property
  def _slopes(self):
    slope = lambda run: quick(jax.grad(lambda params: self.loss(run(params)), has_aux=True))
    cut_out = lambda spec: lambda params: self._small(spec)(self.supernet.derive(params, spec))
    return [slope(cut_out(spec))(self.params) for spec in self.specs]

  def _small(self, spec):
    return self.family.small(row_of(self.name), spec)

  def loss(self, logits):
    return self.family.loss(logits), logits

  @functools.cached_property
  def used(self):
    """Compiled genes -> what this architecture uses of the parameters."""
    return quick(self.supernet.used)

  @functools.cache
  def forward(self, form):
    """Compiled (params, genes, inputs) -> logits of a form of the supernet."""
    return quick(getattr(self.supernet, form))

  @functools.cache
  def gradient(self, form):
    """Compiled (params, genes) -> (gradient, logits)."""
    run = getattr(self.supernet, form)
    return quick(jax.grad(lambda p, g: self.loss(run(p, g, self.inputs)), has_aux=True))


def make_case(name, kinds=(), num=None):
  """With so many random genomes: a number, or "many"; or one by each of some rules; or as few as cover the space.

  Asked for again, in whatever way, it is the same case, with the programs that are compiled already.
  """
  return made(name, kinds, num)


@functools.cache
def made(name, kinds, num):
  family, rng = family_of(name), np.random.default_rng(0)
  row = row_of(name)
  share = ("none", "all", "values")[rows_like(row).index(row) % 3]
  supernet = family.supernet(family.shrunk(row, kinds), family.net(row), share)
  shapes = jax.eval_shape(supernet.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=0.5, size=leaf.shape), leaf.dtype), shapes)
  genes = {None: cover, "many": functools.partial(draw, num=family.many)}.get(num, functools.partial(draw, num=num))
  if isinstance(num, tuple):
    genes = lambda space: np.concatenate([draw(dataclasses.replace(space, restrict=rules), 1) for rules in num])
  return Case(name, family, supernet, params, genes(supernet.space))


def rows_like(name):
  """The rows of the same family, this one among them."""
  return [row for row, space in SPACES.items() if isinstance(space, family_of(name).spaces)]


def row_of(name):
  """Without what its networks read."""
  return name.rpartition(":")[2]


def family_of(name):
  if ":" in name:
    return READERS[name.partition(":")[0]]
  (found,) = [family for family in FAMILIES if isinstance(SPACES[name], family.spaces)] or [None]
  assert found, f"give {name} a family"
  return found


@functools.cache
def draw(space, num):
  """Random genomes, every gene uniform over its allowed options; made on the host, where nothing is compiled."""
  rng, options = np.random.default_rng(0), [np.flatnonzero(some) for some in space.allowed]
  every = ({gene.name: gene.values[rng.choice(some)] for gene, some in zip(space.genes, options)} for _ in range(num))
  return np.stack([space.genome(values) for values in every])


@functools.cache
def cover(space):
  """The largest genome, and of random ones as few as make every other choice that a layer or the whole can make; kinds that
  pass something on are met in two layers of a network."""
  largest = space.genome({gene.name: gene.values[-1] for gene in space.genes})

  def choices(row):
    made = [(re.sub(r"\d+", "*", name), value) for name, value in space.values(row).items()]
    return {*made, *((*choice, "again") for choice in made if choice[1] in CARRIES and made.count(choice) > 1)}

  rest = [(row, choices(row)) for row in draw(space, 100)]
  found, missing = [largest], set().union(*(made for _, made in rest)) - choices(largest)
  while missing or len(found) < 2:
    row, made = max(rest, key=lambda pair: len(pair[1] & missing))
    found, missing = [*found, row], missing - made
  return np.stack(found)


@pytest.fixture(params=SPACES)
def name(request):
  """Every row in turn."""
  return request.param


@pytest.fixture
def this(name):
  """The space of the row at its own sizes."""
  return SPACES[name]


@pytest.fixture(params=[*SPACES, *(f"{reader}:tiny" for reader in READERS)])
def named(request):
  """Every row in turn, and one with each of the other things that its networks may read."""
  return request.param


@pytest.fixture
def full_size(named):
  """The space with every kind; a network family, with genomes of the space, and the shape of one example."""
  this, net, example = family_of(named).full_size(row_of(named))
  return family_of(named), this, net, example


@pytest.fixture(params=["few", pytest.param("many", marks=pytest.mark.slow)])
def shared_out(request, full_size, named):
  """The same with few layers, and kinds that the rows share out; or with many."""
  family, this, *rest = full_size
  return family, this if request.param == "many" else family.few(row_of(named), this), *rest


@pytest.fixture(name="draw")
def draw_fixture():
  """Function (space, number) -> random genomes."""
  return draw


@pytest.fixture(scope="session")
def case():
  """Function (row, kinds, number of genomes) -> Case; made once."""
  return make_case


@pytest.fixture(scope="session")
def translations():
  """Function (number of genomes) -> the cases of all translation spaces."""
  return lambda num: [make_case(name, (), num) for name, space in SPACES.items() if isinstance(space, TranslationSpace)]
