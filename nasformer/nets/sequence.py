"""The sequence Transformer: texts as token numbers, or series of numbers, of unequal lengths, to one label each.

A stem makes positions of width D from patches of neighbouring steps, then come the pre-norm layers of `nasformer.nets.encoder`,
a final norm, and the mean (or maximum) over the real positions. Beyond its length a sequence is padding, which no other
position sees, so that a row does not depend on how far it was padded. A sequence of length 0 is only padding: the
classifier then reads zeros.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from nasformer.attention.base import Kind, Tensor, Tensors, xavier
from nasformer.nets import encoder
from nasformer.nets.blocks import Keep
from nasformer.nets.encoder import EncoderNet, Mask
from nasformer.nets.translation import sinusoids
from nasformer.ops import masks
from nasformer.types import UserError


class Rows(NamedTuple):
  """What the network takes: padded sequences and their lengths, in steps.

  Attributes:
    values: token numbers, [B, steps], or numbers, [B, steps, channels]; beyond the length they mean nothing.
    length: number of real steps.
  """

  values: Num[Array, "B steps *channels"]
  length: Int[Array, "B"]


@dataclasses.dataclass(frozen=True)
class Sequence:
  """Transformer encoder of texts or series; everything that search does not choose.

  Attributes:
    patch_size: neighbouring steps that become one position of the network; 1 leaves them apart.
    positions: "learned", one vector for each, or "sinusoidal"; a narrower network takes the leading columns of either.
    pooling: "mean" or "max" over the real positions.
    activation: "relu" or "gelu", in the MLP.
    dropout: rate on the hidden activations at the largest width; a narrower network gets proportionally less.
    stochastic_depth: drop probability of the last layer, rising linearly from 0 at the first.
    dtype: compute type, "float32" or "bfloat16"; parameters, norms and softmax stay in float32.
    count_length: steps at which FLOPs are counted and latency is measured; 0 takes the longest that the data have.
  """

  patch_size: int = 1
  positions: str = "learned"
  pooling: str = "mean"
  activation: str = "relu"
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  dtype: str = "float32"
  count_length: int = 0

  def __post_init__(self):
    encoder.check(self)
    for name, known in (("positions", ("learned", "sinusoidal")), ("pooling", ("mean", "max"))):
      if getattr(self, name) not in known:
        raise UserError(f"net.{name}={getattr(self, name)!r}: it must be one of {', '.join(known)}")
    if self.count_length < 0:
      raise UserError(f"net.count_length={self.count_length}: it must be at least 1, or 0 for the longest")


@dataclasses.dataclass(frozen=True)
class Symbols:
  """A stem for token numbers: an embedding for each place in a patch, added up.

  Attributes:
    size: of the vocabulary.
  """

  size: int

  def tensors(self, patch_size: int, embed_dim: int, widest: int) -> dict[str, Tensor]:
    """The embeddings; they vary as one over the root of the largest width."""
    draw = jax.nn.initializers.normal((patch_size * widest) ** -0.5)
    return {"embedding": Tensor((patch_size, self.size, embed_dim), (None, None, "embed"), draw)}

  def embed(self, params: Tensors, patches: Int[Array, "B T patch"], real: Bool[Array, "B T patch"],
            dtype: jnp.dtype) -> Float[Array, "B T D"]:
    """Patches to positions; what is not real adds nothing."""
    x = jnp.stack([table[patches[..., i]] for i, table in enumerate(params["embedding"].astype(dtype))], 2)
    return jnp.where(real[..., None], x, 0).sum(2)

  def products(self, patch_size: int, embed_dim: int) -> int:
    """Multiply-adds for one position: embeddings are looked up."""
    return 0

  def example(self, batch_size: int, length: int) -> Int[Array, "B steps"]:
    return jnp.zeros((batch_size, length), jnp.int32)


@dataclasses.dataclass(frozen=True)
class Channels:
  """A stem for series: numbers are standardised and a patch of them is projected.

  Attributes:
    mean: of each channel.
    std: likewise.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]

  def tensors(self, patch_size: int, embed_dim: int, widest: int) -> dict[str, Tensor]:
    """The projection."""
    inner = patch_size * len(self.mean)
    return {"patch": Tensor((inner, embed_dim), (None, "embed"), xavier(inner, embed_dim)),
            "patch_bias": Tensor((embed_dim,), ("embed",), jax.nn.initializers.zeros)}

  def embed(self, params: Tensors, patches: Float[Array, "B T patch channels"], real: Bool[Array, "B T patch"],
            dtype: jnp.dtype) -> Float[Array, "B T D"]:
    """Patches to positions; what is not real counts as the mean."""
    x = (patches.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)
    x = jnp.where(real[..., None], x, 0).astype(dtype)
    return x.reshape(*x.shape[:2], -1) @ params["patch"].astype(dtype) + params["patch_bias"].astype(dtype)

  def products(self, patch_size: int, embed_dim: int) -> int:
    """Multiply-adds for one position."""
    return patch_size * len(self.mean) * embed_dim

  def example(self, batch_size: int, length: int) -> Float[Array, "B steps channels"]:
    return jnp.zeros((batch_size, length, len(self.mean)), jnp.float32)


