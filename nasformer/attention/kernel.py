"""Attention with a kernel instead of the softmax: what linear, cosFormer, momentum and random-feature kinds share.

o_i = φ(q_i)ᵀ A_i / (φ(q_i) · s_i), with A_i = Σ_j φ(k_j) v_jᵀ and s_i = Σ_j φ(k_j) over the keys that i may see
(Katharopoulos et al. 2020, eq. 4-6, 9). Long sequences are read in chunks, and features are made chunk by chunk too. The
causal form goes by the masked square inside a chunk and by the states at its border for all that came before, so that no
running sum of outer products is ever stored for every position. For the gradient only the states at the borders are kept;
the inside of a chunk is computed again.
"""

import dataclasses
import math
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nasformer.attention import chunks
from nasformer.attention.base import Context, Core, Count, Tensors
from nasformer.ops import masks

# Both measured (experiments/bench/attention_targets.py --part=chunks): forward and backward of 8,192 positions, 8 heads of 64, in
# chunks of 32, 64, 128 and 256 take two cores 112, 89, 96 and 137 ms for 64 features, and 373, 324, 364 and 453 ms for 256.
CHUNK = 64  # most positions in a chunk of the causal form
BLOCK = 512  # most positions whose features are made at once where nothing is causal


class Rows(NamedTuple):
  """Queries or keys: what they are, where they are, and the function (x, positions) -> features of a part of them."""

  x: Float[Array, "B T N H"]
  positions: Int[Array, "T"]
  phi: Callable[[Array, Array], Array]


class Recurrence(NamedTuple):
  """How much a value counts for later queries, in chunks of c positions, with m states that are sums of φ(k) vᵀ.

  Attributes:
    near: of key j for query i of the same chunk; zero where j > i.
    read: of every state at the chunk's start for query i.
    write: of key j in every state at the chunk's end.
    keep: of every state at the chunk's start (the last axis) in every state at its end.
  """

  near: Float[np.ndarray, "c c"]
  read: Float[np.ndarray, "m c"]
  write: Float[np.ndarray, "m c"]
  keep: Float[np.ndarray, "m m"]


def running_sum(size: int) -> Recurrence:
  """All that came before counts alike."""
  return Recurrence(np.tri(size), np.ones((1, size)), np.ones((1, size)), np.ones((1, 1)))


