"""Gradient-boosted trees on the host: the ranker of RankNAS's released code, which is trained by plain regression."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nasformer.predict.base import flat
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class Boosted:
  """RankNAS as released: LightGBM, pointwise regression, 30 leaves to a depth of 6; needs the extra `lightgbm`.

  Attributes:
    max_depth: of a tree.
    num_leaves: of a tree.
    learning_rate: of boosting.
    rounds: the largest number of trees.
    patience: trees without progress on rows held out (one in nine, as in the release) after which boosting stops.
    leaf_rows: the fewest rows of a leaf. The release leaves it at 20, which learns nothing from fewer than 40 labels.
  """

  max_depth: int = 6
  num_leaves: int = 30
  learning_rate: float = 0.1
  rounds: int = 100
  patience: int = 5
  leaf_rows: int = 3
  jittable: ClassVar[bool] = False
  least: ClassVar[int] = 2

  def __post_init__(self):
    if min(self.max_depth, self.num_leaves - 1, self.rounds, self.patience, self.leaf_rows) < 1:
      raise UserError(f"{self}: every setting must be above 0, and num_leaves above 1")

  def fit(
      self, key: Array, inputs: Float[Array, "E T Q"], targets: Float[Array, "E"], weights: Float[Array, "E"]
  ) -> Any:
    """A LightGBM booster.

    Raises:
      UserError: LightGBM is not installed.
    """
    lightgbm = _import()
    live = np.flatnonzero(np.asarray(weights) > 0)
    rows = np.asarray(jax.random.permutation(key, live))
    x, y, w = np.asarray(flat(inputs))[rows], np.asarray(targets)[rows], np.asarray(weights)[rows]
    num_held = len(rows) // 9
    part = lambda own: lightgbm.Dataset(x[own], y[own], weight=w[own], params={"verbose": -1})
    settings = {
        "objective": "regression", "max_depth": self.max_depth, "num_leaves": self.num_leaves,
        "learning_rate": self.learning_rate, "min_data_in_leaf": self.leaf_rows, "num_threads": 1, "seed": 0,
        "deterministic": True, "force_row_wise": True, "verbose": -1,
    }
    stop = [lightgbm.early_stopping(self.patience, verbose=False)] if num_held else []
    held = [part(slice(num_held))] if num_held else []
    return lightgbm.train(settings, part(slice(num_held, None)), self.rounds, valid_sets=held, callbacks=stop)

  def predict(self, model: Any, inputs: Float[Array, "P T Q"]) -> Float[Array, "P"]:
    return jnp.asarray(model.predict(np.asarray(flat(inputs)), num_threads=1), jnp.float32)


def _import():
  try:
    import lightgbm
  except ImportError as error:
    raise UserError("the predictor 'lightgbm' needs LightGBM, which is not installed: pip install nasformer[lightgbm]"
                    ) from error
  return lightgbm
