import shutil

import jax
import numpy as np
import pytest

import nasformer
from nasformer.data.batching import eval_batches
from nasformer.data.digits import Digits
from nasformer.evaluate import evaluator
from nasformer.store import files
from nasformer.tasks.image_classification import ImageClassification
from nasformer.types import EncoderSpec, UserError


@pytest.mark.parametrize("arm", ["mixed", "linear", "baseline"])
def test_the_loaded_network_has_the_accuracy_of_the_results(finished, arm):
  apply, params, spec = nasformer.load(finished, arm)
  (row,) = [row for row in files.read_json(finished / "results.json")["rows"] if row["arm"] == arm]
  assert spec == EncoderSpec.from_json(row["spec"])
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == row["params"]
  test = Digits(max_train=200, max_val=64).load(None).get("test", "evaluate")
  found = evaluator(apply, ImageClassification())(params, eval_batches(test, 64))
  assert found == pytest.approx(row["retrained"]["test"], abs=1e-5)


def test_by_default_it_is_the_main_winner_of_the_first_seed(finished):
  _, params, spec = nasformer.load(str(finished))
  _, same, _ = nasformer.load(finished, "mixed", 0)
  assert jax.tree.all(jax.tree.map(np.array_equal, params, same))
  assert spec == EncoderSpec.from_json(files.read_json(finished / "winner.json")["winners"][0]["spec"])


def test_before_retraining_it_has_the_inherited_weights(copied):
  shutil.rmtree(copied / "retrain")
  apply, params, _ = nasformer.load(copied)
  winner = files.read_json(copied / "winner.json")["winners"][0]
  val = Digits(max_train=200, max_val=64).load(None).get("val", "search")
  found = evaluator(apply, ImageClassification())(params, eval_batches(val, 64))
  assert found == pytest.approx(winner["inherited"], abs=1e-5)


def test_what_is_not_there_is_told(finished, copied, tmp_path):
  with pytest.raises(UserError, match="winner.json: there is no such file"):
    nasformer.load(tmp_path / "nowhere")
  with pytest.raises(UserError, match=r"no winner of arm 'mix' \(there are: baseline of seed 0, linear of seed 0,"):
    nasformer.load(finished, "mix")
  with pytest.raises(UserError, match="no winner of arm 'mixed' and seed 3"):
    nasformer.load(finished, seed=3)
  shutil.rmtree(copied / "retrain")
  shutil.rmtree(copied / "derived")
  with pytest.raises(UserError, match="'mixed' has no weights yet: run --stages=derive or --stages=retrain"):
    nasformer.load(copied)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 16, 16, 1), (8, 8, 1)])
def test_images_of_the_wrong_shape_are_refused(finished, shape):
  apply, params, _ = nasformer.load(finished)
  with pytest.raises(UserError, match=r"images of shape .*: this network takes \[batch, 8, 8, 1\]"):
    apply(params, np.zeros(shape, np.uint8))
