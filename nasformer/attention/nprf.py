"""NPRF: kernel attention with relative positions (Luo et al. 2021, "Stable, Fast and Accurate: Kernelized Attention with
Relative Positional Encoding", arXiv 2106.12566).

Queries and keys are unit vectors, which makes random features stable enough to train with from scratch; the weight of key
j for query i is c_(j - i) φ(q_i) · φ(k_j), where c = exp(b) and b is learned per head and distance. So the sums over keys
are products with a Toeplitz matrix, which Fourier transforms of twice the length do in n log n, one feature after another.
Where a table is short, all keys beyond it count alike and are needed as a sum only, which makes a sequence linear in its
length; and where there are few keys, matrix products over blocks of queries are quickest. All three forms give the same.

Everything is a grid of rows and columns: a sequence is one column. On a grid of W columns, distance is (rows, columns),
and if 2W - 1 places are kept for a row, that is one Toeplitz matrix again. A token in front of the grid, such as a class
token, meets all tokens with b = 0.

Transforms err by what is largest in them. A bias that grows with the distance would drown early rows of the causal form,
so there b is kept within 8 of its maximum and the first rows are computed directly.
"""

import dataclasses
import functools
import math
from typing import Callable, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nasformer.attention.base import Context, Core, Count, Tensor, put
from nasformer.attention.chunks import mapped, pieces
from nasformer.attention.favor import directions, exponents
from nasformer.attention.kernel import divide, first_count, with_first, with_one
from nasformer.ops import masks
from nasformer.ops.toeplitz import convolve, fast_length, spectrum, toeplitz, transform_count
from nasformer.types import UserError

LONG = 3072  # keys that a query meets one by one from which on transforms are quicker than matrix products
NEAR = 128  # fewest positions in a block whose neighbours are met one by one
BLOCK = 256  # most queries whose weights are made at once
EARLY = 64  # rows of the causal form that are computed directly
SPREAD = 8.0  # of the causal bias
SHARPEST = 10.0  # bound of the temperature and of its inverse


