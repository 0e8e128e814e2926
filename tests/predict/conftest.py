"""Toy labels that a predictor must be able to learn."""

import jax
import numpy as np
import pytest

from nasformer.predict.features import TABLE, Blocks
from nasformer.registry import lookup
from nasformer.space.tiny import Tiny


@pytest.fixture(scope="session")
def labelled():
  """Function (number, tokens) -> inputs and targets of networks of a small space: mean width, depth and a favoured kind."""

  def draw(num, tokens="blocks", seed=0):
    space = Tiny()
    genes = space.sample(jax.random.key(seed), num)
    x = np.asarray(Blocks()(space, genes))
    names = Blocks().names(space)
    y = x[:, 0, names.index("embed_dim")] + x[:, 0, names.index("depth")] + 0.3 * x[..., names.index("layer.num_heads")].sum(1)
    y = y + 0.2 * x[..., names.index("layer.kind=softmax")].sum(1)
    inputs = x if tokens == "blocks" else np.asarray(lookup(TABLE, tokens)()(space, genes))
    return inputs, y.astype(np.float32)

  return draw
