"""The sections of the page. Each yields markup from a run and its drawings, and says so where data is missing."""

import json
import shlex
from typing import Iterator, Mapping, Sequence

from nasformer.report import palette, tables, translations, trust
from nasformer.report.markup import bar, dot, missing, named, table, text
from nasformer.report.measures import COSTS, Metric, yardstick
from nasformer.report.numbers import Number, compared, interval, lower_first, milliseconds, si, three_digits
from nasformer.report.run import BASELINE, Model, Run, called
from nasformer.report.verdict import verdict
from nasformer.types import TranslationSpec

Drawings = Mapping[str, str]

DUPLICATE, REJECTED = palette.RULE, palette.SOFT
EARLIER = {"predicted": "predicted_ms", "in the search": "search_ms"}  # latencies known before the last measurement


def first_screen(run: Run, drawings: Drawings) -> Iterator[str]:
  """What was found, in words and in one card per arm."""
  data, found = run.experiment["dataset"], verdict(run)
  seeds, examples = f"{len(run.seeds)} seed{'s' * (len(run.seeds) != 1)}", yardstick(run).examples
  yield (f'<p class="soft note">nasformer report · {text(data["name"])} · {data["num_train"]:,} training,'
         f' {data["num_val"]:,} validation, {data["num_test"]:,} test {examples} · '
         f"{text(yardstick(run).described(data))} · {seeds} · {text(run.experiment['device'])}</p>")
  yield f"<h1>{text(found.title)}</h1>"
  first, *others = found.lines
  yield f"<p>{text(first)}</p>"
  if run.models:
    yield f'<div class="cards">{"".join(_card(run, arm) for arm in run.arms if run.of(arm))}</div>'
  yield from (f'<p class="soft note">{text(line)}</p>' for line in (*others, data["note"]) if line)


def comparison(run: Run, drawings: Drawings) -> Iterator[str]:
  """The table of arms, and of every seed."""
  yield "<h2>Comparison</h2>"
  if not run.models:
    yield missing("no winner has been found; the stage search finds them")
    return
  yard, basis = yardstick(run), tables.basis(run)
  yield _compared(run, yard.metrics)
  yield (f'<p class="soft note">{basis[0].upper()}{basis[1:]}; bold is the best of a column. Inherited: with the'
         " weights of the supernet as they are. Retrained: trained from scratch, alone. The search never saw the test"
         f" split. {yard.notes}{text(run.experiment['counting'])}</p>")
  if yard.more and any(model.test for model in run.models):
    yield f"<h3>More of the test split</h3>{_compared(run, yard.more)}"
    yield f'<p class="soft note">{yard.more_notes}</p>'
    yield from translations.signatures(run)
  if len(run.seeds) > 1:
    metrics = (*yard.metrics, *yard.more)
    rows = [[named(run, model.arm), str(model.seed), *(tables.as_text(metric, model) for metric in metrics)]
            for arm in run.arms for model in run.of(arm)]
    yield (f"<details><summary>Every seed</summary>{table(['arm', 'seed', *(x.label for x in metrics)], rows)}"
           "</details>")
  yield from translations.against_baseline(run)


def against_cost(run: Run, drawings: Drawings) -> Iterator[str]:
  """The fronts of the search beside the retrained networks."""
  yard = yardstick(run)
  yield f"<h2>{yard.topic} against cost</h2>"
  yield from _grid(drawings, ["fronts", "retrained"])
  if "retrained" not in drawings:
    quality = lower_first(yard.test.label.split(",")[0])
    yield missing(f"nothing has been retrained; the stages retrain and evaluate give the {quality}")
  yield from translations.lengths(run)


def architectures(run: Run, drawings: Drawings) -> Iterator[str]:
  """Every winner, layer by layer."""
  yield "<h2>What was chosen in each layer</h2>"
  if not run.models:
    yield missing("no winner has been found; the stage search finds them")
    return
  if isinstance(run.models[0].spec, TranslationSpec):
    yield ('<p class="soft">A column is a layer: first those of the encoder, then those of the decoder. A square is an'
           " attention module, self-attention above cross-attention: its colour is the attention kind, the number in it"
           " the number of heads. Span: how many of the last encoder layers cross-attention attends to. A bar is the"
           " width of the MLP.</p>")
  else:
    yield ('<p class="soft">A bar is a layer: its colour is the attention kind, its height the FFN width, the number on'
           " it the number of heads.</p>")
  yield from _grid(drawings, [f"layers_{arm}" for arm in run.arms])