@dataclasses.dataclass(frozen=True)
class Nprf(Core):
  """NPRF: random features of unit vectors and learned relative positions; linear in the length, or n log n by FFT.

  Attributes:
    features: random features.
    max_distance: positions of a sequence that are further apart share the outermost entries; an image has all of its own.
    temperature: learn how sharp a head is, by giving queries and keys a common length.
    seed: the random directions are drawn from it.
    epsilon: smallest divisor.
  """

  elastic: ClassVar[tuple[str, ...]] = ("features",)
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
    phi = functools.partial(self._phi, params)
    finish = lambda *sums: divide(sums[0], jnp.maximum(sums[1], self.epsilon)).astype(dtype)
    real = None if context.key_mask is None else context.key_mask.astype(masks.accumulator(v))
    table, outside = self._table(params)
    inside = Grid(table, context.grid[1] if context.grid else 1, context.copies, context.causal)
    if inside.form(q.shape[1], k.shape[1]) == "sums":
      return inside.by_sums(phi, q, k, v, real, finish)
    q, k, v = phi(q), phi(k), v.astype(masks.accumulator(v))
    k = k if real is None else k * real[..., None, None]
    first = q.shape[1] - math.prod(context.grid) if context.grid else 0
    sums = inside.sums(q[:, first:], k[:, first:], v[:, first:])
    if first:
      sums = with_first(sums, q, k * outside[:, None], v)
    return finish(*sums)

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

  def _table(self, params):
    """exp(b), by head and distance, and exp(0); both divided by the largest exp(b)."""
    bias = params["position_bias"].astype(masks.accumulator(params["position_bias"]))
    most = jax.lax.stop_gradient(bias.max((1, 2), keepdims=True))
    return jnp.exp(bias - most), jnp.exp(-most[:, 0, 0])

  # -- one token after another --------------------------------------------------------------------------------------

  def start(self, batch, max_length, num_heads, head_dim, value_dim, dtype):
    """Keys and values within reach, where a new one takes the place of the oldest, and the sums of those beyond it."""
    shape = lambda *sizes: jnp.zeros((batch, *sizes), jnp.promote_types(dtype, jnp.float32))
    room = min(max_length, self.max_distance + 1)
    return {"k": shape(room, num_heads, self.features), "v": shape(room, num_heads, value_dim + 1),
            "far": shape(num_heads, self.features, value_dim + 1)}

  def push(self, params, state, k, v, position):
    room, new = state["k"].shape[1], {"k": self._phi(params, k), "v": with_one(v)}

    def gone(name):  # what was where new ones come, and of these what is beyond reach by now
      old = jax.lax.dynamic_slice_in_dim(state[name], position % room, min(k.shape[1], room), axis=1)
      return jnp.concatenate([old, new[name][:, :-room].astype(old.dtype)], axis=1)

    return {name: put(state[name], new[name], position) for name in new} | {
        "far": state["far"] + jnp.einsum("btnr,btne->bnre", gone("k"), gone("v"))}

  def remember(self, params, k, v, context):
    k = self._phi(params, k)
    k = k if context.key_mask is None else k * context.key_mask[..., None, None]
    return {"k": k, "v": with_one(v.astype(k.dtype))}

  def recall(self, params, state, q, position, copies):
    table, _ = self._table(params)
    keys, centre, q_phi = state["k"].shape[1], table.shape[1] // 2, self._phi(params, q)
    places, positions = jnp.arange(keys), position + jnp.arange(q.shape[1])[:, None]
    lags = -((positions - places) % keys) if "far" in state else places % (keys // copies) - positions
    weights = jnp.einsum("btnr,bsnr->bnts", q_phi, state["k"])
    weights = weights * table[:, jnp.clip(lags, -centre, centre) + centre, 0]
    sums = jnp.einsum("bnts,bsne->btne", weights, state["v"])
    if "far" in state:
      sums += jnp.einsum("btnr,bnre->btne", q_phi, state["far"]) * table[:, 0]
    return divide(sums[..., :-1], jnp.maximum(sums[..., -1], self.epsilon)).astype(q.dtype)

  def step(self, params, x, state, position, carry=None, context=Context()):
    return super().step(self._kept_near(params), x, state, position, carry, context)

  # -- cost ---------------------------------------------------------------------------------------------------------

  def core_count(self, sizes, queries, keys, causal):
    columns, patches = (sizes.grid[1], math.prod(sizes.grid)) if sizes.grid else (1, queries)
    reach, inner = sizes.grid[0] - 1 if sizes.grid else self.max_distance, keys - (queries - patches)
    made = features_count(patches, inner, columns, reach, causal) + 2 * (queries - patches)
    own = Count(sum(math.prod(tensor.shape) for tensor in self.core_params(sizes).values()),
                made * self.features * sizes.head_dim * sizes.num_heads)
    inside = sums_count(patches, inner, columns, reach, self.features, sizes.head_dim, causal)
    beside = first_count(queries, self.features, sizes.head_dim) if queries > patches else 0
    return own + Count(0, sizes.num_heads * (inside.products + beside), sizes.num_heads * inside.elementwise)


# -- products with a Toeplitz matrix ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Grid:
  """Sums over keys on a grid, with a weight by distance.

  Attributes:
    table: the weight of every distance in rows and in columns, each from the most negative on, by head; rows that are
      further apart share the outermost weights.
    columns: of the grid.
    copies: the keys are so many grids, one after another.
    causal: a query sees no later key; queries are the last rows. The grid then has one column.
  """

  table: Float[Array, "N lags_y lags_x"]
  columns: int
  copies: int
  causal: bool

  def form(self, queries: int, keys: int) -> str:
    """How sums of so many queries and keys are made."""
    return form(queries, keys // self.copies, self.columns, self.table.shape[1] // 2, self.causal)

  def sums(self, q: Float[Array, "B T N R"], k: Float[Array, "B S N R"],
           v: Float[Array, "B S N E"]) -> tuple[Float[Array, "B T N E"], Float[Array, "B T N"]]:
    """Sum of the weighted values, and the sum of the weights, by pairs or by transforms."""
    queries, keys = q.shape[1], k.shape[1] // self.copies
    first = keys - queries if self.causal else 0
    table = self._stretched_table(max(queries, keys) // self.columns)
    if self.form(queries, k.shape[1]) == "pairs":
      return self._by_pairs(table, first, q, k, v)
    sums = self._by_transforms(table, first, q, k, v)
    if not self.causal:
      return sums
    early = _early(queries, first)
    k, v = (x[:, : early + first] for x in (k, v))
    return tuple(jnp.concatenate([one, two[:, early:]], 1) for one, two in zip(
        self._by_pairs(table, first, q[:, :early], k, v), sums))

  def by_sums(self, phi: Callable, q: Float[Array, "B T N H"], k: Float[Array, "B S N H"], v: Float[Array, "B S N E"],
              real: Float[Array, "B S"] | None, finish: Callable) -> Float[Array, "B T N E"]:
    """What `finish` makes of both sums, block by block, so that neither features nor sums of all positions are ever held.

    Keys of the query's own block and of those beside it are met pair by pair; all others, whose weights are alike, as a sum.

    Args:
      phi: queries or keys -> their features.
      q: all queries.
      k: all keys.
      v: values.
      real: one for keys that are real, zero for others.
      finish: (values [B, t, N, E], weights [B, t, N]), each summed up, -> [B, t, N, E].
    """
    real = jnp.ones(k.shape[:2], masks.accumulator(v)) if real is None else real
    if self.copies == 1:
      return self._blocks(phi, q, k, v, real, finish)
    each = zip(*(jnp.split(x, self.copies, 1) for x in (k, v, real)))
    return finish(*map(sum, zip(*(self._blocks(phi, q, *x, lambda *sums: sums) for x in each))))

  def _blocks(self, phi, q, k, v, real, finish):
    """At its turn, a block of keys comes in, and where keys are seen ahead, the queries of the block before it are answered."""
    size, ahead = block(self.table.shape[1] // 2), int(not self.causal)
    first, low, number = _frame(q.shape[1], k.shape[1], size, self.causal)
    table = self._stretched_table(2 * size)[..., 0]
    near = toeplitz(table, size, 3 * size)[..., : (2 + ahead) * size]
    past, future = (x[:, None, None] for x in (table[:, 0], table[:, -1]))

    def cut(x, start):
      x = jnp.pad(x, [(0, 0), (start, number * size - start - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
      return jnp.moveaxis(x.reshape(len(x), number, size, *x.shape[2:]), 1, 0)

    def hold(k, v, real):
      k, v = phi(k) * real[..., None, None], with_one(v.astype(real.dtype))
      return jnp.concatenate([k, v], axis=-1).swapaxes(1, 2)

    features = jax.eval_shape(phi, q[:, :1]).shape[-1]
    gather = lambda held: jnp.einsum("bnsr,bnse->bnre", held[..., :features], held[..., features:])
    queries, keys = cut(q, first - low), tuple(cut(x, -low) for x in (k, v, real))
    nothing = jnp.zeros((len(k), k.shape[2], features, v.shape[-1] + 1), real.dtype)
    behind = lambda sums, x: (sums + gather(hold(*x)), sums)
    later = jax.lax.scan(jax.checkpoint(behind, prevent_cse=False), nothing, keys, reverse=True)[1] if ahead else None

    def answer(sums, beside, q, later):
      held = jnp.concatenate(beside, axis=2)
      weights = jnp.einsum("bntr,bnsr->bnts", q, held[..., :features]) * near
      far = past * sums + future * later if ahead else past * sums
      out = jnp.einsum("bnts,bnse->bnte", weights, held[..., features:]) + jnp.einsum("bntr,bnre->bnte", q, far)
      out = out.swapaxes(1, 2)
      return finish(out[..., :-1], out[..., -1])

    def turn(carry, x):
      outs = []
      for i in range(pair):
        sums, beside, waiting = carry
        q, keys, later = jax.tree.map(lambda x: x[i], x)
        beside, waiting = (*beside, hold(*keys)), (*waiting, phi(q).swapaxes(1, 2))
        outs.append(answer(sums, beside, waiting[0], later))
        carry = sums + gather(beside[0]), beside[1:], waiting[1:]
      return carry, jax.tree.map(lambda *x: jnp.stack(x), *outs)

    empty = lambda width: jnp.zeros((len(k), k.shape[2], size, width), real.dtype)
    carry = nothing, (empty(features + v.shape[-1] + 1),) * (1 + ahead), (empty(features),) * ahead
    pair = 2 - number % 2  # blocks of a turn: what a turn begins with is kept for the gradient
    xs = jax.tree.map(lambda x: x.reshape(number // pair, pair, *x.shape[1:]), (queries, keys, later))
    carry, out = jax.lax.scan(jax.checkpoint(turn, prevent_cse=False), carry, xs)
    out = jax.tree.map(lambda x: x.reshape(number, *x.shape[2:]), out)
    if ahead:
      sums, beside, waiting = carry
      last = answer(sums, (*beside, jnp.zeros_like(beside[0])), waiting[0], nothing)
      out = jax.tree.map(lambda x, y: jnp.concatenate([x[1:], y[None]]), out, last)
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(len(q), number * size, *x.shape[3:])
    return jax.tree.map(lambda x: join(x)[:, first - low : first - low + q.shape[1]], out)

  def _stretched_table(self, most):
    """Weights of all distances below `most` rows; in the causal form none of those ahead."""
    reach = self.table.shape[1] // 2
    beyond = max(most - 1 - reach, 0)
    table = jnp.pad(self.table, ((0, 0), (beyond, beyond), (0, 0)), mode="edge")
    return jnp.where(np.arange(table.shape[1])[:, None] <= reach + beyond, table, 0) if self.causal else table

  def _by_pairs(self, table, first, q, k, v):
    """Weights of all pairs, for some rows of queries at a time."""
    rows, columns = q.shape[1] // self.columns, self.columns
    number, size = pieces(rows, max(BLOCK // columns, 1))
    padding = number * size - rows
    table = jnp.pad(table, ((0, 0), (padding, 0), (0, 0)))
    keys = k.shape[1] // self.copies // columns

    def piece(q, at):
      start = padding + (table.shape[1] - padding) // 2 - (at[0, 0] + size - 1)
      near = jax.lax.dynamic_slice_in_dim(table, start, size + keys - 1, axis=1)
      near = toeplitz(toeplitz(near.swapaxes(1, 2), size, keys).transpose(0, 2, 3, 1), columns, columns)
      near = near.swapaxes(2, 3).reshape(len(table), size * columns, keys * columns)
      weights = jnp.einsum("btnr,bsnr->bnts", q.reshape(len(q), -1, *q.shape[3:]), k) * jnp.tile(near, self.copies)
      sums = jnp.einsum("bnts,bsne->btne", weights, v), weights.sum(-1).swapaxes(1, 2)
      return tuple(x.reshape(len(x), size, columns, *x.shape[2:]) for x in sums)

    q = q.reshape(len(q), rows, columns, *q.shape[2:])
    sums = mapped(piece, (q, first + jnp.arange(rows)[None]), size)
    return tuple(x.reshape(len(x), rows * columns, *x.shape[3:]) for x in sums)

  def _by_transforms(self, table, first, q, k, v):
    """One feature after another; what the keys hold of it is filtered by the weights."""
    rows, keys, centre = q.shape[1] // self.columns, k.shape[1] // self.copies // self.columns, table.shape[1] // 2
    weights = table[:, centre - first - rows + 1 : centre - first + keys].reshape(len(table), -1)
    length_q, length_k = (stretched(number, self.columns) for number in (rows, keys))
    response = spectrum(weights, length_q, length_k)[:, None]
    v = self._stretch(with_one(v), self.copies)

    def feature(total, x):
      q, k = x
      return total + q[:, 0, :, None] * convolve(response, (k[..., None, :] * v).sum(1), length_q), None

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


def sums_count(queries: int, keys: int, columns: int, reach: int, features: int, head_dim: int, causal: bool) -> Count:
  """Cost of `Grid.sums` for one head, but for the transform of the weights, which all examples share."""

  def pairs(queries, keys):
    return math.prod(pieces(queries // columns, max(BLOCK // columns, 1))) * columns * keys * (features + head_dim)

  chosen = form(queries, keys, columns, reach, causal)
  if chosen == "pairs":
    return Count(0, pairs(queries, keys), queries * keys)
  if chosen == "sums":
    ahead, size = int(not causal), block(reach)
    places = _frame(queries, keys, size, causal)[2] * size
    answered, far = places + ahead * size, features * (head_dim + 1)
    near = answered * (2 + ahead) * size
    products = near * (features + head_dim + 1) + (answered + (1 + ahead) * places) * far
    return Count(0, products, near)
  early = _early(queries, keys - queries) if causal else 0
  places = [stretched(length // columns, columns) for length in (queries, keys)]
  length, channels = fast_length(sum(places) - 1), features * (head_dim + 1)
  direct = pairs(early, early + keys - queries) if early else 0
  return Count(0, 2 * channels * transform_count(length) + direct, channels * (2 * length + sum(places)))


def features_count(queries: int, keys: int, columns: int, reach: int, causal: bool) -> int:
  """For how many queries and keys features are made: those of keys twice where far ones are summed up from both sides."""
  if form(queries, keys, columns, reach, causal) != "sums":
    return queries + keys
  size = block(reach)
  return _frame(queries, keys, size, causal)[2] * size * (2 if causal else 3)


def form(queries: int, keys: int, columns: int, reach: int, causal: bool) -> str:
  """How sums are made: "pairs", one by one; "sums", where far keys count alike; "transforms", where neither is quicker."""
  window = (2 if causal else 3) * block(reach) if columns == 1 else math.inf
  if min(window, (queries + keys) / 2) >= LONG:
    return "transforms"
  return "sums" if 4 * window <= 3 * keys else "pairs"  # measured with tables of 257 distances: from 512 keys on


def block(reach: int) -> int:
  """Positions in a block, such that what lies beyond its neighbours is out of reach."""
  return max(reach, NEAR)


def _frame(queries, keys, size, causal):
  """Where queries begin, where the first block does, and how many blocks there are."""
  first = keys - queries if causal else 0
  low = min(first, 0)
  return first, low, -(-(max(first + queries, keys) - low) // size)


def stretched(rows: int, columns: int) -> int:
  """Places that a grid takes with 2W - 1 for every row but the last."""
  return (rows - 1) * (2 * columns - 1) + columns


def _early(queries, first):
  """Rows of the causal form up to the last that is computed directly; of negative ones, that see nothing, too."""
  return min(queries, EARLY + max(-first, 0))
