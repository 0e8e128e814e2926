"""What the laws are about: every row of the table of spaces, cut down to small sizes, with networks and something to
feed them. A row of a known family is covered the day it is added; a new family needs a class here.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry, space
from nasformer.nets.encoder import EncoderTransformer
from nasformer.nets.sequence import Rows, Sequence, SequenceNet, Symbols
from nasformer.nets.translation import PAD, Pair, Sliced, Translation, TranslationNet
from nasformer.nets.vision import Vision, VisionNet
from nasformer.ops.losses import smoothed_cross_entropy
from nasformer.space.encoder import Encoder
from nasformer.space.translation import Translation as TranslationSpace
from nasformer.supernet.encoder import Supernet
from nasformer.supernet.translation import TranslationSupernet

KINDS = {name: registry.lookup(attention.TABLE, name)() for name in attention.TABLE}
SPACES = {name: registry.lookup(space.TABLE, name)() for name in space.TABLE}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling
quick = functools.partial(jax.jit, compiler_options=QUICK)


class Blocks(VisionNet):
  """The same network with compiled blocks, which all small networks share: op by op they would take minutes."""

  stem = jax.jit(VisionNet.stem, static_argnums=0)
  attention = jax.jit(VisionNet.attention, static_argnums=(0, 1))
  mlp = jax.jit(VisionNet.mlp, static_argnums=0)
  head = jax.jit(VisionNet.head, static_argnums=0)


def portion(kinds, number, least=1):
  """Some of the kinds, one after another: so many that five rows, by their number, have them all."""
  size = -(-len(kinds) // 5)
  return tuple(kinds[(number * size + i) % len(kinds)] for i in range(min(max(size, least), len(kinds))))


class Images:
  """Encoder spaces, and networks that classify images. A row has its portion of all kinds, unless some are named."""

  spaces, supernet, num = Encoder, Supernet, 8
  inputs = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (3, 4, 6, 2)), jnp.float32)
  other = inputs.at[1].set(255 - inputs[1])

  def net(self, name, make=VisionNet):
    return make(Vision(2), (4, 6, 2), 3, tuple(KINDS.items()), (100.0, 120.0), (60.0, 50.0))

  def shrunk(self, name, kinds):
    """The same class of space with short lists of small sizes."""
    mlp = {"ffn_dim": (5, 10)} if SPACES[name].ffn_dim else {"mlp_ratio": (0.5, 1.0)}
    heads = {"num_heads": (1, 3)} if SPACES[name].num_heads else {"head_budget": 6}
    kinds = kinds or portion(tuple(KINDS), row_number(name, Encoder), 2)
    return dataclasses.replace(SPACES[name], embed_dim=(6, 10), depth=(1, 2, 3), head_dim=4, kinds=kinds, **heads, **mlp)

  def small(self, name, spec):
    """Function of the small network's parameters -> logits, as it is called most quickly."""
    network = EncoderTransformer(self.net(name, Blocks), spec)
    return lambda params: network.apply({"params": params}, self.inputs)

  def compiled(self, gradient):
    """A function of one small network as it is called most quickly."""
    return gradient

  def loss(self, logits):
    return smoothed_cross_entropy(logits, jnp.array([0, 2, 1]), 0.1).mean()

  def full_size(self, name):
    """The space with every kind, networks of its sizes, and the shape of one image."""
    this = dataclasses.replace(SPACES[name], kinds=tuple(KINDS))
    net = VisionNet(Vision(8), (64, 64, 3), 10, tuple(KINDS.items()))
    return this, net, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)

  def few(self, name, this):
    """The same space with its portion of the kinds."""
    return dataclasses.replace(this, kinds=portion(this.kinds, row_number(name, self.spaces)))

  def grows(self, this, gene, cost):
    """Whether a network of this space costs more, and not only as much, with more of it."""
    return not (this.head_budget and gene.name == "depth")  # the same heads in more layers