@dataclasses.dataclass(frozen=True)
class SequenceNet(EncoderNet):
  """A sequence Transformer for given data and classes, of any size: tensors, functions and costs of its parts.

  Attributes:
    config: what search does not choose.
    source: what a step is: a token number or some numbers.
    max_length: steps of the longest sequence.
    num_classes: size of the output.
    kinds: attention kinds by name.
    widest: largest model width.
  """

  config: Sequence
  source: Symbols | Channels
  max_length: int
  num_classes: int
  kinds: tuple[tuple[str, Kind], ...]
  widest: int

  def __post_init__(self):
    if self.config.count_length > self.max_length:
      raise UserError(f"net.count_length={self.config.count_length} is above the {self.max_length} steps of the longest"
                      " sequence: lower it, or raise data.max_length")

  @property
  def count_length(self) -> int:
    """Steps that costs are counted at."""
    return self.config.count_length or self.max_length

  def num_positions(self, steps: int) -> int:
    """Positions that so many steps become."""
    return -(-steps // self.config.patch_size)

  @property
  def length(self) -> int:
    """Number of positions that costs are counted at."""
    return self.num_positions(self.count_length)

  @property
  def counting(self) -> str:
    """The rule of counting, in words."""
    unit = "tokens" if isinstance(self.source, Symbols) else "steps"
    return (f"FLOPs = 2 x multiply-adds of all matrix products for one sequence of {self.count_length} {unit}, embedding and"
            " classifier included; parameters = all trained numbers")

  # -- the ends of the network --------------------------------------------------------------------------------------

  def stem_tensors(self, embed_dim: int) -> dict[str, Tensor]:
    tensors = self.source.tensors(self.config.patch_size, embed_dim, self.widest)
    if self.config.positions == "sinusoidal":
      return tensors
    shape = (self.num_positions(self.max_length), embed_dim)
    return tensors | {"position": Tensor(shape, (None, "embed"), jax.nn.initializers.truncated_normal(0.02))}

  def stem(self, params: Tensors, inputs: Rows, keep: Keep | None = None) -> Float[Array, "B T D"]:
    """Sequences to positions.

    Raises:
      UserError: they are longer than the network was made for.
    """
    steps, patch = inputs.values.shape[1], self.config.patch_size
    if steps > self.max_length:
      raise UserError(f"sequences of {steps} steps: this network takes at most {self.max_length}")
    positions = self.num_positions(steps)
    split = lambda x: jnp.pad(x, [(0, 0), (0, positions * patch - steps)] + [(0, 0)] * (x.ndim - 2)).reshape(
        len(x), positions, patch, *x.shape[2:])
    real = split(jnp.arange(steps) < inputs.length[:, None])
    dtype = jnp.dtype(self.config.dtype)
    x = self.source.embed(params, split(inputs.values), real, dtype)
    if self.config.positions == "learned":
      where = params["position"][:positions]
    else:
      where = sinusoids(jnp.arange(positions), self.widest)[:, : x.shape[-1]] * self.widest**-0.5
    x = jnp.where(real.any(2)[..., None], x + where.astype(dtype), 0)
    return masks.zero(x, None if keep is None else keep.embed)

  def stem_products(self, embed_dim: int) -> int:
    return self.length * self.source.products(self.config.patch_size, embed_dim)

  def real(self, inputs: Rows) -> Mask:
    first = jnp.arange(self.num_positions(inputs.values.shape[1])) * self.config.patch_size
    return first < inputs.length[:, None]

  def pool(self, x: Float[Array, "B T D"], mask: Mask | None) -> Float[Array, "B D"]:
    """Mean or maximum over the real positions; zeros where there is none."""
    real = mask[..., None]
    if self.config.pooling == "mean":
      return jnp.where(real, x, 0).sum(1) / jnp.maximum(real.sum(1), 1)
    best = jnp.argmax(jnp.where(real, x, -jnp.inf), 1, keepdims=True)
    # not `max`, whose gradient asks which entries equal it: compiled, that may compare differently rounded numbers
    return jnp.where(real.any(1), jnp.take_along_axis(x, best, 1)[:, 0], 0)
