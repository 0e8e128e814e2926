"""Pieces of markup."""

import html.parser

import pytest

from nasformer.report import markup, palette
from nasformer.report.load import load

SVG = """<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="324pt" height="244.8pt" viewBox="0 0 324 244.8"
 xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata><rdf:RDF xmlns:dc="http://purl.org/dc/elements/1.1/"></rdf:RDF></metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <g id="figure_1"><path id="m1" d="M 0 0"/><use xlink:href="#m1" clip-path="url(#p2)"/></g>
 <clipPath id="p2"/><image xlink:href="data:image/png;base64,AAAA"/></svg>"""


def well_formed(text):
  """Fails unless every tag that needs it is closed, in order."""
  stack, void = [], {"meta", "br", "image", "path", "use"}

  class Parser(html.parser.HTMLParser):
    def handle_starttag(self, tag, attrs):
      stack.extend([tag] if tag not in void else [])

    def handle_startendtag(self, tag, attrs):
      pass

    def handle_endtag(self, tag):
      if tag not in void:
        assert stack.pop() == tag

  Parser().feed(text)
  return not stack


def test_a_drawing_needs_nothing_from_outside_and_keeps_its_ids_to_itself():
  text = markup.drawing("layers_any kind", SVG, "what < it shows")
  assert "http" not in text and "<style" not in text and "xmlns" not in text
  assert 'id="layers_any-kind-m1"' in text and 'href="#layers_any-kind-m1"' in text
  assert "url(#layers_any-kind-p2)" in text and 'id="layers_any-kind-p2"' in text
  assert 'href="data:image/png;base64,AAAA"' in text and "figure_1" not in text
  assert "width=" not in text and 'viewBox="0 0 324 244.8"' in text
  assert "<figcaption>what &lt; it shows</figcaption>" in text and well_formed(text)
  assert "figcaption" not in markup.drawing("x", SVG, "")


def test_tables_escape_headings_and_keep_cells():
  text = markup.table(["a<b"], [["<b>1</b>"], ["2"]])
  assert "<th scope=\"col\">a&lt;b</th>" in text and "<td><b>1</b></td>" in text and text.count("<tr>") == 3
  assert well_formed(text)


def test_a_page_escapes_its_title_and_is_whole():
  text = markup.page("a & b", ["<p>one</p>", "<p>two</p>"])
  assert "<title>a &amp; b</title>" in text and "<p>one</p>\n<p>two</p>" in text and well_formed(text)
  assert 'name="viewport"' in text


def test_names_have_the_colour_of_their_arm_and_gaps_are_escaped(workdir):
  run = load(workdir(generations=1, population=2, until="search"))
  assert markup.named(run, "mixed") == markup.dot(palette.COLOURS["mixed"]) + "mixed"
  assert markup.named(run, "baseline").endswith("hand-made baseline")
  assert "Not here yet: a &lt; b." in markup.missing("a < b")


@pytest.mark.parametrize("parts, widths", [([(0.25, "#111"), (0.75, "#222")], ["25.00%", "75.00%"]), ([], [])])
def test_bars_show_shares(parts, widths):
  text = markup.bar(parts)
  assert all(f"width:{width}" in text for width in widths) and text.count("<span") == len(parts)