class Texts:
  """Networks that classify texts, of encoder spaces: named by a prefix, as the rows are those of images."""

  spaces, supernet, num = Encoder, Supernet, 8
  inputs = Rows(jnp.array([[5, 4, 2, 7, 1], [3, 6, 0, 0, 0], [0] * 5, [1, 2, 3, 8, 0]]), jnp.array([5, 2, 0, 4]))
  other = Rows(inputs.values.at[1].set(jnp.array([6, 2, 4, 8, 8])), inputs.length.at[1].set(3))

  def net(self, name, make=SequenceNet):
    return make(Sequence(2, "sinusoidal", "max"), Symbols(9), 6, 3, tuple(KINDS.items()), 10)

  def shrunk(self, name, kinds):
    return FAMILIES[0].shrunk(name, kinds)

  def small(self, name, spec):
    network = EncoderTransformer(self.net(name), spec)
    return jax.jit(lambda params: network.apply({"params": params}, self.inputs))

  def compiled(self, gradient):
    return quick(gradient)

  def loss(self, logits):
    return smoothed_cross_entropy(logits, jnp.array([0, 2, 1, 1]), 0.1).mean()


class Translations:
  """Encoder-decoder spaces, and networks that translate.

  What they choose from differs from row to row, since only few choices at a time compile quickly: together they cover
  every kind in every module, every span, both norms and all ways to share embeddings.
  """

  spaces, supernet, num = TranslationSpace, TranslationSupernet, 34
  inputs = Pair(jnp.array([[5, 4, 2, PAD], [9, 2, PAD, PAD], [PAD] * 4, [7, 8, 10, 2]]),
                jnp.array([[5, 2, PAD, PAD], [3, 6, 4, 2], [PAD] * 4, [7, 7, 2, PAD]]))
  other = Pair(inputs.source.at[1].set(jnp.array([4, 3, 3, 2])), inputs.target.at[1].set(jnp.array([8, 2, PAD, PAD])))
  modules = {"encoder": None, "decoder": "causal", "cross": "cross"}

  def able(self, module, kinds):
    """The kinds that can work in this module, where heads divide a fixed width."""
    needs = ("divides", self.modules[module]) if self.modules[module] else ("divides",)
    return [kind for kind in kinds if all(getattr(KINDS[kind].can, need) for need in needs) and not KINDS[kind].can.grid]

  def net(self, name):
    number = row_number(name, self.spaces)
    embeddings = ("joint", "decoder", "separate")[number % 3]
    config = Translation(("post", "pre")[number % 2], embeddings, ("relu", "gelu")[number // 2 % 2])
    return TranslationNet(config, 11, 11 if embeddings == "joint" else 13, tuple(KINDS.items()), (8, 8))

  def shrunk(self, name, kinds):
    number, fields = row_number(name, self.spaces), {}
    kinds = kinds or tuple(KINDS)
    for place, module in enumerate(self.modules, number):
      heads = (1, 2) if place % 3 and len(kinds) > 1 else (2,)
      fields |= {f"{module}_kinds": portion(self.able(module, kinds), place, 1 + place % 2), f"{module}_heads": heads}
    span, depth = (((1, 2), (2, 3)), ((1, 3), (3,)), ((2, 3), (3,)))[number % 3]
    widths = {"encoder_embed_dim": (6, 8), "decoder_embed_dim": (6, 8)}
    if number % 3 or len(kinds) < 3:  # where the table of embeddings is not shared by both sides, or it must be quick
      widths[list(widths)[number % 2]] = (8,)
    return dataclasses.replace(
        SPACES[name], encoder_depth=depth, decoder_depth=(1, 2), encoder_ffn_dim=(3, 5), decoder_ffn_dim=(3, 5), span=span,
        qkv_dim=4, **widths, **fields)

  def small(self, name, spec):
    network, (source, target) = Sliced(self.net(name), spec), self.inputs
    return lambda params: network.decode(params, network.encode(params, source), source != PAD, target)

  def compiled(self, gradient):
    return quick(gradient)

  def loss(self, logits):
    real = self.inputs.target != PAD
    return (smoothed_cross_entropy(logits, self.inputs.target, 0.1) * real).sum() / real.sum()

  def full_size(self, name):
    able = {f"{module}_kinds": tuple(self.able(module, KINDS)) for module in self.modules}
    this, tokens = dataclasses.replace(SPACES[name], **able), jax.ShapeDtypeStruct((1, 30), jnp.int32)
    widths = max(this.encoder_embed_dim), max(this.decoder_embed_dim)
    net = TranslationNet(Translation(count_vocabulary=True), 100, 100, tuple(KINDS.items()), widths)
    return this, net, Pair(tokens, tokens)

  def few(self, name, this):
    fields = [f"{module}_kinds" for module in self.modules]
    kinds = [portion(getattr(this, field), place) for place, field in enumerate(fields, row_number(name, self.spaces))]
    return dataclasses.replace(this, **dict(zip(fields, kinds, strict=True)))

  def grows(self, this, gene, cost):
    """Heads divide a fixed width, and encoder layers that are attended to have no parameters of their own."""
    return "num_heads" not in gene.field and not (gene.field == "span" and cost.unit == "parameters")


FAMILIES = (Images(), Translations())
TEXTS, _TEXTS = "texts:", Texts()  # in front of a row: its networks read texts


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A small supernet of a row, parameters of which none is zero, a batch, and random genomes.

  Kinds share projections in every other row.
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
    return np.stack([self._loss(spec)(self.supernet.derive(self.params, spec))[1] for spec in self.specs])

  @property
  def grads(self):
    """Gradients of the loss of the small networks."""
    return [gradient for gradient, _ in self._slopes]

  @functools.cached_property
  def _slopes(self):
    slope = lambda spec, small: self.family.compiled(jax.grad(self._loss(spec), has_aux=True))(small)
    return [slope(spec, self.supernet.derive(self.params, spec)) for spec in self.specs]

  def loss(self, logits):
    return self.family.loss(logits), logits

  def _loss(self, spec):
    network = self.family.small(self.name.removeprefix(TEXTS), spec)
    return lambda small: self.loss(network(small))

  @functools.cache
  def forward(self, form):
    """Compiled (params, genes, inputs) -> logits of a form of the supernet."""
    return quick(getattr(self.supernet, form))

  @functools.cache
  def gradient(self, form):
    """Compiled (params, genes) -> (gradient, logits)."""
    run = getattr(self.supernet, form)
    return quick(jax.grad(lambda p, g: self.loss(run(p, g, self.inputs)), has_aux=True))


@functools.cache
def make_case(name, kinds=(), num=None):
  family, rng = family_of(name), np.random.default_rng(0)
  row = name.removeprefix(TEXTS)
  supernet = family.supernet(family.shrunk(row, kinds), family.net(row), row_number(row, family.spaces) % 2 == 1)
  shapes = jax.eval_shape(supernet.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=0.5, size=leaf.shape), leaf.dtype), shapes)
  return Case(name, family, supernet, params, jnp.asarray(draw(supernet.space, num or family.num)))


def row_number(name, family):
  """Place of a row among those of its family."""
  return [row for row, space in SPACES.items() if isinstance(space, family)].index(name)


def family_of(name):
  if name.startswith(TEXTS):
    return _TEXTS
  (found,) = [family for family in FAMILIES if isinstance(SPACES[name], family.spaces)] or [None]
  assert found, f"give {name} a family"
  return found


@functools.cache
def draw(space, num):
  """Random genomes."""
  return np.asarray(quick(functools.partial(space.sample, num=num))(jax.random.key(0)))


@pytest.fixture(params=SPACES)
def name(request):
  """Every row in turn."""
  return request.param


@pytest.fixture
def this(name):
  """The space of the row at its own sizes."""
  return SPACES[name]


@pytest.fixture
def full_size(name):
  """The space with every kind; a network family, with genomes of the space, and the shape of one example."""
  this, net, example = family_of(name).full_size(name)
  return family_of(name), this, net, example


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
  """The cases of all translation spaces."""
  return [make_case(name) for name, space in SPACES.items() if isinstance(space, TranslationSpace)]
