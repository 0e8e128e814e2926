"""What an attention kind is.

A kind is a frozen dataclass of hyper-parameters with three pure methods:

  `params(sizes)`                           declares its tensors: shapes, elastic axes, initialisers
  `kind(params, x, source, context, carry)` mixes tokens, from model width to model width
  `count(sizes, queries, keys, causal)`     says what that costs, exactly

for kinds that pass something on to the next layer of their kind (`carry`), one that says what the first of them finds, which
gives loops over layers one form:

  `first_carry(sizes, batch, length, dtype, keys)`

and, where it can be used by a decoder, five more that give the same, one token after another:

  `begin(params, batch, max_length, dtype)`       the state before the first token
  `take(params, x, state, position, carry)`       the state with the next token, or with all of a beginning
  `step(params, x, state, position, carry, context)` self-attention of the next token, which the state takes in
  `read(params, source, context)`                 what cross-attention keeps of a source
  `look(params, x, memory, position, carry, context)` cross-attention of the next tokens

of which `prefill(params, x, max_length, carry, context)` is made: self-attention of a beginning at once, and the state.

That is the level at which all kinds are alike, whether they own unusual projections (Luna, Mega), pass something up
through the layers (`carry`: Luna's memory, evolving attention's maps) or are a mere function of q, k and v. For the last,
`Core` does the projections, and a kind says only `attend`, `core_params` and `core_count`, and for decoding `start`, `push`,
`remember` and `recall`.

Because tensors are declared with the names of their axes, everything that depends on shapes is written once, elsewhere:
initialisation, slicing, masking, counting, sharding. The rules that a kind must follow so that its masked form equals its
sliced form: scale by active sizes, apply masks after a feature map that does not keep zero, and mix heads or channels
only with the dead ones masked (`Context.keep_heads`). Storing each role apart, head by head, lets a narrower network use
the leading heads of a wider one in their own role.

A kind may have sizes of its own that are elastic too, such as the slots of Luna's memory (`Kind.elastic`): kinds that differ
in these only are a family, in which the smaller ones have the leading parts of the tensors of the larger ones.
"""

import dataclasses
import functools
import math
from typing import Any, Callable, ClassVar, Literal, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped

from nasformer.ops import masks

Tensors = dict[str, Array | np.ndarray]


