"""Beam search for translation, in one compiled program per shape.

As in fairseq: of the 2K best continuations of a beam, those among the first K that end the sentence are kept as finished, and
the first K of the others go on; a sentence is done when K are finished, and what is longest must end. So one beam is greedy
search, and the result of a sentence depends on nothing but the sentence: neither on its batch mates nor on padding.

A translation may be told what to begin with, token by token: there, every other token is forbidden. Its log-probability and
its length count like those of what is found.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nasformer.nets.translation import BOS, EOS, PAD, Sliced
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How translations are searched for.

  Attributes:
    beam: hypotheses that are followed; 1 is greedy search.
    penalty: what log-probabilities of finished hypotheses are divided by, with n tokens, the end included: "gnmt"
      ((5 + n) / 6)^alpha (Wu et al. 2016, eq. 14), "fairseq" n^alpha, "none" 1. They are not interchangeable.
    alpha: exponent of the penalty.
    length_factor: a translation of n source tokens, end included, has at most `length_factor` n + `length_offset` tokens.
    length_offset: see there.
    batch_size: source tokens per batch, padding included.
  """

  beam: int = 4
  penalty: Literal["gnmt", "fairseq", "none"] = "gnmt"
  alpha: float = 0.6
  length_factor: float = 1.5
  length_offset: int = 10
  batch_size: int = 4096

  def __post_init__(self):
    if self.penalty not in ("gnmt", "fairseq", "none"):
      raise UserError(f"decoding.penalty={self.penalty!r}: it must be 'gnmt', 'fairseq' or 'none'")
    if self.beam < 1 or self.batch_size < 1:
      raise UserError(f"decoding: beam={self.beam} and batch_size={self.batch_size} must be at least 1")
    if self.length_factor < 0 or self.length_offset < 1:
      raise UserError(f"decoding: length_factor={self.length_factor} must not be negative and length_offset="
                      f"{self.length_offset} must be at least 1")

  def limit(self, source_length: int | Array) -> Any:
    """Most tokens of a translation of so many source tokens."""
    return jnp.floor(self.length_factor * source_length).astype(jnp.int32) + self.length_offset

  def normalised(self, score: Array, length: int | Array) -> Array:
    """Score of a finished hypothesis of so many tokens."""
    return score / {"gnmt": ((5.0 + length) / 6.0) ** self.alpha, "fairseq": (1.0 * length) ** self.alpha,
                    "none": 1.0}[self.penalty]


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 6))
def translate(decoding: Decoding, sliced: Sliced, params: Any, source: Int[Array, "B S"], most: int,
              prefix: Int[Array, "B P"] | None = None, shared: int = 0) -> tuple[Int[Array, "B K L"], Float[Array, "B K"]]:
  """The K best translations found of every source, best first, and their normalised scores.

  Args:
    decoding: how.
    sliced: the network.
    params: its weights.
    source: token ids, each sentence ended by EOS and filled up with PAD.
    most: L, a bound on the length of translations that no limit of these sources exceeds.
    prefix: tokens that the translations of every source begin with, filled up with PAD: fewer than its limit, or none. None
      where no source has any.
    shared: the prefix of every source has at least so many tokens; these are read at once, the others one after another.

  Returns:
    Token ids up to EOS, PAD after it; and scores, -inf where there is no hypothesis.
  """
  batch, beam = len(source), decoding.beam
  limit = jnp.minimum(decoding.limit((source != PAD).sum(1)), most)
  said, state = _begun(sliced, params, source, most, prefix, shared)
  state = jax.tree.map(lambda x: jnp.repeat(x, beam, axis=0), state)
  forced = None if prefix is None else jnp.pad(prefix, ((0, 0), (0, most - prefix.shape[1])), constant_values=PAD)
  rows = jnp.arange(batch)[:, None]

  def go_on(carry):
    position, alive = carry[:2]
    return (position < limit.max()) & alive.any()

  def turn(carry):
    position, alive, last, scores, tokens, done, done_scores, num_done, before = carry
    logits, state = sliced.step(params, before, last.reshape(-1), position)
    log_p = jax.nn.log_softmax(logits).reshape(batch, beam, -1)
    vocab = log_p.shape[-1]
    must_end = (position + 1 >= limit)[:, None, None]
    allowed = jnp.where(jnp.arange(vocab) == EOS, True, ~must_end) & (jnp.arange(vocab) != PAD) & (jnp.arange(vocab) != BOS)
    if forced is not None:
      must_be = forced[:, position, None, None]
      allowed = jnp.where(must_be == PAD, allowed, jnp.arange(vocab) == must_be)
    total = jnp.where(allowed, scores[..., None] + log_p, -jnp.inf)
    best, where = jax.lax.top_k(total.reshape(batch, -1), min(2 * beam, beam * vocab))
    parent, token = where // vocab, where % vocab
    ends, real = token == EOS, jnp.isfinite(best)

    finished = ends & real & alive[:, None] & (jnp.arange(best.shape[1]) < beam)
    slot = jnp.where(finished, num_done[:, None] + jnp.cumsum(finished, axis=1) - 1, beam)  # beyond: dropped
    whole = tokens[rows, parent].at[:, :, position].set(token)
    done = done.at[rows, slot].set(whole, mode="drop")
    done_scores = done_scores.at[rows, slot].set(decoding.normalised(best, position + 1), mode="drop")
    num_done = jnp.minimum(num_done + finished.sum(1), beam)

    _, keep = jax.lax.top_k(jnp.where(ends, -jnp.inf, 0.0) - jnp.arange(best.shape[1]), beam)  # the first that go on
    keep = jnp.sort(keep, axis=1)
    take = lambda x: jnp.take_along_axis(x, keep, axis=1)
    scores = jnp.where(take(ends), -jnp.inf, take(best))
    parent, last = take(parent), take(token)
    flat = (rows * beam + parent).reshape(-1)
    # what a step leaves alone, as what is kept of a source, is the same in all beams
    state = jax.tree.map(lambda new, old: old if new is old else new[flat], state, before)
    tokens = tokens[rows, parent].at[:, :, position].set(last)
    alive = alive & (num_done < beam) & (position + 1 < limit) & jnp.isfinite(scores).any(1)
    return position + 1, alive, last, scores, tokens, done, done_scores, num_done, state

  empty = jnp.full((batch, beam, most), PAD, jnp.int32)
  scores = jnp.where(jnp.arange(beam) == 0, said, -jnp.inf) * jnp.ones((batch, 1))
  last, tokens = jnp.full((batch, beam), BOS, jnp.int32), empty
  if shared:
    last, tokens = jnp.tile(prefix[:, shared - 1, None], beam), tokens.at[:, :, :shared].set(prefix[:, None, :shared])
  start = (jnp.int32(shared), (source != PAD).any(1), last, scores, tokens, empty,
           jnp.full((batch, beam), -jnp.inf), jnp.zeros(batch, jnp.int32), state)
  carry = jax.lax.while_loop(go_on, turn, start)
  done, done_scores = carry[5:7]
  order = jnp.argsort(-done_scores, axis=1)
  return done[rows, order], done_scores[rows, order]


def _begun(sliced, params, source, most, prefix, shared):
  """Log-probabilities of the prefix as far as it is read at once, [B, 1], and the state before its last token is."""
  if not shared:
    return 0.0, sliced.start(params, source, most)
  given = jnp.concatenate([jnp.full_like(prefix[:, :1], BOS), prefix[:, : shared - 1]], axis=1)
  logits, state = sliced.prefill(params, source, given, most)
  log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), prefix[:, :shared, None], axis=-1)
  return log_p.sum(1), state


def generate(sliced: Sliced, params: Any, source: Int[Array, "B S"], length: int) -> Int[Array, "B L"]:
  """The most probable next token, `length` times, whether or not a sentence ends: what latency is measured on (HAT 3.2)."""

  def turn(carry, position):
    last, state = carry
    logits, state = sliced.step(params, state, last, position)
    last = logits.argmax(-1).astype(jnp.int32)
    return (last, state), last

  start = jnp.full(len(source), BOS, jnp.int32), sliced.start(params, source, length)
  _, tokens = jax.lax.scan(turn, start, jnp.arange(length))
  return tokens.T
