"""Pieces of a page: tables, figures and sections as HTML text. Nothing is fetched: no links out, fonts or scripts."""

import html
import re
from typing import Iterable, Sequence

from nasformer.report import palette
from nasformer.report.run import Run, called

CSS = """
:root { color-scheme: light; --ink: #202124; --soft: #5f6368; --line: #dadce0; --faint: #f1f3f4; }
* { box-sizing: border-box; }
body, figure svg text {
  font-family: -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif !important; }
body { margin: 0 auto; max-width: 1120px; padding: 30px 24px 56px; color: var(--ink); background: #fff;
  font-size: 16px; line-height: 1.5; }
h1 { font-size: 31px; line-height: 1.22; letter-spacing: -0.012em; margin: 8px 0 14px; max-width: 860px; }
h2 { font-size: 21px; margin: 46px 0 8px; padding-top: 20px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 22px 0 4px; }
p { margin: 8px 0; max-width: 780px; }
.soft, figcaption { color: var(--soft); }
.note, figcaption { font-size: 14px; line-height: 1.45; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 14px; margin: 24px 0 8px; }
.card { border: 1px solid var(--line); border-top: 4px solid var(--arm); border-radius: 8px; padding: 12px 16px 14px; }
.card h3 { margin: 0; font-size: 15px; }
.card .big { font-size: 28px; font-weight: 650; line-height: 1.2; margin: 6px 0 0; letter-spacing: -0.01em; }
.card .big small { display: block; font-size: 13.5px; font-weight: 400; color: var(--soft); letter-spacing: 0; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 14px; margin: 10px 0 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.card dd { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 24px 32px;
  margin: 16px 0; }
.grid > * { min-width: 0; }
figure { margin: 0; } figure svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { margin-top: 6px; }
.scroll { overflow-x: auto; margin: 14px 0; background:
  linear-gradient(to left, #fff 30%, transparent) right / 48px 100% no-repeat local,
  linear-gradient(to left, #dadce0, transparent) right / 14px 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: 14.5px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 7px 0 7px 18px; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: 13px; line-height: 1.3; vertical-align: bottom;
  white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: #fff; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
.bar { display: flex; width: 190px; height: 12px; border-radius: 3px; overflow: hidden; background: var(--faint);
  margin-left: auto; }
.wide { max-width: 900px; margin: 12px 0; }
.example { grid-template-columns: 160px 1fr; border-top: 1px solid var(--faint); padding: 8px 0 10px; margin: 0; }
pre { background: #f8f9fa; border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; font-size: 13px;
  line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere; margin: 10px 0; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--soft); font-size: 14px; }
@media (max-width: 560px) {
  body { padding: 18px 16px 36px; } h1 { font-size: 24px; } h2 { font-size: 19px; margin-top: 34px; }
  .cards { grid-template-columns: 1fr; gap: 10px; }
  .wide { grid-template-columns: 1fr; } .wide dd { margin-bottom: 4px; }
  .example { grid-template-columns: 104px 1fr; } .example dd { margin-bottom: 0; }
}
@media print { body { max-width: none; } figure, .card { break-inside: avoid; } }
"""


def text(value: object) -> str:
  """Escapes what is not markup."""
  return html.escape(str(value))


def page(title: str, parts: Iterable[str]) -> str:
  """A whole document."""
  body = "\n".join(parts)
  return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
          f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{text(title)}</title>\n'
          f"<style>{CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table that scrolls by itself on narrow screens. Cells are markup, headings are plain text."""
  heads = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
  body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
  return (f'<div class="scroll"><table>\n<thead><tr>{heads}</tr></thead>\n'
          f"<tbody>\n{body}\n</tbody>\n</table></div>")


def dot(colour: str) -> str:
  """A small square in the colour of an arm."""
  return f'<span class="dot" style="background:{colour}"></span>'


def named(run: Run, arm: str) -> str:
  """The name of an arm behind its colour."""
  return dot(palette.colour(arm, run.arms)) + text(called(arm))


def missing(what: str) -> str:
  """A gap, and what would fill it."""
  return f'<p class="soft">Not here yet: {text(what)}.</p>'


def bar(parts: Sequence[tuple[float, str]]) -> str:
  """A horizontal bar of (share, colour) pieces."""
  pieces = "".join(f'<span style="width:{100 * share:.2f}%;background:{colour}"></span>' for share, colour in parts)
  return f'<div class="bar">{pieces}</div>'


def drawing(name: str, svg: str, caption: str) -> str:
  """An SVG document put into the page with its caption; `name` keeps its ids apart from those of other drawings."""
  below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
  return f'<figure>{_inline(re.sub(r"[^a-z0-9_]", "-", name.lower()), svg)}{below}</figure>'


def _inline(name: str, svg: str) -> str:
  """Leaves out what only a separate file needs: prolog, namespaces, size, style sheet, ids that nothing refers to."""
  svg = svg[svg.index("<svg"):]
  svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.S)
  svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)
  svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
  svg = re.sub(r'<svg ([^>]*?)width="[^"]*" ?([^>]*?)height="[^"]*"', r"<svg \1\2", svg, count=1)
  return svg.replace("<svg ", f'<svg role="img" aria-label="{text(name)}" ', 1).strip()
