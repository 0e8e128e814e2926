"""What the page says of translations alone; every part is left out where the run has nothing for it."""

import collections
import itertools
from typing import Iterator

from nasformer.report import tables
from nasformer.report.markup import named, table, text
from nasformer.report.measures import yardstick
from nasformer.report.numbers import si, spread
from nasformer.report.run import Run, Texts
from nasformer.report.verdict import LEVEL, paired

MOST_DIFFERENT, SHORT = 5, (0.05, 0.1, 0.2)  # examples: how many, and shares of the sentences that are shorter


def signatures(run: Run) -> Iterator[str]:
  """How exactly the scores were computed."""
  yard = yardstick(run)
  labels = {yard.test.name: yard.test.noun} | {metric.name: metric.label for metric in yard.more}
  rows = [f"<dt>{text(labels[name] if name in labels else name)}</dt><dd><code>{text(signature)}</code></dd>"
          for name, signature in run.signatures.items()]
  if rows:
    yield f'<dl class="wide">{"".join(rows)}</dl>'


def against_baseline(run: Run) -> Iterator[str]:
  """What the paired tests say of every network."""
  metric = yardstick(run).test
  rows = [f"<dt>{named(run, arm)}{f', seed {model.seed}' * (len(run.seeds) > 1)}</dt>"
          f"<dd>{text(paired(model.against_baseline, metric))}</dd>"
          for arm in run.arms for model in run.of(arm) if model.against_baseline]
  if rows:
    yield f"<h3>{metric.noun} against the hand-made baseline</h3>"
    yield f'<dl class="wide">{"".join(rows)}</dl>'
    yield ('<p class="soft note">Difference with its 95% interval and two-sided p-value, paired bootstrap over the test'
           f" sentences; not distinguishable from p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{LEVEL} on.</p>")


def lengths(run: Run) -> Iterator[str]:
  """How FLOPs grow with the length of the input."""
  columns, yard = tables.lengths(run), yardstick(run)
  if columns:
    rows = []
    for arm in run.arms:
      counted = [[model.flops_by_length[length] for model in run.of(arm) if length in model.flops_by_length]
                 for length in columns]
      rows.append([named(run, arm), *(spread(flops).show(si) if flops else "–" for flops in counted)])
    yield "<h3>FLOPs by length</h3>"
    yield table(["arm", *(f"{length:,} {yard.step}" for length in columns)], rows)
    yield f'<p class="soft note">{yard.lengths}, otherwise counted as the FLOPs above.</p>'


def side_by_side(run: Run) -> Iterator[str]:
  """A few test sentences with the translations of every network."""
  if run.texts is None or not run.texts.outputs:
    return
  yield "<h2>Translations side by side</h2>"
  seed = f" Networks of seed {run.texts.seed}." * (len(run.seeds) > 1)
  yield (f'<p class="soft">Chosen by rule: {MOST_DIFFERENT} sentences of middling length whose translations differ'
         f" most, then {len(SHORT)} short ones. A check mark is a translation equal to the reference.{seed}</p>")
  for index in chosen(run.texts):
    yield _example(run, run.texts, index)


def chosen(texts: Texts) -> tuple[int, ...]:
  """Positions of the sentences that are shown: those whose translations differ most, then short ones.

  The former are taken from the middle half of the sentences by length, as the shortest differ wholly or not at all and
  the longest are hard to read; the latter stand at fixed shares of the sentences in order of length.
  """
  num = len(texts.sources)
  by_length = sorted(range(num), key=lambda i: (len(texts.sources[i]), i))
  middle = by_length[num // 4 : num - num // 4]
  different = sorted(middle, key=lambda i: (-_difference([lines[i] for lines in texts.outputs.values()]), i))
  short = (by_length[int(share * num)] for share in SHORT)
  return tuple(dict.fromkeys((*different[:MOST_DIFFERENT], *short)))


def _difference(lines: list[str]) -> float:
  """Share of words that two translations do not have in common, added up over all pairs."""
  bags = [collections.Counter(line.split()) for line in lines]
  sizes = [sum(bag.values()) for bag in bags]
  total = 0.0
  for (one, size), (two, other) in itertools.combinations(zip(bags, sizes), 2):
    if size + other:
      total += 1 - 2 * (one & two).total() / (size + other)
  return total


def _example(run: Run, texts: Texts, index: int) -> str:
  """One sentence; networks that say the same share a line."""
  data, reference = run.experiment["dataset"], texts.references[index]
  said: dict[str, list[str]] = {}
  for arm, lines in texts.outputs.items():
    said.setdefault(lines[index], []).append(arm)
  rows = [("source", data["source_language"], text(texts.sources[index])),
          ("reference", data["target_language"], text(reference))]
  for line, arms in said.items():
    check = "\N{NO-BREAK SPACE}✓" if line.strip() == reference.strip() else ""
    names = "<br>".join(named(run, arm) for arm in sorted(arms, key=run.arms.index))
    rows.append((names, data["target_language"], (text(line) or '<span class="soft">(nothing)</span>') + check))
  body = "".join(f'<dt>{name}</dt><dd lang="{text(language)}" dir="auto">{line}</dd>' for name, language, line in rows)
  return f'<dl class="wide example">{body}</dl>'
