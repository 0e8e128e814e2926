"""Pictures of what the search chose in each layer."""

import matplotlib.patches
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nasformer.report import palette
from nasformer.report.figures import WIDTH, styled
from nasformer.report.run import Run
from nasformer.types import EncoderSpec, TranslationSpec

GAP = 0.8  # between encoder and decoder, in columns
ROWS = {"self": 4.55, "cross": 3.55, "span": 2.75, "MLP": 0.8}  # heights of the middles, in squares
WIDEST = 1.6  # height of the widest MLP


@styled
def layers(run: Run, arm: str) -> Figure:
  """The networks of an arm, layer by layer; one that several seeds found is drawn once."""
  specs = {model.spec: [other.seed for other in run.of(arm) if other.spec == model.spec] for model in run.of(arm)}
  titles = {spec: f"{arm}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" for spec, seeds in specs.items()}
  everything = [model.spec for model in run.models]
  kinds = sorted({kind for spec in everything for kind in _kinds(spec)})
  draw = _encoder_decoders if isinstance(everything[0], TranslationSpec) else _encoders
  figure = draw(titles, everything, kinds)
  handles = [matplotlib.patches.Patch(color=palette.colour(kind, kinds), label=kind) for kind in kinds]
  figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds) if len(kinds) <= 4 else 3)
  return figure


def _kinds(spec: EncoderSpec | TranslationSpec) -> list[str]:
  if isinstance(spec, EncoderSpec):
    return [layer.kind for layer in spec.layers]
  return [layer.kind for layer in (*spec.encoder, *spec.decoder)] + [layer.cross_kind for layer in spec.decoder]


# -- encoders ----------------------------------------------------------------------------------------------------------


def _encoders(titles: dict[EncoderSpec, str], everything: list[EncoderSpec], kinds: list[str]) -> Figure:
  """Bars whose height is the FFN width, whose colour is the attention kind, and whose label is the number of heads."""
  depth, widest = max(spec.depth for spec in everything), max(x.ffn_dim for spec in everything for x in spec.layers)
  figure = Figure((WIDTH, 0.75 + 1.25 * len(titles)))
  panels = figure.subplots(len(titles), squeeze=False, sharex=True)[:, 0]
  for axes, (spec, title) in zip(panels, titles.items()):
    _bars(axes, spec, kinds)
    axes.set_title(f"{title}: {_side(spec.layers, spec.embed_dim)}")
    axes.set(xlim=(0.4, depth + 0.6), ylim=(0, 1.3 * widest), ylabel="FFN width", xticks=range(1, depth + 1))
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3, integer=True))
  panels[-1].set_xlabel("layer")
  return figure


def _bars(axes: Axes, spec: EncoderSpec, kinds: list[str]) -> None:
  for i, layer in enumerate(spec.layers, 1):
    axes.bar(i, layer.ffn_dim, 0.8, color=palette.colour(layer.kind, kinds))
    axes.annotate(str(layer.num_heads), (i, layer.ffn_dim), (0, 2), textcoords="offset points", ha="center")
  axes.grid(axis="x", visible=False)


# -- encoders with decoders --------------------------------------------------------------------------------------------


def _encoder_decoders(
    titles: dict[TranslationSpec, str], everything: list[TranslationSpec], kinds: list[str]
) -> Figure:
  """A column per layer: squares for the attention modules, in rows, over a bar for the MLP."""
  deepest, decoders = max(len(spec.encoder) for spec in everything), max(len(spec.decoder) for spec in everything)
  widest = max(layer.ffn_dim for spec in everything for layer in (*spec.encoder, *spec.decoder))
  figure = Figure((WIDTH, 0.35 + 2.2 * len(titles)))
  figure.get_layout_engine().set(h_pad=0.08)
  panels = figure.subplots(len(titles), squeeze=False)[:, 0]
  for axes, (spec, title) in zip(panels, titles.items()):
    _columns(axes, spec.encoder, 0.0, widest, kinds)
    _columns(axes, spec.decoder, deepest + GAP, widest, kinds)
    axes.set_title(title, pad=17)
    axes.annotate(f"encoder: {_side(spec.encoder, spec.encoder_embed_dim)}; decoder:"
                  f" {_side(spec.decoder, spec.decoder_embed_dim)}", (0, 1), (0, 4), color=palette.SOFT,
                  xycoords="axes fraction", textcoords="offset points")
    ticks = {i: str(i) for i in range(1, deepest + 1)} | {deepest + GAP + i: str(i) for i in range(1, decoders + 1)}
    axes.set_xticks([*ticks], [*ticks.values()])
    for name, middle in (("encoder", (deepest + 1) / 2), ("decoder", deepest + GAP + (decoders + 1) / 2)):
      axes.annotate(name, (middle, 0), (0, -15), color=palette.SOFT, ha="center", va="top",
                    xycoords=("data", "axes fraction"), textcoords="offset points")
    axes.set_yticks([*ROWS.values()], [*ROWS])
    axes.set(xlim=(0.4, deepest + GAP + decoders + 0.6), ylim=(0, ROWS["self"] + 0.5))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
  return figure


def _side(layers: tuple, width: int) -> str:
  return f"{len(layers)} layer{'s' * (len(layers) > 1)}, width {width}"


def _columns(axes: Axes, layers: tuple, start: float, widest: int, kinds: list[str]) -> None:
  for x, layer in enumerate(layers, 1):
    x += start
    _square(axes, x, ROWS["self"], layer.kind, layer.num_heads, kinds)
    if hasattr(layer, "cross_kind"):
      _square(axes, x, ROWS["cross"], layer.cross_kind, layer.cross_num_heads, kinds)
      axes.text(x, ROWS["span"], str(layer.span), ha="center", va="center", color=palette.SOFT)
    height = WIDEST * layer.ffn_dim / widest
    axes.bar(x, height, 0.8, color=palette.RULE)
    axes.annotate(str(layer.ffn_dim), (x, height), (0, 1), textcoords="offset points", ha="center", fontsize=8)


def _square(axes: Axes, x: float, y: float, kind: str, heads: int, kinds: list[str]) -> None:
  colour = palette.colour(kind, kinds)
  axes.add_patch(matplotlib.patches.Rectangle((x - 0.4, y - 0.4), 0.8, 0.8, color=colour, lw=0))
  axes.text(x, y, str(heads), ha="center", va="center", color=palette.ink_on(colour))
