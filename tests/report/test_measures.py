"""Every task can be reported on; the numbers of each are taken from where they lie and called by their names."""

import math

import numpy as np
import pytest

from nasformer import tasks
from nasformer.registry import lookup
from nasformer.report import measures
from nasformer.report.load import load


@pytest.mark.parametrize("name", tasks.TABLE)
def test_every_task_has_a_yardstick(name):
  assert lookup(tasks.TABLE, name, "task").headline in measures.YARDSTICKS


@pytest.mark.parametrize("yard", measures.YARDSTICKS.values(), ids=list(measures.YARDSTICKS))
def test_columns_have_names_of_their_own(yard):
  names = [metric.name for metric in (*yard.metrics, *yard.more)]
  labels = [metric.label for metric in (*yard.metrics, *yard.more)]
  assert len(set(names)) == len(names) and len(set(labels)) == len(labels)
  assert yard.test.noun and yard.inherited.noun and yard.searched in yard.inherited.label.lower()
  assert yard.retrained.best is yard.inherited.best


def test_values_come_from_their_place(any_workdir):
  run = load(any_workdir())
  yard = measures.yardstick(run)
  for model in run.models:
    assert yard.test.of(model) == model.test[run.experiment["headline"]]
    assert (yard.retrained.of(model), yard.inherited.of(model)) == (model.val_retrained, model.val_inherited)
    assert [metric.of(model) for metric in measures.COSTS] == [
        model.params, model.flops, model.latency_ms["median_ms"]]


def test_what_is_not_measured_is_none(any_workdir):
  run = load(any_workdir(until="search"))
  yard = measures.yardstick(run)
  for metric in (yard.test, *yard.more, yard.retrained, measures.LATENCY):
    assert {metric.of(model) for model in run.models} == {None} == {metric.interval(model) for model in run.models}


def test_columns_of_translation(workdir):
  (model, *_) = load(workdir(task="text")).models
  found = {metric.name: metric.of(model) for metric in measures.BLEU.more}
  assert found == {"chrf": model.test["chrf"], "bleu_tokenised": model.test["bleu_tokenised"],
                   "exact_match": model.test["exact_match"], "test_loss": model.test["loss"],
                   "test_smoothed_bits": model.test["smoothed_bits"]}
  assert measures.BLEU.test.interval(model) == (model.test["bleu_low"], model.test["bleu_high"])
  assert not measures.BLEU.maximise and measures.ACCURACY.maximise


def test_sampling_errors(workdir):
  images, text = load(workdir()).of("mixed"), load(workdir(task="text")).of("mixed")
  rate, (low, high) = images[0].test["accuracy"], measures.BLEU.test.interval(text[0])
  assert measures.ACCURACY.error(images, 360) == pytest.approx(math.sqrt(rate * (1 - rate) / 360))
  # a 95% interval of a normal distribution is 2 x 1.96 standard errors wide
  assert measures.BLEU.error(text, 40) == pytest.approx((high - low) / 3.92)


def test_guesses():
  assert measures.ACCURACY.guess({"class_names": ["a", "b", "c", "d"]}) == 0.25
  assert measures.ACCURACY.guess({"class_names": ["a"]}) == 0
  # all tokens as likely as each other: a loss of -ln(1 / 512)
  np.testing.assert_allclose(measures.BLEU.guess({"target_vocab": 512}), -np.log(1 / 512))


@pytest.mark.parametrize("yard, gain, words", [
    (measures.ACCURACY, 0.07, "7.0 points more accurate"), (measures.ACCURACY, -0.0123, "1.2 points less accurate"),
    (measures.ACCURACY, 0.0004, "as accurate"), (measures.BLEU, 0.82, "better by 0.8 BLEU"),
    (measures.BLEU, -1.25, "worse by 1.2 BLEU"), (measures.BLEU, -0.04, "as good"),
])
def test_gains_in_words(yard, gain, words):
  assert yard.gain(gain) == words


def test_axes_say_what_the_numbers_do_not():
  assert measures.ACCURACY.inherited.axis == "validation accuracy, inherited"
  assert measures.BLEU.inherited.axis == "validation loss, inherited (nats per token)"
  assert measures.BLEU.test.axis == "test BLEU, retrained"
  assert measures.BLEU.inherited.unit.full(6.2383) == "6.238 nats per token"
  assert measures.PERCENT.full(0.1) == "10.0%"
