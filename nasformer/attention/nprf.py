"""NPRF: kernel attention with relative positions (Luo et al. 2021, "Stable, Fast and Accurate: Kernelized Attention with
Relative Positional Encoding", arXiv 2106.12566).

Queries and keys are unit vectors, which makes random features stable enough to train with from scratch; the weight of key
j for query i is c_(j - i) φ(q_i) · φ(k_j), where c = exp(b) and b is learned per head and distance. So the sums over keys
are products with a Toeplitz matrix, which Fourier transforms of twice the length do in n log n, one feature after another.
Up to some length, matrix products over blocks of queries are quicker and give the same.

Everything is a grid of rows and columns: a sequence is one column. On a grid of W columns, distance is (rows, columns),
and if 2W - 1 places are kept for a row, that is one Toeplitz matrix again. A token in front of the grid, such as a class
token, meets all tokens with b = 0.

Transforms err by what is largest in them. A bias that grows with the distance would drown early rows of the causal form,
so there b is kept within 8 of its maximum and the first rows are computed directly.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nasformer.attention.base import Context, Core, Count, Tensor
from nasformer.attention.favor import directions, exponents
from nasformer.attention.kernel import divide, first_count, in_pieces, pieces, with_first
from nasformer.ops import masks
from nasformer.ops.toeplitz import toeplitz
from nasformer.types import UserError

LONG = 6144  # queries and keys, on average, from which on transforms are quicker than matrix products
BLOCK = 256  # most queries whose weights are made at once
EARLY = 64  # rows of the causal form that are computed directly
SPREAD = 8.0  # of the causal bias
SHARPEST = 10.0  # bound of the temperature and of its inverse


@dataclasses.dataclass(frozen=True)
class Nprf(Core):
  """NPRF: random features of unit vectors and learned relative positions; n log n in the length, by FFT.

  Attributes:
    features: random features.
    max_distance: positions of a sequence that are further apart share the outermost entries; an image has all of its own.
    temperature: learn how sharp a head is, by giving queries and keys a common length.
    seed: the random directions are drawn from it.
    epsilon: smallest divisor.
  """

  features: int = 32
  max_distance: int = 128
  temperature: bool = True
  seed: int = 0
  epsilon: float = 1e-6

  def __post_init__(self):
    for name in ("features", "max_distance"):
      if getattr(self, name) < 1:
        raise UserError(f"nprf.{name}={getattr(self, name)}: it must be at least 1")

  def core_params(self, sizes):
    rows, columns = sizes.grid or (self.max_distance + 1, 1)
    shape, zeros = (sizes.num_heads, 2 * rows - 1, 2 * columns - 1), jax.nn.initializers.zeros
    params = {"position_bias": Tensor(shape, ("heads", None, None), zeros)}
    if self.temperature:
      params["temperature_scale"] = Tensor((sizes.num_heads,), ("heads",), zeros)
    return params

  def attend(self, params, q, k, v, context):
    dtype, params = q.dtype, self._kept_near(params) if context.causal else params
    q, k, v = self._phi(params, q), self._phi(params, k), v.astype(masks.accumulator(v))
    if context.key_mask is not None:
      k = k * context.key_mask[..., None, None]
    queries, keys = q.shape[1], k.shape[1] // context.copies
    first = queries - math.prod(context.grid) if context.grid else 0
    table, outside = self._table(params, 0 if context.grid else max(queries, keys))
    inside = Grid(table, context.grid[1] if context.grid else 1, context.copies, context.causal)
    sums = inside.sums(q[:, first:], k[:, first:], v[:, first:])
    if first:
      sums = with_first(sums, q, k * outside[:, None], v)
    return divide(sums[0], jnp.maximum(sums[1], self.epsilon)).astype(dtype)

  def _phi(self, params, x):
    """Features of unit vectors, or of vectors whose square is the temperature."""
    x = x.astype(masks.accumulator(x))
    x = x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
    if self.temperature:
      bound = math.log(SHARPEST)
      x = x * jnp.exp(jnp.clip(params["temperature_scale"].astype(x.dtype), -bound, bound) / 2)[:, None]
    return jnp.exp(exponents(directions(self.seed, self.features, x.shape[-1]), x)) / math.sqrt(self.features)

  def _kept_near(self, params):
    """The bias within `SPREAD` of its maximum over the past."""
    bias = params["position_bias"]
    most = bias[:, : bias.shape[1] // 2 + 1].max((1, 2), keepdims=True)
    return params | {"position_bias": jnp.clip(bias, most - SPREAD, most)}

  def _table(self, params, length):
    """exp(b), by head and distance, for sequences of this length; and exp(0); both divided by the largest exp(b)."""
    bias = params["position_bias"].astype(masks.accumulator(params["position_bias"]))
    most = jax.lax.stop_gradient(bias.max((1, 2), keepdims=True))
    beyond = max(length - 1 - bias.shape[1] // 2, 0)
    return jnp.pad(jnp.exp(bias - most), ((0, 0), (beyond, beyond), (0, 0)), mode="edge"), jnp.exp(-most[:, 0, 0])

  # -- one token after another --------------------------------------------------------------------------------------

  def start(self, batch, max_length, num_heads, head_dim, value_dim, dtype):
    dtype = jnp.promote_types(dtype, jnp.float32)
    return {"k": jnp.zeros((batch, max_length, num_heads, self.features), dtype),
            "v": jnp.zeros((batch, max_length, num_heads, value_dim), dtype)}

  def push(self, params, state, k, v, position):
    new = {"k": self._phi(params, k), "v": v}
    return {name: jax.lax.dynamic_update_slice_in_dim(state[name], new[name].astype(state[name].dtype), position, axis=1)
            for name in state}

  def remember(self, params, k, v, context):
    k = self._phi(params, k)
    return {"k": k if context.key_mask is None else k * context.key_mask[..., None, None], "v": v.astype(k.dtype)}

  def recall(self, params, state, q, position, copies):
    table, _ = self._table(params, 0)
    keys, centre = state["k"].shape[1], table.shape[1] // 2
    lags = jnp.arange(keys) % (keys // copies) - position
    weights = jnp.einsum("btnr,bsnr->bnts", self._phi(params, q), state["k"])
    weights = weights * table[:, None, jnp.clip(lags, -centre, centre) + centre, 0]
    numerator = jnp.einsum("bnts,bsne->btne", weights, state["v"])
    return divide(numerator, jnp.maximum(jnp.moveaxis(weights.sum(-1), 1, 2), self.epsilon)).astype(q.dtype)

  def step(self, params, x, state, position, carry=None, context=Context()):
    return super().step(self._kept_near(params), x, state, position, carry, context)

  # -- cost ---------------------------------------------------------------------------------------------------------

  def core_count(self, sizes, queries, keys, causal):
    columns, patches = (sizes.grid[1], math.prod(sizes.grid)) if sizes.grid else (1, queries)
    own = Count(sum(math.prod(tensor.shape) for tensor in self.core_params(sizes).values()),
                (queries + keys) * self.features * sizes.head_dim * sizes.num_heads)
    inside = sums_count(patches, keys - (queries - patches), columns, self.features, sizes.head_dim, causal)
    beside = first_count(queries, self.features, sizes.head_dim) if queries > patches else 0
    return own + Count(0, sizes.num_heads * (inside.products + beside), sizes.num_heads * inside.elementwise)


# -- products with a Toeplitz matrix ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Grid:
  """Sums over keys on a grid, with a weight by distance.

  Attributes:
    table: the weight of every distance in rows and in columns, each from the most negative on, by head.
    columns: of the grid.
    copies: the keys are so many grids, one after another.
    causal: a query sees no later key; queries are the last rows. The grid then has one column.
  """

  table: Float[Array, "N lags_y lags_x"]
  columns: int
  copies: int
  causal: bool

  def sums(self, q: Float[Array, "B T N R"], k: Float[Array, "B S N R"],
           v: Float[Array, "B S N E"]) -> tuple[Float[Array, "B T N E"], Float[Array, "B T N"]]:
    """Sum of the weighted values, and the sum of the weights."""
    queries, keys = q.shape[1], k.shape[1] // self.copies
    first, centre = (keys - queries if self.causal else 0), self.table.shape[1] // 2
    table = jnp.where(np.arange(self.table.shape[1])[:, None] <= centre, self.table, 0) if self.causal else self.table
    if not is_long(queries, keys):
      return self._by_pairs(table, first, q, k, v)
    sums = self._by_transforms(table, first, q, k, v)
    if not self.causal:
      return sums
    early = _early(queries, first)
    k, v = (x[:, : early + first] for x in (k, v))
    return tuple(jnp.concatenate([one, two[:, early:]], 1) for one, two in zip(
        self._by_pairs(table, first, q[:, :early], k, v), sums))

  def _by_pairs(self, table, first, q, k, v):
    """Weights of all pairs, for some rows of queries at a time."""
    rows, columns = q.shape[1] // self.columns, self.columns
    number, size = pieces(rows, max(BLOCK // columns, 1))
    padding = number * size - rows
    table = jnp.pad(table, ((0, 0), (padding, 0), (0, 0)))
    keys = k.shape[1] // self.copies // columns

    def piece(_, x):
      q, at = x
      start = padding + (table.shape[1] - padding) // 2 - (at[0, 0] + size - 1)
      near = jax.lax.dynamic_slice_in_dim(table, start, size + keys - 1, axis=1)
      near = toeplitz(toeplitz(near.swapaxes(1, 2), size, keys).transpose(0, 2, 3, 1), columns, columns)
      near = near.swapaxes(2, 3).reshape(len(table), size * columns, keys * columns)
      weights = jnp.einsum("btnr,bsnr->bnts", q.reshape(len(q), -1, *q.shape[3:]), k) * jnp.tile(near, self.copies)
      sums = jnp.einsum("bnts,bsne->btne", weights, v), weights.sum(-1).swapaxes(1, 2)
      return None, tuple(x.reshape(len(x), size, columns, *x.shape[2:]) for x in sums)

    q = q.reshape(len(q), rows, columns, *q.shape[2:])
    _, sums = in_pieces(piece, None, (q, first + jnp.arange(rows)[None]), size)
    return tuple(x.reshape(len(x), rows * columns, *x.shape[3:]) for x in sums)

  def _by_transforms(self, table, first, q, k, v):
    """One feature after another; what the keys hold of it is filtered by the weights."""
    rows, keys, centre = q.shape[1] // self.columns, k.shape[1] // self.copies // self.columns, table.shape[1] // 2
    weights = table[:, centre - first - rows + 1 : centre - first + keys].reshape(len(table), -1)
    length_q, length_k = (stretched(number, self.columns) for number in (rows, keys))
    length = fast_length(length_q + length_k - 1)
    rest = jnp.zeros((len(table), length - length_q - length_k + 1), weights.dtype)
    response = jnp.concatenate([weights[:, :length_q][:, ::-1], rest, weights[:, length_q:][:, ::-1]], axis=1)
    response = jnp.fft.rfft(response)[:, None]
    v = self._stretch(jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1), self.copies)

    def feature(total, x):
      q, k = x
      held = jnp.fft.rfft((k[..., None, :] * v).sum(1), length)
      return total + q[:, 0, :, None] * jnp.fft.irfft(held * response, length)[..., :length_q], None

    total = jnp.zeros((len(q), len(table), v.shape[-2], length_q), v.dtype)
    xs = [jnp.moveaxis(self._stretch(x, copies), 3, 0) for x, copies in ((q, 1), (k, self.copies))]
    total, _ = jax.lax.scan(jax.checkpoint(feature, prevent_cse=False), total, tuple(xs))
    total = jnp.pad(total, [(0, 0)] * 3 + [(0, self.columns - 1)]).reshape(*total.shape[:3], rows, -1)
    total = jnp.moveaxis(total[..., : self.columns].reshape(*total.shape[:3], -1), 3, 1)
    return total[..., :-1], total[..., -1]

  def _stretch(self, x, copies):
    """[B, copies T, N, F] to [B, copies, N, F, places], with 2W - 1 places for a row of W."""
    x = jnp.moveaxis(x.reshape(len(x), copies, -1, self.columns, *x.shape[2:]), (4, 5), (2, 3))
    x = jnp.pad(x, [(0, 0)] * 5 + [(0, self.columns - 1)])
    return x.reshape(*x.shape[:4], -1)[..., : stretched(x.shape[4], self.columns)]


def sums_count(queries: int, keys: int, columns: int, features: int, head_dim: int, causal: bool) -> Count:
  """Cost of `Grid.sums` for one head, but for the transform of the weights, which all examples share."""

  def pairs(queries, keys):
    return math.prod(pieces(queries // columns, max(BLOCK // columns, 1))) * columns * keys * (features + head_dim)

  if not is_long(queries, keys):
    return Count(0, pairs(queries, keys), queries * keys)
  early = _early(queries, keys - queries) if causal else 0
  places = [stretched(length // columns, columns) for length in (queries, keys)]
  length, channels = fast_length(sum(places) - 1), features * (head_dim + 1)
  direct = pairs(early, early + keys - queries) if early else 0
  return Count(0, 2 * channels * transform_count(length) + direct, channels * (2 * length + sum(places)))


def transform_count(length: int) -> int:
  """What a Fourier transform of so many real numbers counts as: half of 5/2 N log N operations of the usual algorithm."""
  return round(1.25 * length * math.log2(length))


def is_long(queries: int, keys: int) -> bool:
  """Whether transforms are quicker than weights of all pairs."""
  return queries + keys >= 2 * LONG


def stretched(rows: int, columns: int) -> int:
  """Places that a grid takes with 2W - 1 for every row but the last."""
  return (rows - 1) * (2 * columns - 1) + columns


def fast_length(least: int) -> int:
  """The next product of twos, threes and fives, which transforms are quick for."""
  rest = least
  for prime in (2, 3, 5):
    while rest % prime == 0:
      rest //= prime
  return least if rest == 1 else fast_length(least + 1)


def _early(queries, first):
  """Rows of the causal form up to the last that is computed directly; of negative ones, that see nothing, too."""
  return min(queries, EARLY + max(-first, 0))
