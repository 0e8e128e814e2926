"""Quality of translations: BLEU in the two ways that papers report, chrF, and bootstrap tests between systems.

Source: sacreBLEU (Post 2018, arXiv 1804.08771); bootstrap: Koehn 2004 (ACL W04-3250), Riezler and Maxwell 2005 (ACL
W05-0908). Nothing is downloaded.
"""

import re
from typing import Sequence

import numpy as np
from jaxtyping import Float, Int, Num

from nasformer.types import UserError


def scores(hypotheses: Sequence[str], references: Sequence[str], target_language: str) -> dict[str, float]:
  """Scores of plain, untokenised lines; BLEU and chrF run from 0 to 100, exact match from 0 to 1.

  `bleu` is the one to compare across papers. `bleu_tokenised` follows Vaswani et al. 2017 and HAT (arXiv 2005.14187):
  Moses tokens with compounds split at their hyphens. It is usually the higher one; the two never belong in one column.

  Args:
    hypotheses: one translation per line, possibly empty.
    references: one reference per hypothesis.
    target_language: two-letter code, such as "de", for the Moses rules.

  Raises:
    UserError: no lines, or not one reference per hypothesis.
  """
  _check(references, hypotheses=hypotheses)
  tokens = (split_compounds(lines, target_language) for lines in (hypotheses, references))
  return {
      "bleu": _corpus_score(_metric("bleu"), hypotheses, references),
      "chrf": _corpus_score(_metric("chrf"), hypotheses, references),
      "bleu_tokenised": _corpus_score(_tokenised(), *tokens),
      "exact_match": float(np.mean([one.strip() == other.strip() for one, other in zip(hypotheses, references)])),
  }


def signatures(target_language: str) -> dict[str, str]:
  """The sacreBLEU signature of each score that has one; the tokenised one names its tokeniser and compound rule."""
  import sacremoses

  metrics = {"bleu": _metric("bleu"), "chrf": _metric("chrf"), "bleu_tokenised": _tokenised()}
  for metric in metrics.values():
    metric.num_refs = 1  # otherwise known only after the first corpus
  found = {name: metric.get_signature() for name, metric in metrics.items()}
  found["bleu_tokenised"].update("tok", f"moses-{target_language}-{sacremoses.__version__}+compounds")
  return {name: str(signature) for name, signature in found.items()}


def split_compounds(lines: Sequence[str], language: str) -> list[str]:
  """Moses tokens of each line, where every hyphen inside a token becomes a token of its own: ##AT##-##AT##."""
  from sacremoses import MosesTokenizer

  tokenizer = MosesTokenizer(lang=language)
  tokens = (tokenizer.tokenize(line, return_str=True, escape=False) for line in lines)
  return [re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", line) for line in tokens]


def bootstrap(
    hypotheses: Sequence[str], references: Sequence[str], metric: str = "bleu", num_samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
  """Mean and the ends of the 95% interval of a score when the test lines are drawn again with replacement.

  Args:
    hypotheses: one translation per line, possibly empty.
    references: one reference per hypothesis.
    metric: "bleu" or "chrf".
    num_samples: how often the lines are drawn.
    seed: the same seed and number of lines give the same draws.

  Raises:
    UserError: no lines, not one reference per hypothesis, or an unknown metric.
  """
  _check(references, hypotheses=hypotheses)
  scorer = _metric(metric)
  drawn = _resampled(scorer, _statistics(scorer, hypotheses, references), num_samples, seed)
  return float(drawn.mean()), *_interval(drawn)


def paired(
    system: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[str],
    metric: str = "bleu",
    num_samples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
  """Difference of two systems (system - baseline), its 95% bootstrap interval, and a two-sided p-value.

  Both systems are scored on the same draws. With d the difference and d_b that of draw b of n, the draws less their
  mean m stand for what chance would do to equal systems: p = (1 + #{b: |d_b - m| >= |d|}) / (1 + n). Systems that never
  differ have p = 1. sacreBLEU's own test takes absolute values first and counts one tail: about half of this.

  Args:
    system: one translation per line, possibly empty.
    baseline: the translations to compare with.
    references: one reference per line.
    metric: "bleu" or "chrf".
    num_samples: how often the lines are drawn.
    seed: the same seed and number of lines give the same draws.

  Raises:
    UserError: no lines, not one reference per line of each system, or an unknown metric.
  """
  _check(references, system=system, baseline=baseline)
  scorer = _metric(metric)
  ours, theirs = (_statistics(scorer, lines, references) for lines in (system, baseline))
  difference = _score(scorer, ours.sum(0)) - _score(scorer, theirs.sum(0))
  drawn = _resampled(scorer, ours, num_samples, seed) - _resampled(scorer, theirs, num_samples, seed)
  low, high = _interval(drawn)
  extreme = int((np.abs(drawn - drawn.mean()) >= abs(difference)).sum())
  return {"difference": difference, "low": low, "high": high, "p_value": (1 + extreme) / (1 + num_samples)}


# -- sacreBLEU ---------------------------------------------------------------------------------------------------------


def _metric(name: str):
  from sacrebleu.metrics import BLEU, CHRF  # a fifth of a second that only translation pays

  match name:
    case "bleu":
      return BLEU(force=True)  # scores any text without a warning on the console
    case "chrf":
      return CHRF()
  raise UserError(f"unknown metric {name!r}: 'bleu' and 'chrf' can be resampled")


def _tokenised():
  from sacrebleu.metrics import BLEU

  return BLEU(tokenize="none", force=True)


def _statistics(metric, hypotheses: Sequence[str], references: Sequence[str]) -> Int[np.ndarray, "E counts"]:
  """Lengths and counts of n-grams per line; the score of any set of lines is a function of their sums."""
  return np.array(metric._extract_corpus_statistics(hypotheses, [references]), np.int64)


def _score(metric, sums: Num[np.ndarray, "counts"]) -> float:
  return float(metric._compute_score_from_stats(sums.tolist()).score)


def _corpus_score(metric, hypotheses: Sequence[str], references: Sequence[str]) -> float:
  return _score(metric, _statistics(metric, hypotheses, references).sum(0))


# -- bootstrap ---------------------------------------------------------------------------------------------------------


def _resampled(
    metric, statistics: Int[np.ndarray, "E counts"], num_samples: int, seed: int
) -> Float[np.ndarray, "num_samples"]:
  rng, num = np.random.default_rng(seed), len(statistics)
  exact = statistics.astype(np.float64)  # holds counts exactly and, unlike int64, multiplies fast
  draws = (np.bincount(rng.integers(num, size=num), minlength=num) @ exact for _ in range(num_samples))
  return np.array([_score(metric, sums) for sums in draws])


def _interval(drawn: Float[np.ndarray, "num_samples"]) -> tuple[float, float]:
  """What is left of the draws without the lowest and the highest fortieth."""
  cut = len(drawn) // 40
  ordered = np.sort(drawn)
  return float(ordered[cut]), float(ordered[-1 - cut])


def _check(references: Sequence[str], **systems: Sequence[str]) -> None:
  if not references:
    raise UserError("there are no references to score against: at least 1 line is needed")
  for what, lines in systems.items():
    if len(lines) != len(references):
      raise UserError(f"{len(lines)} lines of {what} for {len(references)} references: one is needed for each")
