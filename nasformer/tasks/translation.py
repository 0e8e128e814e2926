"""Translation: binds network, loss, metrics and beam search."""

import dataclasses
import math
import pathlib
from typing import Any, Callable, ClassVar, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nasformer.attention.base import Kind
from nasformer.data.buckets import Split
from nasformer.data.parallel import TextInfo
from nasformer.data.vocabulary import Vocabularies
from nasformer.nets import decoding as decoding_lib
from nasformer.nets.decoding import Decoding
from nasformer.nets.translation import EOS, PAD, Pair, Sliced, Translation, TranslationNet, TranslationTransformer
from nasformer.ops import bleu, losses
from nasformer.space.translation import Translation as TranslationSpace
from nasformer.tasks.base import check_parts, check_reach
from nasformer.types import Params, TranslationSpec, UserError

Batch = Mapping[str, Array | np.ndarray]
_SWEEP = (10, 30, 100, 300, 1000)  # tokens


@dataclasses.dataclass(frozen=True)
class TranslationTask:
  """Sentences into sentences; cross-entropy of target tokens with label smoothing, judged by BLEU.

  Attributes:
    headline: the metric that networks are compared by in the end.
    net: the backbone.
    label_smoothing: share of the target spread over the vocabulary.
    decoding: how translations are searched for.
  """

  headline: ClassVar[str] = "bleu"
  net: Translation = Translation()
  label_smoothing: float = 0.1
  decoding: Decoding = Decoding()

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise UserError(f"task.label_smoothing={self.label_smoothing}: it must be at least 0 and below 1")

  def build(self, info: Any, space: Any, kinds: Mapping[str, Kind]) -> TranslationNet:
    """The network family for this data.

    Raises:
      UserError: data or space are of another task, or an attention kind cannot be where the space puts it, or is for less.
    """
    check_parts("translation", info, TextInfo, "sentence pairs", space, TranslationSpace, "an encoder-decoder space")
    space.check(kinds)
    source = max(info.lengths[-1], self.net.count_length)
    target = max(source, int(self.decoding.limit(info.lengths[-1])))
    check_reach(kinds, space.placed["encoder"], "encoder", source, "the longest source (data.lengths)")
    for module in ("decoder", "cross"):
      check_reach(kinds, space.placed[module], module, target, "the longest translation (data.lengths, task.decoding)")
    widths = max(space.encoder_embed_dim), max(space.decoder_embed_dim)
    return TranslationNet(self.net, info.source_vocab, info.target_vocab, tuple(kinds.items()), widths)

  def prepare(self, key: Array, batch: Batch) -> Batch:
    """A training batch as it is."""
    return batch

  def inputs(self, batch: Batch) -> Pair:
    """What the network takes of a batch."""
    return Pair(batch["source"], batch["target"])

  def loss(self, logits: Float[Array, "B T V"], batch: Batch) -> Float[Array, "B"]:
    """Training loss; its mean over the rows of a batch is the mean over their tokens (nats)."""
    return self._mean(losses.smoothed_cross_entropy(logits, batch["target"], self.label_smoothing), batch)

  def distillation(self, logits: Float[Array, "B T V"], teacher: Float[Array, "B T V"], batch: Batch) -> Float[Array, "B"]:
    """The same where a larger network is the teacher."""
    return self._mean(losses.distillation(logits, teacher), batch)

  def _mean(self, values: Float[Array, "B T"], batch: Batch) -> Float[Array, "B"]:
    real = batch["target"] != PAD
    return batch["weight"] * jnp.where(real, values, 0).sum(1) / jnp.maximum(real.sum(1), 1)

  def metrics(self, logits: Float[Array, "B T V"], batch: Batch) -> dict[str, Float[Array, "B"]]:
    """Sums over the target tokens of each pair: "loss" (nats), "smoothed_bits" (the smoothed loss in bits, as HAT gives it),
    "accuracy" (tokens foretold) and "count"."""
    real = batch["target"] != PAD
    total = lambda values: jnp.where(real, values, 0).sum(1)
    smoothed = losses.smoothed_cross_entropy(logits, batch["target"], self.label_smoothing) / math.log(2)
    mine = jnp.take_along_axis(logits, batch["target"][..., None], -1)[..., 0]
    foretold = (mine == logits.max(-1)).astype(jnp.float32)  # many times cheaper on a CPU than the place of the maximum
    return {"loss": total(losses.smoothed_cross_entropy(logits, batch["target"])), "smoothed_bits": total(smoothed),
            "accuracy": total(foretold), "count": real.sum(1).astype(jnp.float32)}

  def example(self, net: TranslationNet, batch_size: int) -> Pair:
    """What a network of this family takes: pairs of the length that costs are counted at, without padding."""
    return Pair(*(jnp.ones((batch_size, net.config.count_length), jnp.int32),) * 2)

  def timed(self, network: TranslationTransformer) -> Callable:
    """What latency is measured on: translating word by word, greedily, at the length that costs are counted at."""
    sliced = Sliced(network.net, network.spec)
    length = network.net.config.count_length
    return lambda variables, pair: decoding_lib.generate(sliced, variables["params"], pair.source, length)

  def prefill(self, network: TranslationTransformer) -> Callable:
    """The part of that which reads the source."""
    sliced = Sliced(network.net, network.spec)
    length = network.net.config.count_length
    return lambda variables, pair: sliced.start(variables["params"], pair.source, length)

  def judge(self, network: TranslationTransformer, params: Params, split: Split, info: TextInfo,
            limit: int | None = None) -> dict[str, Any]:
    """Scores of the translations of a part against its untouched references, and the translations themselves.

    "bleu", "chrf", "bleu_tokenised" and "exact_match" as in `nasformer.ops.bleu`; "bleu_low" and "bleu_high" enclose BLEU
    with 95 % confidence (bootstrap); "outputs" are the translations, in order. Of a part only the first `limit` are read.
    """
    translator = Translator(self.decoding, Sliced(network.net, network.spec), split.vocabularies, split.lengths)
    hypotheses, references = translator(params, split.sources[:limit]), list(split.targets[:limit])
    _, low, high = bleu.bootstrap(hypotheses, references)
    return bleu.scores(hypotheses, references, info.target_language) | {
        "bleu_low": low, "bleu_high": high, "outputs": hypotheses}

  def compare(self, outputs: Sequence[str], baseline: Sequence[str], split: Split) -> dict[str, float]:
    """Difference in BLEU to the baseline, with its 95 % interval and p-value (paired bootstrap)."""
    return bleu.paired(outputs, baseline, list(split.targets))

  def facts(self, net: TranslationNet, spec: TranslationSpec) -> dict[str, Any]:
    """"flops_by_length": FLOPs of sentences from short to very long, by the rule of `TranslationNet.counting`."""
    return {"flops_by_length": {str(length): 2 * net.count_spec(spec, length).products for length in _SWEEP}}

  def signatures(self, info: TextInfo) -> dict[str, str]:
    """The sacreBLEU signature of each score."""
    return bleu.signatures(info.target_language)

  def deployed(self, network: TranslationTransformer, info: TextInfo, workdir: pathlib.Path) -> "Translator":
    """What people use: (params, sentences) -> translations."""
    folder = workdir / "vocabulary"
    vocabularies = Vocabularies.read(folder, info.source_vocab, info.joint)
    if vocabularies is None or vocabularies.fingerprint != info.fingerprint:
      raise UserError(f"{folder} does not hold the vocabulary that this network was trained with: bring it back, its"
                      f" fingerprint is {info.fingerprint}")
    return Translator(self.decoding, Sliced(network.net, network.spec), vocabularies, info.lengths)