def examples(run: Run, drawings: Drawings) -> Iterator[str]:
  """Some translations, where the task makes any."""
  yield from translations.side_by_side(run)


def search(run: Run, drawings: Drawings) -> Iterator[str]:
  """Progress of the searches, and what became of their candidates."""
  yield "<h2>The search</h2>"
  if not run.trials:
    yield missing("no candidate has been evaluated; the stage search does that")
  yield from _grid(drawings, ["best", "hypervolume"])
  if any(model.search for model in run.models):
    limits = ", ".join(f"{cost} at most {si(limit)}" for cost, limit in run.limits.items())
    yield "<h3>What became of the candidates</h3>"
    yield f"<p>{'Limits: ' + text(limits) if limits else 'No limit was set'}.</p>"
    yield _effort(run)


def agreement(run: Run, drawings: Drawings) -> Iterator[str]:
  """Whether the weights of the supernet rank networks as retraining does."""
  yield "<h2>Does the supernet rank networks as retraining does?</h2>"
  rows = tables.agreement(run)
  if not rows:
    yield missing("fewer than two networks have been retrained")
  else:
    yield from _winners_agreement(run, drawings, rows)
  if run.trust:
    yield _beside(drawings, "trust", "".join(trust.measured(run)))


def _winners_agreement(run: Run, drawings: Drawings, rows: Sequence[Mapping]) -> Iterator[str]:
  heads = ["predictor", "τ, all networks", f"τ, within ±{100 * tables.NARROW:.0f}% of the median size"]
  shown = [[row["predictor"], _tau(row, "all"), _tau(row, "narrow")] for row in rows]
  note = (f"Kendall's τ with the retrained validation {yardstick(run).searched}:"
          " 1 is the same order, 0 no relation, −1 the reverse."
          " The number of parameters is there for comparison: it needs no supernet."
          f" With {rows[0]['num_all']} networks τ is an indication only.")
  yield _beside(drawings, "agreement", f'{table(heads, shown)}<p class="soft note">{note}</p>')


def latency(run: Run, drawings: Drawings) -> Iterator[str]:
  """Measured latency, beside the limit and what the search had measured."""
  yield "<h2>Measured latency</h2>"
  models = [model for arm in run.arms for model in run.of(arm) if model.latency_ms]
  if not models:
    yield missing("latency has not been measured; the stage evaluate does that")
    return
  earlier = {label: [getattr(model, name) for model in models] for label, name in EARLIER.items()}
  earlier = {label: values for label, values in earlier.items() if any(value is not None for value in values)}
  heads = ["arm", "seed", *earlier, "in the end, median" if earlier else "median", "10% to 90%"]
  before = zip(*earlier.values()) if earlier else [()] * len(models)
  rows = [[named(run, model.arm), str(model.seed), *("–" if value is None else three_digits(value) for value in values),
           *_latency_cells(run, model)] for model, values in zip(models, before)]
  runs = " or ".join(f"{runs:,}" for runs in sorted({model.latency_ms["runs"] for model in models}))
  limit = f"The limit was {milliseconds(run.limits['latency_ms'])}. " if "latency_ms" in run.limits else ""
  note = (f"{limit}Milliseconds, {runs} runs of the small compiled network on {text(run.latency['device'])}, batch"
          f" {run.latency['batch']}. {yardstick(run).timed}Other devices may order the networks differently.")
  yield _beside(drawings, "latency", f'{table(heads, rows)}<p class="soft note">{note}</p>')


def training(run: Run, drawings: Drawings) -> Iterator[str]:
  """Loss curves and the time that each stage took."""
  yield "<h2>Training</h2>"
  if not run.curves:
    yield missing("no training has written its metrics")
  yield from _grid(drawings, ["supernet_loss", "retrain_loss"])
  stages = dict.fromkeys(row["stage"] for row in run.timings if "compilations" in row)  # the others are parts of these
  if stages:
    rows = [[text(stage.removesuffix(" total")), f"{_total(run, stage, 'seconds'):,.1f}",
             f"{_total(run, stage, 'compilations'):,}"] for stage in stages]
    yield table(["stage", "seconds", "compilations"], rows)


