import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import evaluate
from nasformer.compilations import counted
from nasformer.tasks.image_classification import ImageClassification


def batches_of(images, labels, size):
  """Batches of one shape, the last of them filled up with rows that do not count."""
  for start in range(0, len(images), size):
    rows = np.minimum(np.arange(start, start + size), len(images) - 1)
    yield {"image": images[rows], "label": labels[rows], "mask": np.arange(start, start + size) < len(images)}


@pytest.mark.parametrize("size", [1, 4, 7, 10, 16])
def test_means_are_over_examples_however_they_are_batched(size):
  rng = np.random.default_rng(0)
  images, labels = rng.normal(size=(10, 2, 3, 1)).astype(np.float32), rng.integers(0, 4, 10).astype(np.int32)
  weights = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
  logits = images.reshape(10, 6).astype(np.float64) @ np.asarray(weights)
  losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(10), labels]
  judge = evaluate.evaluator(lambda p, x: x.reshape(len(x), -1) @ p, ImageClassification())
  with counted() as count:
    found = judge(weights, batches_of(images, labels, size))
  assert found == pytest.approx({"loss": losses.mean(), "accuracy": (logits.argmax(1) == labels).mean()}, rel=1e-5)
  assert count.num == 1


def test_means_of_a_population():
  totals = {"loss": np.array([6.0, 9.0]), "count": np.array([3.0, 3.0])}
  means = evaluate.means(totals)
  assert list(means) == ["loss"] and means["loss"].tolist() == [2.0, 3.0]