@dataclasses.dataclass(frozen=True, eq=False)
class Translator:
  """(params, sentences) -> translations; compiled once for each length that sentences are padded to.

  Attributes:
    decoding: how translations are searched for.
    sliced: the network.
    vocabularies: of both sides.
    lengths: to which sources are padded; a longer one is cut to the last of them.
  """

  decoding: Decoding
  sliced: Sliced
  vocabularies: Vocabularies
  lengths: tuple[int, ...]

  def __call__(self, params: Params, sentences: Sequence[str]) -> list[str]:
    """The best translation of each sentence."""
    return [best[0][0] if best else "" for best in self.n_best(params, sentences)]

  def n_best(self, params: Params, sentences: Sequence[str],
             forced: Sequence[Sequence[int]] | None = None) -> list[list[tuple[str, float]]]:
    """Up to `beam` translations of each sentence with their scores, the best first; none of an empty line.

    Args:
      params: of the network.
      sentences: to translate.
      forced: tokens that the translations of each begin with, as `forced` gives them; None where nothing is. As many as all
        sentences of a batch have, rounded down to a power of two, so that there are few programs, are read at once.
    """
    forced = [[]] * len(sentences) if forced is None else forced
    found: list[list[tuple[str, float]]] = [[] for _ in sentences]
    for indices, source, most in self._batches(sentences, list(map(len, forced))):
      told = [forced[index] for index in indices]
      shared = 1 << min(map(len, told)).bit_length() >> 1
      prefix = (_filled(told, len(source), most), shared) if any(told) else ()
      tokens, scores = jax.device_get(decoding_lib.translate(self.decoding, self.sliced, params, source, most, *prefix))
      for index, rows, values in zip(indices, tokens, scores):  # rows that only fill up have no index
        real = np.isfinite(values)
        found[index] = list(zip(self.vocabularies.target.decode(rows[real]), map(float, values[real])))
    return found

  def too_long(self, sentences: Sequence[str]) -> int:
    """How many sentences are cut."""
    return sum(len(row) >= self.lengths[-1] for row in self.vocabularies.source.encode(sentences))

  def forced(self, sentences: Sequence[str], prefixes: Sequence[str], name: str = "prefixes") -> list[list[int]]:
    """Tokens that the translations of each sentence begin with; none where there is nothing to translate.

    Args:
      sentences: to translate.
      prefixes: what their translations begin with, letter by letter (so a last word may become a longer one); an empty one
        forces nothing.
      name: what prefixes are called in errors.

    Raises:
      UserError: one leaves no room for a translation, or there are not as many as sentences.
    """
    if len(prefixes) != len(sentences):
      raise UserError(f"{name} has {len(prefixes)} lines and the input {len(sentences)}: give one line for each, an empty"
                      " one where nothing is forced")
    texts = [prefix.strip() if sentence.strip() else "" for prefix, sentence in zip(prefixes, sentences)]
    forced, lengths = self.vocabularies.target.encode(texts), map(len, self.vocabularies.source.encode(sentences))
    limits = np.asarray(self.decoding.limit(jnp.minimum(jnp.array([*lengths], int) + 1, self.lengths[-1])))
    for number, (tokens, most) in enumerate(zip(forced, limits), 1):
      if len(tokens) >= most:
        raise UserError(f"{name}, line {number}: it has {len(tokens)} tokens, and a translation of this sentence at most"
                        f" {most} with its end: shorten it to at most {most - 1} tokens")
    return forced

  def _batches(self, sentences: Sequence[str], ahead: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Positions of sentences, their padded tokens, and a bound on the length of their translations.

    Those of one padded length are in the order of `ahead`, the lengths of their prefixes.
    """
    flat = self.vocabularies.source.encode(sentences)
    encoded = [[*row[: self.lengths[-1] - 1], EOS] for row in flat]
    place = np.searchsorted(self.lengths, [len(row) for row in encoded])
    place[[not sentence.strip() for sentence in sentences]] = len(self.lengths)  # nothing to translate
    for bucket, length in enumerate(self.lengths):
      members, rows = np.flatnonzero(place == bucket), max(1, self.decoding.batch_size // length)
      members = members[np.argsort(np.array(ahead, int)[members], kind="stable")]
      for first in range(0, len(members), rows):
        indices = members[first : first + rows]
        yield indices, _filled([encoded[index] for index in indices], rows, length), int(self.decoding.limit(length))


def _filled(tokens: Sequence[Sequence[int]], rows: int, length: int) -> np.ndarray:
  """So many rows of tokens, filled up with PAD."""
  filled = np.full((rows, length), PAD, np.int32)
  for row, mine in zip(filled, tokens):
    row[: len(mine)] = mine
  return filled
