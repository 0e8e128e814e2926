import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nasformer import attention, registry
from nasformer.attention.softmax import Softmax
from nasformer.data.augment import Augment
from nasformer.data.base import Info
from nasformer.nets.encoder import EncoderTransformer
from nasformer.nets.vision import Vision
from nasformer.space.encoder import Encoder
from nasformer.tasks.image_classification import ImageClassification
from nasformer.types import EncoderSpec, LayerSpec, UserError

INFO = Info("toy", (4, 6, 2), 3, ("a", "b", "c"), "made up", (100.0, 120.0), (60.0, 50.0))
LOGITS = jnp.array([[2.0, 1.0, -1.0], [0.0, 3.0, 0.5], [1.0, 1.5, 1.2], [0.0, 0.0, 9.0]])
LABELS = jnp.array([0, 1, 2, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_by_hand(smoothing):
  """Cross entropy with the target (1 - ε) one-hot + ε / 3."""
  logits = np.asarray(LOGITS, np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  target = (1 - smoothing) * np.eye(3)[np.asarray(LABELS)] + smoothing / 3
  got = ImageClassification(label_smoothing=smoothing).loss(LOGITS, {"label": LABELS})
  np.testing.assert_allclose(got, -(target * log_p).sum(-1), rtol=1e-5, atol=1e-6)


def test_metrics_by_hand():
  """Smoothing is no part of what is reported; the third example is wrong."""
  got = ImageClassification(label_smoothing=0.3).metrics(LOGITS, {"label": LABELS})
  logits = np.asarray(LOGITS, np.float64)
  want = np.log(np.exp(logits).sum(-1)) - logits[np.arange(4), np.asarray(LABELS)]
  np.testing.assert_allclose(got["loss"], want, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(got["accuracy"], [1, 1, 0, 1])
  np.testing.assert_array_equal(got["count"], [1, 1, 1, 1])


@pytest.mark.parametrize("filler", [0.0, 1e30, np.nan])
def test_padding_counts_for_nothing(filler):
  mask = jnp.array([True, False, True, False])
  whole = ImageClassification().metrics(LOGITS, {"label": LABELS})
  logits = jnp.where(mask[:, None], LOGITS, filler)
  got = ImageClassification().metrics(logits, {"label": jnp.where(mask, LABELS, 0), "mask": mask})
  for name, values in got.items():
    np.testing.assert_array_equal(values, np.where(mask, whole[name], 0))


def test_prepare_changes_images_only():
  batch = {"image": jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 4, 6, 2)), jnp.uint8), "label": LABELS}
  same = ImageClassification().prepare(jax.random.key(0), batch)
  jax.tree.map(np.testing.assert_array_equal, same, batch)
  flipped = ImageClassification(augment=Augment(flip=True)).prepare(jax.random.key(0), batch)
  np.testing.assert_array_equal(flipped["label"], LABELS)
  assert flipped["image"].dtype == jnp.uint8 and (flipped["image"] != batch["image"]).any()


def test_build_takes_all_from_the_data():
  kinds = {name: registry.lookup(attention.TABLE, name)() for name in attention.TABLE}
  net = ImageClassification(net=Vision(2, "gelu")).build(INFO, Encoder(), kinds)
  assert (net.image_shape, net.num_classes, net.mean, net.std) == ((4, 6, 2), 3, INFO.mean, INFO.std)
  assert net.config == Vision(2, "gelu") and all(net.kind(name) == kind for name, kind in kinds.items())


def test_inputs_and_example_are_images():
  task = ImageClassification(net=Vision(2))
  example = task.example(task.build(INFO, Encoder(), {}), 5)
  assert (example.shape, example.dtype) == ((5, 4, 6, 2), np.uint8)
  images = jnp.asarray(example)
  assert task.inputs({"image": images, "label": LABELS}) is images


def test_the_loss_falls():
  """Of a small network on 16 random images, which it can learn by heart."""
  task, rng = ImageClassification(net=Vision(2)), np.random.default_rng(0)
  net = task.build(INFO, Encoder(), {"softmax": Softmax()})
  batch = {"image": jnp.asarray(rng.integers(0, 256, (16, 4, 6, 2)), jnp.uint8), "label": jnp.arange(16) % 3}
  module, optimizer = EncoderTransformer(net, EncoderSpec(8, (LayerSpec("softmax", 2, 4, 16),))), optax.adam(1e-2)
  loss = lambda params: task.loss(module.apply({"params": params}, batch["image"]), batch).mean()

  def step(carry, _):
    params, state = carry
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state)
    return (optax.apply_updates(params, updates), state), value

  @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # half of the time is compiling
  def train(key):
    params = module.init(key, batch["image"])["params"]
    return jax.lax.scan(step, (params, optimizer.init(params)), None, 50)[1]

  values = train(jax.random.key(0))
  assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_mistakes_are_told(smoothing):
  with pytest.raises(UserError, match=f"task.label_smoothing={smoothing}: it must be at least 0 and below 1"):
    ImageClassification(label_smoothing=smoothing)