class Count(NamedTuple):
  """Cost of one piece of network for one example.

  Attributes:
    params: number of parameters.
    products: multiply-adds of matrix products, convolutions and Fourier transforms; FLOPs are twice this.
    elementwise: multiplications that scale with tokens x width but are no matrix product, counted apart.
  """

  params: int = 0
  products: int = 0
  elementwise: int = 0

  def __add__(self, other: "Count") -> "Count":
    return Count(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of one attention layer.

  Attributes:
    embed_dim: model width.
    num_heads: number of heads.
    head_dim: width of each.
    source_dim: width of what keys and values are computed from, in cross-attention.
    causal: the layer serves a decoder, so what only the other form needs does not exist.
    grid: height and width of the grid of patches that tokens are, as in `Context`.
  """

  embed_dim: int
  num_heads: int
  head_dim: int
  source_dim: int | None = None
  causal: bool = False
  grid: tuple[int, int] | None = None

  @property
  def key_dim(self) -> int:
    return self.source_dim or self.embed_dim


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Declaration of a parameter: axes named "embed", "source", "heads", "head_dim" or "ffn" are elastic, None is not."""

  shape: tuple[int, ...]
  axes: tuple[str | None, ...]
  init: Callable


@dataclasses.dataclass(frozen=True)
class Can:
  """Where a kind can work; tests ask no more of it, and a network must not place it elsewhere.

  Attributes:
    causal: where a query must not see later keys.
    cross: where keys and values are made of something else than queries.
    divides: where a fixed width is divided among fewer, wider heads; otherwise heads must be of one width.
    grid: only where tokens are the patches of an image.
  """

  causal: bool = True
  cross: bool = True
  divides: bool = True
  grid: bool = False


@struct.dataclass
class Context:
  """What a layer knows of its surroundings.

  Attributes:
    query_mask: real queries; None where all are. The output of the others is zero.
    key_mask: real keys, likewise. To a query that can see no key the attention itself gives exactly zero.
    keep_heads: living heads, in a masked network; None where all are alive.
    keep_embed: living channels, likewise.
    residual: what the block will add the output to, where that is not what the queries are made of.
    dropout_key: randomness for dropping attention weights, in training.
    dropout: the rate of that, for kinds that have weights.
    causal: a query sees no later key.
    stream: queries come one after another when it counts (decoding), so nothing may depend on how many there are.
    copies: the source holds so many sequences of one length, one after another, whose positions run alike (a decoder that
      attends to several encoder layers).
    grid: height and width of the grid of patches that the last tokens are, row by row; None where they are a sequence.
  """

  query_mask: Bool[Array, "B T"] | None = None
  key_mask: Bool[Array, "B S"] | None = None
  keep_heads: Bool[Array, "N"] | None = None
  keep_embed: Bool[Array, "D"] | None = None
  residual: Float[Array, "B T D"] | None = None
  dropout_key: Array | None = None
  dropout: Float[Array, ""] | None = None
  causal: bool = struct.field(pytree_node=False, default=False)
  stream: bool = struct.field(pytree_node=False, default=False)
  copies: int = struct.field(pytree_node=False, default=1)
  grid: tuple[int, int] | None = struct.field(pytree_node=False, default=None)


@dataclasses.dataclass(frozen=True)
class Kind:
  """Base of all attention kinds."""

  can: ClassVar[Can] = Can()
  elastic: ClassVar[tuple[str, ...]] = ()  # fields that are sizes: with less of them, tensors are the leading parts of others
  alike: ClassVar[tuple[str, ...]] = ()  # tensors that mean the same in every kind that names them here, and may be one

  def longest(self, module: Literal["encoder", "decoder", "cross"]) -> int | None:
    """Most positions of queries and of keys there, a field `max_length`; None where any number will do."""
    return None

  def params(self, sizes: Sizes) -> dict[str, Tensor]:
    """The tensors of a layer of these sizes."""
    raise NotImplementedError

  def __call__(self, params: Tensors, x: Float[Array, "B T D"], source: Float[Array, "B S Dk"], context: Context,
               carry: Any = None) -> tuple[Float[Array, "B T D"], Any]:
    """Mixes tokens; returns the output and what travels on to the next layer (`carry` itself where it is not used)."""
    raise NotImplementedError

  def first_carry(self, sizes: Sizes, batch: int, length: int, dtype: Any, keys: int | None = None) -> Any:
    """What a layer finds that has none of its kind below it, as arrays: the form of what all layers pass on.

    A layer that is given None finds the same. Kinds that pass on nothing have None for all.

    Args:
      sizes: of the largest layer.
      batch: number of sequences.
      length: of all of them.
      dtype: of the tokens.
      keys: in cross-attention, the length of what all of them attend to at most.
    """
    return None

  def begin(self, params: Tensors, batch: int, max_length: int, dtype: Any) -> Any:
    """State of self-attention before the first of at most `max_length` tokens; the batch is the first axis of all of it."""
    raise NotImplementedError

  def take(self, params: Tensors, x: Float[Array, "B T D"], state: Any, position: Int[Array, ""], carry: Any = None) -> Any:
    """The state with these tokens too: the one at `position`, or any number from 0 on."""
    raise NotImplementedError

  def prefill(self, params: Tensors, x: Float[Array, "B T D"], max_length: int, carry: Any = None,
              context: Context = Context()) -> tuple[Float[Array, "B T D"], Any, Any]:
    """Causal self-attention of the first tokens, of at most `max_length`, at once: outputs, the state with them, and
    the carry. There may be none.
    """
    state = self.begin(params, len(x), max_length, x.dtype)
    if not x.shape[1]:
      return x, state, carry
    out, after = self(params, x, x, context.replace(causal=True, stream=True), carry)
    return out, self.take(params, x, state, jnp.int32(0), carry), after

  def step(self, params: Tensors, x: Float[Array, "B 1 D"], state: Any, position: Int[Array, ""], carry: Any = None,
           context: Context = Context()) -> tuple[Float[Array, "B 1 D"], Any, Any]:
    """Causal self-attention of the token at `position`: its output, the state with it, and the carry."""
    raise NotImplementedError

  def read(self, params: Tensors, source: Float[Array, "B S Dk"], context: Context) -> Any:
    """What cross-attention needs of a source, computed once; the batch is the first axis of all of it."""
    raise NotImplementedError

  def look(self, params: Tensors, x: Float[Array, "B T D"], memory: Any, position: Int[Array, ""], carry: Any = None,
           context: Context = Context()) -> tuple[Float[Array, "B T D"], Any, Any]:
    """Cross-attention of the tokens from `position` on to what `read` gave: outputs, what the next looks at, and the carry.

    What does not change of the memory is given back as it is, so that decoding can tell.
    """
    raise NotImplementedError

  def count(self, sizes: Sizes, queries: int, keys: int, causal: bool = False) -> Count:
    """Exact cost for one example of so many queries and keys."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Core(Kind):
  """A kind that is a function of queries, keys and values: this class projects, and adds the heads up again."""

  alike: ClassVar[tuple[str, ...]] = ("query", "query_bias", "key", "key_bias", "value", "value_bias", "out", "out_bias")

  def core_params(self, sizes: Sizes) -> dict[str, Tensor]:
    """Tensors beyond the four projections."""
    return {}

  def attend(self, params: Tensors, q: Float[Array, "B T N H"], k: Float[Array, "B S N H"],
             v: Float[Array, "B S N E"], context: Context) -> Float[Array, "B T N E"]:
    """The attention itself, head by head."""
    raise NotImplementedError

  def pass_on(self, params: Tensors, q: Float[Array, "B T N H"], k: Float[Array, "B S N H"], v: Float[Array, "B S N E"],
              context: Context, carry: Any) -> tuple[Float[Array, "B T N E"], Any]:
    """`attend` for a kind whose layers depend on those below in more than their input, and what it passes on."""
    return self.attend(params, q, k, v, context), carry

  def start(self, batch: int, max_length: int, num_heads: int, head_dim: int, value_dim: int, dtype: Any) -> Any:
    """State that has seen no key yet."""
    raise NotImplementedError

  def push(self, params: Tensors, state: Any, k: Float[Array, "B T N H"], v: Float[Array, "B T N E"],
           position: Int[Array, ""]) -> Any:
    """The state with more keys and values, as in `take`."""
    raise NotImplementedError

  def remember(self, params: Tensors, k: Float[Array, "B S N H"], v: Float[Array, "B S N E"], context: Context) -> Any:
    """State that holds all these keys and values."""
    raise NotImplementedError

  def recall(self, params: Tensors, state: Any, q: Float[Array, "B T N H"], position: Int[Array, ""],
             copies: int) -> Float[Array, "B T N E"]:
    """Attention of the queries from `position` on to all that the state holds; `copies` as in `Context`."""
    raise NotImplementedError

  def core_count(self, sizes: Sizes, queries: int, keys: int, causal: bool) -> Count:
    """Cost of `attend`, with its own parameters."""
    raise NotImplementedError

  def params(self, sizes: Sizes) -> dict[str, Tensor]:
    heads = (sizes.num_heads, sizes.head_dim)
    inner = math.prod(heads)
    project = lambda width, axis: Tensor((width, *heads), (axis, "heads", "head_dim"), xavier(width, inner))
    bias = Tensor(heads, ("heads", "head_dim"), jax.nn.initializers.zeros)
    return {
        "query": project(sizes.embed_dim, "embed"), "query_bias": bias,
        "key": project(sizes.key_dim, "embed" if sizes.source_dim is None else "source"), "key_bias": bias,
        "value": project(sizes.key_dim, "embed" if sizes.source_dim is None else "source"), "value_bias": bias,
        "out": Tensor((*heads, sizes.embed_dim), ("heads", "head_dim", "embed"), xavier(inner, sizes.embed_dim)),
        "out_bias": Tensor((sizes.embed_dim,), ("embed",), jax.nn.initializers.zeros),
        **self.core_params(sizes),
    }

  def __call__(self, params, x, source, context, carry=None):
    q = project(x, params["query"], params["query_bias"])
    out, carry = self.pass_on(params, q, *self._keys_values(params, source), context, carry)
    out = self._join(params, out, context.keep_heads)
    if context.query_mask is not None:
      out = jnp.where(context.query_mask[..., None], out, 0)
    return masks.zero(out, context.keep_embed), carry

  def begin(self, params, batch, max_length, dtype):
    return self.start(batch, max_length, *params["key"].shape[1:], params["value"].shape[-1], dtype)

  def take(self, params, x, state, position, carry=None):
    return self.push(params, state, *self._keys_values(params, x), position)

  def step(self, params, x, state, position, carry=None, context=Context()):
    state = self.take(params, x, state, position, carry)
    q = project(x, params["query"], params["query_bias"])
    return self._join(params, self.recall(params, state, q, position, 1)), state, carry

  def read(self, params, source, context):
    return self.remember(params, *self._keys_values(params, source), context)

  def look(self, params, x, memory, position, carry=None, context=Context()):
    q = project(x, params["query"], params["query_bias"])
    return self._join(params, self.recall(params, memory, q, position, context.copies)), memory, carry

  def _keys_values(self, params, source):
    return (project(source, params["key"], params["key_bias"]), project(source, params["value"], params["value_bias"]))

  def _join(self, params, out, keep_heads=None):
    """Adds the heads up to the model width."""
    if keep_heads is not None:
      out = jnp.where(keep_heads[:, None], out, 0)
    return jnp.einsum("btnh,nhd->btd", out, params["out"].astype(out.dtype)) + params["out_bias"].astype(out.dtype)

  def count(self, sizes: Sizes, queries: int, keys: int, causal: bool = False) -> Count:
    inner = sizes.num_heads * sizes.head_dim
    weights = 2 * sizes.embed_dim * inner + 2 * sizes.key_dim * inner
    products = 2 * queries * sizes.embed_dim * inner + 2 * keys * sizes.key_dim * inner
    return Count(weights + 3 * inner + sizes.embed_dim, products) + self.core_count(sizes, queries, keys, causal)


def put(kept: Shaped[Array, "B R *S"], new: Shaped[Array, "B T *S"], position: Int[Array, ""]) -> Shaped[Array, "B R *S"]:
  """A cache of the last R tokens with some more, as in `take`; the token at position p has place p modulo R."""
  room, number = kept.shape[1], new.shape[1]
  last = new if number <= room else jnp.roll(new[:, -room:], number % room, axis=1)
  return jax.lax.dynamic_update_slice_in_dim(kept, last.astype(kept.dtype), position % room, axis=1)


def family(kinds: Mapping[str, Kind], name: str) -> str:
  """The first of some kinds that differs from the named one in elastic sizes only, and so may have the same tensors."""
  return next(other for other, kind in kinds.items() if _rigid(kind) == _rigid(kinds[name]))


def _rigid(kind):
  """All that must agree in a family; whether there is a size at all, too."""
  fields = {field.name: getattr(kind, field.name) for field in dataclasses.fields(kind)}
  return type(kind), {name: value is None if name in kind.elastic else value for name, value in fields.items()}


def project(x: Float[Array, "B T D"], kernel: Float[Array, "D N H"], bias: Float[Array, "N H"]) -> Float[Array, "B T N H"]:
  """x W + b for every head, in the type of x."""
  return jnp.einsum("btd,dnh->btnh", x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


@functools.cache
def xavier(fan_in: int, fan_out: int) -> Callable:
  """Uniform on ± sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010, eq. 16), for tensors of any rank."""
  bound = math.sqrt(6 / (fan_in + fan_out))

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