def origin(run: Run, drawings: Drawings) -> Iterator[str]:
  """Command, seeds, device, versions, commit and configuration."""
  yield "<h2>How to get these numbers again</h2>"
  yield f"<pre>{text(shlex.join(run.experiment['command']))}</pre>"
  facts = {
      "Seeds": ", ".join(map(str, run.seeds)),
      "Device": run.experiment["device"],
      "Versions": ", ".join(f"{name} {version}" for name, version in run.experiment["versions"].items()),
      "Commit": run.experiment["commit"] or "not run from a git checkout",
      "Counting": run.experiment["counting"],
  }
  yield f'<dl>{"".join(f"<dt>{name}</dt><dd>{text(fact)}</dd>" for name, fact in facts.items())}</dl>'
  config = json.dumps(run.experiment["config"], indent=2)
  yield f"<details><summary>The whole configuration</summary><pre>{text(config)}</pre></details>"
  yield '<p class="soft note">Beside this page lie its pictures as PNG and its numbers as CSV, with every digit.</p>'


SECTIONS = (first_screen, comparison, against_cost, architectures, examples, search, agreement, latency, training,
            origin)


def _compared(run: Run, metrics: Sequence[Metric]) -> str:
  rows = [[named(run, arm), *(f"<b>{shown}</b>" if best else shown for shown, best in row)]
          for arm, row in tables.cells(run, metrics)]
  return table(["arm", *(metric.label for metric in metrics)], rows)


def _card(run: Run, arm: str) -> str:
  row, yard = tables.spreads(run, arm), yardstick(run)
  metric = yard.test if row[yard.test.name] else yard.inherited
  ends = {metric.interval(model) for model in run.of(arm)}
  facts = {"95% interval": interval(*ends.pop(), metric.unit.brief)} if len(ends) == 1 and None not in ends else {}
  facts |= {cost.label.split(",")[0]: cost.unit.table(row[cost.name].mean) for cost in COSTS if row[cost.name]}
  if arm != BASELINE and run.of(BASELINE):
    facts["vs. baseline"] = compared(row["flops"].mean, tables.spreads(run, BASELINE)["flops"].mean, "FLOPs")
  details = "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in facts.items())
  return (f'<div class="card" style="--arm:{palette.colour(arm, run.arms)}"><h3>{text(called(arm))}</h3>'
          f'<p class="big">{row[metric.name].show(metric.unit.brief)} <small>{metric.axis}</small></p>'
          f"<dl>{details}</dl></div>")


def _effort(run: Run) -> str:
  costs = list(dict.fromkeys(cost for model in run.models for cost in model.rejected))
  rows = []
  for arm in run.arms:
    searches = [row for row in tables.effort(run) if row["arm"] == arm]
    if searches:
      asked, evaluated, duplicates, *turned = (sum(row[name] or 0 for row in searches) for name in (
          "asked", "evaluated", "duplicates", *(f"rejected_{cost}" for cost in costs)))
      pieces = ((evaluated, palette.colour(arm, run.arms)), (duplicates, DUPLICATE), (sum(turned), REJECTED))
      total = max(sum(count for count, _ in pieces), 1)
      rows.append([named(run, arm), *(f"{count:,}" for count in (asked, evaluated, duplicates, *turned)),
                   bar([(count / total, colour) for count, colour in pieces])])
  heads = ["arm", "asked for", "evaluated", "seen before", *(f"over the {cost} limit" for cost in costs), "shares"]
  return (f'{table(heads, rows)}<p class="soft note">Sums over seeds. A proposal over a counted limit is turned away'
          " and replaced by one within it. In the bars: evaluated in the colour of the arm,"
          f" {dot(DUPLICATE)}seen before, {dot(REJECTED)}turned away.</p>")


def _tau(row: Mapping, where: str) -> str:
  value = "–" if row[f"tau_{where}"] is None else f"{row[f'tau_{where}']:.2f}".replace("-", "−")
  return f'{value} <span class="soft">(n = {row[f"num_{where}"]})</span>'


def _latency_cells(run: Run, model: Model) -> Iterator[str]:
  measured = model.latency_ms
  over = "latency_ms" in run.limits and measured["median_ms"] > run.limits["latency_ms"]
  yield ("<b>over the limit</b> " if over else "") + three_digits(measured["median_ms"])
  yield f"{three_digits(measured['p10_ms'])} to {three_digits(measured['p90_ms'])}"


def _total(run: Run, stage: str, name: str) -> Number:
  return sum(row[name] for row in run.timings if row["stage"] == stage and name in row)


def _grid(drawings: Drawings, names: list[str]) -> Iterator[str]:
  drawn = [drawings[name] for name in names if name in drawings]
  if drawn:
    yield f'<div class="grid">{"".join(drawn)}</div>'


def _beside(drawings: Drawings, name: str, markup: str) -> str:
  drawn = drawings[name] if name in drawings else ""
  return f'<div class="grid">{drawn}<div>{markup}</div></div>'
