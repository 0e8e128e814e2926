import jax
import numpy as np
import pytest

from nasformer.attention.linear import Linear
from nasformer.attention.vicinity import Vicinity
from nasformer.data.texts import TextsInfo
from nasformer.nets.encoder import EncoderTransformer
from nasformer.space.encoder import Encoder
from nasformer.tasks.text_classification import TextClassification
from nasformer.types import EncoderSpec, LayerSpec, UserError

INFO = TextsInfo("toy", 2, ("no", "yes"), "bytes", 256, 6, (4, 8), "made up", "bytes")
TASK, SPACE = TextClassification(), Encoder(embed_dim=(8,), kinds=("linear",))


def test_people_give_texts(tmp_path):
  net = TASK.build(INFO, SPACE, {"linear": Linear()})
  module = EncoderTransformer(net, EncoderSpec(8, (LayerSpec("linear", 2, 4, 16),)))
  params = jax.jit(module.init)(jax.random.key(0), TASK.example(net, 1))["params"]
  apply = TASK.deployed(module, INFO, tmp_path)
  logits = apply(params, ["a", "long texts", "né", ""])
  assert np.isfinite(logits).all() and logits.shape == (4, 2)
  np.testing.assert_allclose(apply(params, ["long t"])[0], logits[1], atol=1e-5)  # 6 bytes are read
  with pytest.raises(UserError, match="a list of texts is wanted"):
    apply(params, "a")


def test_kinds_for_images_are_refused():
  with pytest.raises(UserError, match="space.kinds: 'vicinity' cannot be used here"):
    TASK.build(INFO, Encoder(kinds=("vicinity",)), {"vicinity": Vicinity()})