@dataclasses.dataclass(frozen=True)
class KernelCore(Core):
  """A kind of this family; it says what φ is. The decoding state is [A | s]: of constant size."""

  def phi(self, params: Tensors, x: Float[Array, "B T N H"], positions: Array, length: Any) -> Float[Array, "B T N R"]:
    """Features of queries or keys at these positions, in sequences of this length (see `lengths`)."""
    raise NotImplementedError

  def phi_query(self, params: Tensors, x: Float[Array, "B T N H"], positions: Array,
                length: Any) -> Float[Array, "B T N R"]:
    """Features of queries, if they differ: what all features of a query have in common cancels."""
    return self.phi(params, x, positions, length)

  def num_features(self, head_dim: int) -> int:
    """R."""
    return head_dim

  def divisor(self, total: Float[Array, "B T N"]) -> Float[Array, "B T N"]:
    """A safe divisor made of the sum of weights."""
    raise NotImplementedError

  def lengths(self, context: Context, queries: int, keys: int) -> tuple[Any, Any]:
    """Lengths of both sides that `phi` measures positions by, constants or [B, 1]; None where it does not."""
    return None, None

  def past_only(self, context: Context) -> bool:
    """Whether a query sees earlier keys only."""
    return context.causal

  def recurrence(self, size: int) -> Recurrence:
    """How values count in the causal form, in chunks of this size."""
    return running_sum(size)

  def attend(self, params, q, k, v, context):
    queries, keys, causal = q.shape[1], k.shape[1], self.past_only(context)
    length_q, length_k = self.lengths(context, queries, keys)
    start = keys - queries if causal else 0
    rows_q = Rows(q, start + jnp.arange(queries), lambda x, at: self.phi_query(params, x, at, length_q))
    rows_k = Rows(k, jnp.arange(keys) % (keys // context.copies), lambda x, at: self.phi(params, x, at, length_k))
    mean = lambda numerator, total: divide(numerator, self.divisor(total)).astype(q.dtype)
    if causal:
      return causal_sums(rows_q, rows_k, v, context.key_mask, mean, self.recurrence)
    return full_sums(rows_q, rows_k, v, context.key_mask, mean)

  def start(self, batch, max_length, num_heads, head_dim, value_dim, dtype):
    shape = batch, num_heads, self.num_features(head_dim), value_dim + 1
    return {"sums": jnp.zeros(shape, jnp.promote_types(dtype, jnp.float32))}

  def push(self, params, state, k, v, position):
    return {"sums": state["sums"] + self._sums(params, k, v, position, Context(causal=True, stream=True))}

  def remember(self, params, k, v, context):
    return {"sums": self._sums(params, k, v, 0, context)}

  def _sums(self, params, k, v, position, context):
    keys = k.shape[1]
    _, length = self.lengths(context, 1, keys)
    positions = position + jnp.arange(keys) % (keys // context.copies)
    return _gather(Rows(k, positions, lambda x, at: self.phi(params, x, at, length)), v, context.key_mask)

  def recall(self, params, state, q, position, copies):
    length, _ = self.lengths(Context(stream=True), 1, 1)
    phi = self.phi_query(params, q, position + jnp.arange(q.shape[1]), length)
    numerator, total = _read(_swap(phi), state["sums"])
    return divide(numerator, self.divisor(total)).astype(q.dtype)

  def core_count(self, sizes, queries, keys, causal):
    return kernel_count(sizes.num_heads, queries, keys, self.num_features(sizes.head_dim), sizes.head_dim, causal)


def full_sums(queries: Rows, keys: Rows, v: Float[Array, "B S N E"], key_mask: Bool[Array, "B S"] | None,
              finish: Callable = lambda *sums: sums, settle: Callable = lambda sums: sums) -> Any:
  """Sum of the weighted values of all real keys, and the sum of the weights, at least in float32; see `causal_sums`.

  `settle` says what to make of [Σ φ(k) vᵀ | Σ φ(k)] before queries read it.
  """
  sums = settle(_gather(keys, v, key_mask))
  read = lambda x, at: finish(*_read(_swap(queries.phi(x, at)), sums))
  return chunks.mapped(read, (queries.x, queries.positions[None]), BLOCK)


def causal_sums(
    queries: Rows, keys: Rows, v: Float[Array, "B S N E"], key_mask: Bool[Array, "B S"] | None,
    finish: Callable = lambda *sums: sums, recurrence: Callable[[int], Recurrence] = running_sum,
) -> Any:
  """The same over the keys up to the query's own position; with unequal lengths, queries are the last positions.

  Args:
    queries: all of them.
    keys: likewise.
    v: values.
    key_mask: real keys.
    finish: what to make of both sums, [B, t, N, E] and [B, t, N], of some of the queries; the gradient keeps no sums.
    recurrence: size of chunks -> how values count; the weights that are summed up to divide by count alike.
  """
  dtype = masks.accumulator(v)
  _, size = chunks.pieces(max(queries.x.shape[1], keys.x.shape[1]), CHUNK)
  law = recurrence(size)
  near, read, write = (jnp.asarray(table, dtype) for table in (law.near, law.read, law.write))

  def prepare(q, at_q, k, at_k, v, real):
    return _swap(queries.phi(q, at_q)), _swap(keys.phi(k, at_k) * real[..., None, None]), _swap(v.astype(dtype))

  def add(parts):
    _, k, v = parts
    return jnp.einsum("bnsr,bnse->bnre", k, with_one(jnp.concatenate([v * row[:, None] for row in write], axis=-1)))

  def find(sums, parts):
    q, k, v = parts
    weights = jnp.einsum("bntr,bnsr->bnts", q, k)
    numerator, total = _swap(jnp.einsum("bnts,bnse->bnte", weights * near, v)), _swap((weights * np.tri(size)).sum(-1))
    if sums is not None:
      before, norm = _read(q, sums)
      numerator += sum(part * row[:, None, None] for part, row in zip(jnp.split(before, len(read), -1), read))
      total += norm
    return finish(numerator, total)

  fade = lambda sums, number: _kept(jnp.asarray(np.linalg.matrix_power(law.keep, number), dtype), sums)
  xs = queries.x, queries.positions[None], keys.x, keys.positions[None], v, _real(key_mask, v)
  return chunks.running(prepare, add, find, xs, CHUNK, fade)


def divide(numerator: Float[Array, "B T N E"], divisor: Float[Array, "B T N"]) -> Float[Array, "B T N E"]:
  """The quotient; its gradient never squares the divisor, which may be tiny."""
  scale = jax.lax.stop_gradient(divisor)
  return numerator / scale[..., None] / (divisor / scale)[..., None]


def with_one(v: Float[Array, "*B E"]) -> Float[Array, "*B E1"]:
  """Values with a 1 behind them, which adds up to the sum of the weights."""
  return jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)


def with_first(
    sums: tuple[Float[Array, "B G N E"], Float[Array, "B G N"]], phi_q: Float[Array, "B T N R"],
    phi_k: Float[Array, "B T N R"], v: Float[Array, "B T N E"],
) -> tuple[Float[Array, "B T N E"], Float[Array, "B T N"]]:
  """Adds a first token, which meets all tokens by its features alone, to the sums of the others, which have places."""
  numerator, denominator = sums
  v = v.astype(numerator.dtype)
  seen, sees = jnp.einsum("btnr,bnr->btn", phi_q, phi_k[:, 0]), jnp.einsum("bnr,bsnr->bsn", phi_q[:, 0], phi_k[:, 1:])
  out = jnp.einsum("bsn,bsne->bne", sees, v[:, 1:])[:, None]
  numerator = jnp.concatenate([out, numerator], axis=1) + seen[..., None] * v[:, :1]
  return numerator, jnp.concatenate([sees.sum(1, keepdims=True), denominator], axis=1) + seen


def first_count(length: int, features: int, head_dim: int) -> int:
  """Multiply-adds of `with_first` for one head."""
  return length * features + (length - 1) * (features + head_dim)


def kernel_count(num_heads: int, queries: int, keys: int, features: int, head_dim: int, causal: bool,
                 states: int = 1) -> Count:
  """Multiply-adds of the sums as they are computed, padding of the last chunk included; `states` as in `Recurrence`."""
  queries, keys = padded(queries, keys, causal)
  if not causal:
    return Count(0, num_heads * (queries + keys) * features * (head_dim + 1))
  number, size = chunks.pieces(queries, CHUNK)
  inside = queries * size * (features + head_dim)
  across = queries * 2 * features * (states * head_dim + 1) if number > 1 else 0
  return Count(0, num_heads * (inside + across))


def padded(queries: int, keys: int, causal: bool) -> tuple[int, int]:
  """For how many queries and keys features are made."""
  if causal:
    queries = keys = max(queries, keys)
  most = CHUNK if causal else BLOCK
  return math.prod(chunks.pieces(queries, most)), math.prod(chunks.pieces(keys, most))


def _gather(keys, v, key_mask):
  """[Σ_j φ(k_j) v_jᵀ | Σ_j φ(k_j)] over real keys."""

  def add(k, at, v, real):
    phi, v = _swap(keys.phi(k, at) * real[..., None, None]), _swap(v.astype(real.dtype))
    return jnp.einsum("bnsr,bnse->bnre", phi, with_one(v))

  return chunks.summed(add, (keys.x, keys.positions[None], v, _real(key_mask, v)), BLOCK)


def _read(phi, sums):
  """What queries [B, N, t, R] read: values [B, t, N, E] and the sum of the weights."""
  out = _swap(jnp.einsum("bntr,bnre->bnte", phi, sums))
  return out[..., :-1], out[..., -1]


def _kept(keep, sums):
  """What is left of states at the end of a chunk; the sum of weights is kept as it is."""
  states = jnp.split(sums[..., :-1], len(keep), -1)
  return jnp.concatenate([sum(map(jnp.multiply, row, states)) for row in keep] + [sums[..., -1:]], axis=-1)


def _swap(x):
  """Heads before positions, or back: products over positions are several times quicker where heads come first."""
  return x.swapaxes(1, 2)


def _real(key_mask, v):
  return jnp.ones(v.shape[:2], masks.accumulator(v)) if key_mask is None else key_mask.astype(masks.accumulator(v))
