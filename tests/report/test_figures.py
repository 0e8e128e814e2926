"""The pictures show the numbers of the run."""

import json

import numpy as np
import pytest

from nasformer.report import figures, tables
from nasformer.report.load import load
from nasformer.report.measures import FLOPS, yardstick


def labels(figure):
  return [text.get_text() for text in figure.legends[0].get_texts()]


def marks(axes, label):
  """Centres of the large marks of an arm."""
  (found,) = [dots for dots in axes.collections if dots.get_label() == label]
  return np.asarray(found.get_offsets())


def test_fronts_show_winners_baseline_limit_and_every_candidate(any_workdir):
  run = load(any_workdir(seeds=(0, 1), generations=3, population=10))
  figure = figures.fronts(run)
  (axes,) = figure.axes
  assert labels(figure) == ["mixed", "softmax", "linear", "baseline"]
  for arm in run.arms:
    np.testing.assert_array_equal(marks(axes, arm), [(model.flops, model.val_inherited) for model in run.of(arm)])
  dots = [dots for dots in axes.collections if dots.get_label() not in run.arms]
  assert sum(len(d.get_offsets()) for d in dots) == 2 * 3 * 30
  assert any(list(line.get_xdata()) == [1e6, 1e6] for line in axes.lines)
  assert "limit 1M" in [text.get_text() for text in axes.texts]
  assert [axes.xaxis.get_major_formatter()(x) for x in (4e5, 1.385e6, 0.25)] == ["400k", "1.385M", "0.25"]
  assert axes.get_ylabel() == yardstick(run).inherited.axis
  assert axes.yaxis.get_major_formatter()(0.95) == ("95%" if yardstick(run).maximise else "0.95")


@pytest.mark.parametrize("task, edge, kept", [("images", 0, 1), ("text", 1, 0)])
def test_fronts_cut_off_the_bad_end_of_the_axis_only(workdir, task, edge, kept):
  path = workdir(task=task)
  lines = (path / "trials.jsonl").read_text().splitlines()
  bad = json.loads(lines[0]) | {"accuracy": 0.1, "loss": 9.0, "flops": 999_999, "fitness": -9.0}
  (path / "trials.jsonl").write_text("\n".join([*lines, json.dumps(bad | {"generation": 12})]))
  run = load(path)
  limits = figures.fronts(run).axes[0].get_ylim()
  values = np.concatenate([trials.quality for trials in run.trials])
  extremes = values.min(), values.max()
  assert (limits[edge] > extremes[edge]) == (edge == 0)  # the worst candidate is outside, the best inside
  assert (limits[kept] > extremes[kept]) == (kept == 1)


def test_many_candidates_are_drawn_as_pixels(workdir):
  small = figures.to_svg(figures.fronts(load(workdir(generations=2, population=10))))
  large = figures.to_svg(figures.fronts(load(workdir(generations=30, population=30))))
  assert "data:image/png" not in small and "data:image/png" in large
  assert len(large) < 400_000


def test_retrained_shows_means_with_their_deviations(any_workdir):
  run = load(any_workdir(seeds=(0, 1, 2)))
  (axes,) = figures.retrained(run, FLOPS, "FLOPs").axes
  for arm in run.arms:
    row = tables.spreads(run, arm)
    np.testing.assert_allclose(marks(axes, arm), [(row["flops"].mean, row[yardstick(run).test.name].mean)])
  assert len(axes.containers) == 4  # error bars
  assert axes.get_xlabel() == "FLOPs" and axes.get_ylabel() == yardstick(run).test.axis


def test_a_network_that_two_arms_share_shows_both(workdir):
  run = load(workdir())
  _, axes = figures.canvas("")
  for arm, points in (("softmax", [(1.38e6, 0.986)]), ("baseline", [(1.38e6, 0.986), (1.37e6, 0.986)])):
    figures._marks(run, axes, arm, points)
  (sizes,), (small, large) = (dots.get_sizes() for dots in axes.collections)
  assert small < sizes == large


def test_a_single_seed_shows_the_interval_of_bleu(workdir):
  run = load(workdir(task="text"))
  (axes,) = figures.retrained(run, FLOPS, "FLOPs").axes
  for arm, container in zip(run.arms, axes.containers, strict=True):
    (model,) = run.of(arm)
    _, _, (bars,) = container
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [model.test["bleu_low"], model.test["bleu_high"]])


@pytest.mark.parametrize("column", ["best_fitness", "hypervolume"])
def test_progress_has_a_line_per_search_and_a_label_per_arm(any_workdir, column):
  run = load(any_workdir(seeds=(0, 1), generations=4, population=5))
  figure = figures.progress(run, column, "title", "label")
  (axes,) = figure.axes
  assert len(axes.lines) == 6 and labels(figure) == ["mixed", "softmax", "linear"]
  rows = [row for row in tables.progress(run) if (row["arm"], row["seed"]) == ("mixed", 0)]
  np.testing.assert_array_equal(axes.lines[0].get_xdata(), [5, 10, 15, 20])
  np.testing.assert_array_equal(axes.lines[0].get_ydata(), [row[column] for row in rows])


def test_agreement_has_a_mark_per_network(any_workdir):
  run = load(any_workdir(seeds=(0, 1)))
  (axes,) = figures.agreement(run).axes
  np.testing.assert_array_equal(
      marks(axes, "linear"), [(model.val_inherited, model.val_retrained) for model in run.of("linear")])


def test_losses_have_a_line_per_training(workdir):
  run = load(workdir(seeds=(0, 1)))
  supernets = figures.losses(run, run.curves[:2], "Supernet")
  assert len(supernets.axes[0].lines) == 2 and labels(supernets) == ["supernet"]
  assert labels(figures.losses(run, run.curves[2:], "Retraining")) == ["baseline", "linear", "mixed", "softmax"]


@pytest.mark.parametrize("change", [
    {"accuracy": 0.9, "loss": 0.1, "fitness": -0.1}, {"flops": 1000},
    {"accuracy": None, "loss": None, "fitness": None}])
def test_flat_and_failed_searches_can_be_drawn(any_workdir, change):
  path = any_workdir(generations=2, population=3)
  rows = [json.loads(line) | change for line in (path / "trials.jsonl").read_text().splitlines()]
  (path / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  run = load(path)
  for figure in (figures.fronts(run), figures.progress(run, "best_fitness", "", ""),
                 figures.progress(run, "hypervolume", "", "")):
    assert figures.to_png(figure).startswith(b"\x89PNG")


def test_the_same_run_gives_the_same_bytes(workdir):
  run = load(workdir())
  one, two = figures.fronts(run), figures.fronts(run)
  assert figures.to_svg(one) == figures.to_svg(two) and figures.to_png(one) == figures.to_png(two)
