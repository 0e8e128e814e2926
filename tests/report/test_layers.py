"""The pictures of layers show what is in the specs."""

import json

import pytest
from matplotlib.patches import Rectangle

from nasformer.report import figures, palette
from nasformer.report.layers import _encoders, layers
from nasformer.report.load import load
from nasformer.types import EncoderSpec, LayerSpec

KINDS = ["linear", "softmax"]


def labels(figure):
  return [text.get_text() for text in figure.legends[0].get_texts()]


def hexadecimal(colour):
  return "#" + "".join(f"{round(255 * part):02X}" for part in colour[:3])


def test_layers_show_width_kind_and_heads_of_each_seed(workdir):
  run = load(workdir(seeds=(0, 1)))
  figure = layers(run, "mixed")
  assert labels(figure) == KINDS
  for axes, model in zip(figure.axes, run.of("mixed"), strict=True):
    assert [bar.get_height() for bar in axes.patches] == [layer.ffn_dim for layer in model.spec.layers]
    assert [text.get_text() for text in axes.texts] == [str(layer.num_heads) for layer in model.spec.layers]
    shown = [palette.colour(layer.kind, KINDS) for layer in model.spec.layers]
    assert [hexadecimal(bar.get_facecolor()) for bar in axes.patches] == shown
    assert axes.get_title("left") == (
        f"mixed, seed {model.seed}: {model.spec.depth} layers, width {model.spec.embed_dim}")


@pytest.mark.parametrize("depth, words", [(1, "1 layer, width 8"), (2, "2 layers, width 8")])
def test_the_number_of_layers_in_words(depth, words):
  spec = EncoderSpec(8, (LayerSpec("softmax", 2, 4, 16),) * depth)
  (axes,) = _encoders({spec: "mixed"}, [spec], ["softmax"]).axes
  assert axes.get_title() == f"mixed: {words}"


def test_a_translation_shows_every_module_of_encoder_and_decoder(workdir):
  run = load(workdir(seeds=(0, 1), task="text"))
  figure = layers(run, "mixed")
  assert labels(figure) == KINDS and len(figure.axes) == 2
  for axes, model in zip(figure.axes, run.of("mixed"), strict=True):
    spec, written = model.spec, [text.get_text() for text in axes.texts]
    modules = [(layer.kind, layer.num_heads) for layer in spec.encoder]
    for layer in spec.decoder:
      modules += [(layer.kind, layer.num_heads), (layer.cross_kind, layer.cross_num_heads)]
    bars = [patch for patch in axes.patches if patch.get_y() == 0]
    squares = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_y() != 0]
    assert [hexadecimal(patch.get_facecolor()) for patch in squares] == [
        palette.colour(kind, KINDS) for kind, _ in modules]
    widths = [layer.ffn_dim for layer in (*spec.encoder, *spec.decoder)]
    assert len(bars) == len(widths)
    for bar, width in zip(bars, widths):
      assert bar.get_height() / bars[0].get_height() == pytest.approx(width / widths[0])
    per_layer = [[str(x.num_heads), str(x.ffn_dim)] for x in spec.encoder] + [
        [str(x.num_heads), str(x.cross_num_heads), str(x.span), str(x.ffn_dim)] for x in spec.decoder]
    assert written[: sum(map(len, per_layer))] == sum(per_layer, [])
    assert axes.get_title("left") == f"mixed, seed {model.seed}"
    assert any(f"width {spec.encoder_embed_dim}; decoder: {len(spec.decoder)} layer" in line
               and line.endswith(f"width {spec.decoder_embed_dim}") for line in written)


def test_squares_and_bars_of_a_layer_stand_in_one_column(workdir):
  run = load(workdir(task="text"))
  (axes,) = layers(run, "softmax").axes
  (model,) = run.of("softmax")
  columns = {round(patch.get_x() + patch.get_width() / 2, 6) for patch in axes.patches}
  assert len(columns) == len(model.spec.encoder) + len(model.spec.decoder)


def test_a_network_that_several_seeds_share_is_drawn_once(workdir):
  (axes,) = layers(load(workdir(seeds=(0, 1, 2))), "baseline").axes
  assert axes.get_title("left").startswith("baseline, seeds 0, 1, 2: ")


def test_many_kinds_share_a_legend_of_several_rows(workdir):
  path = workdir(task="text", until="search")
  tree = json.loads((path / "winner.json").read_text())
  for i, layer in enumerate(tree["winners"][0]["spec"]["encoder"] + tree["winners"][1]["spec"]["encoder"]):
    layer["kind"] = f"kind{i}"
  (path / "winner.json").write_text(json.dumps(tree))
  figure = layers(load(path), "mixed")
  assert len(labels(figure)) > 4 and figures.to_png(figure).startswith(b"\x89PNG")
