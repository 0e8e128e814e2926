import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry
from nasformer.attention.softmax import Softmax
from nasformer.data.base import Info
from nasformer.data.sequences import Ragged, Split
from nasformer.data.series import SeriesInfo
from nasformer.data.texts import TextsInfo
from nasformer.nets.encoder import EncoderTransformer
from nasformer.nets.vision import Vision
from nasformer.space.encoder import Encoder
from nasformer.tasks.classification import Classification, refuse_grids
from nasformer.tasks.image_classification import ImageClassification
from nasformer.tasks.series_classification import SeriesClassification
from nasformer.tasks.text_classification import TextClassification
from nasformer.types import EncoderSpec, LayerSpec, UserError

INFO = SeriesInfo("toy", 2, ("a", "b"), 8, (4, 8), "made up", (0.0,), (1.0,))
SPEC = EncoderSpec(4, (LayerSpec("softmax", 1, 4, 4),))


def test_rows_that_fill_up_have_no_loss():
  logits, mask = jnp.array([[1.0, 2.0], [3.0, np.nan]]), jnp.array([True, False])
  batch = {"label": jnp.array([0, 1]), "mask": mask}
  loss = Classification(label_smoothing=0.0).loss(logits, batch)
  np.testing.assert_allclose(loss, [np.log1p(np.e), 0], rtol=1e-6)
  assert Classification().metrics(logits, batch)["count"].tolist() == [1, 0]


def test_matthews_correlation_is_that_of_predictions(monkeypatch):
  """Of 40 series, in two lengths and with rows that fill up, against the formula from counts."""
  rng, task = np.random.default_rng(0), SeriesClassification(matthews=True)
  net = task.build(INFO, Encoder(embed_dim=(4,), kinds=("softmax",)), {"softmax": Softmax()})
  rows = [rng.normal(size=(1 + i % 8, 1)).astype(np.float32) for i in range(40)]
  labels = np.array([int(row.mean() > 0) for row in rows], np.int32)
  split = Split("test", "series", Ragged.joined(rows), labels, INFO.lengths)
  module = EncoderTransformer(net, SPEC)
  params = jax.jit(module.init)(jax.random.key(1), task.example(net, 1))["params"]
  found = task.deployed(module, INFO, pathlib.Path())(params, rows).argmax(1)
  (tp, fp), (fn, tn) = [[((found == i) & (labels == j)).sum() for j in (1, 0)] for i in (1, 0)]
  below = np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
  got = task.judge(module, params, split, INFO)["matthews"]
  assert got == pytest.approx((tp * tn - fp * fn) / below if below else 0.0, abs=1e-6)
  assert SeriesClassification().judge(module, params, split, INFO) == {}


def test_flops_by_length_grow():
  task = SeriesClassification()
  net = task.build(INFO, Encoder(embed_dim=(4,), kinds=("softmax",)), {"softmax": Softmax()})
  facts = task.facts(net, SPEC)["flops_by_length"]
  assert list(facts) == ["1", "2", "4", "8"] and facts["8"] == 2 * net.count_spec(SPEC).products > 2 * facts["4"]


def test_kinds_for_images_are_refused_by_name():
  kinds = {name: registry.lookup(attention.TABLE, name)() for name in attention.TABLE}
  with pytest.raises(UserError, match="space.kinds: 'vicinity' cannot be used here, it needs the patches of an image"):
    refuse_grids(kinds, ("softmax", "vicinity"))


@pytest.mark.parametrize("name", attention.TABLE)
def test_a_kind_is_taken_where_it_can_be_and_refused_by_name_elsewhere(name):
  """Images take every kind, sequences all that need no grid of patches."""
  kinds, space = {name: registry.lookup(attention.TABLE, name)()}, Encoder(embed_dim=(4,), kinds=(name,))
  image = Info("toy", (8, 8, 1), 2, ("a", "b"), "made up", (0.0,), (1.0,))
  text = TextsInfo("toy", 2, ("a", "b"), "bytes", 256, 8, (4, 8), "made up", "bytes")
  assert dict(ImageClassification(net=Vision(patch_size=4)).build(image, space, kinds).kinds) == kinds
  for task, info in ((SeriesClassification(), INFO), (TextClassification(), text)):
    if not kinds[name].can.grid:
      assert dict(task.build(info, space, kinds).kinds) == kinds
    else:
      with pytest.raises(UserError, match=f"space.kinds: '{name}' cannot be used here"):
        task.build(info, space, kinds)
