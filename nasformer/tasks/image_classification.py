"""Image classification: binds network, loss, augmentation and metrics."""

import dataclasses
from typing import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nasformer.attention.base import Kind
from nasformer.data.augment import Augment
from nasformer.data.base import Info
from nasformer.nets.vision import Vision, VisionNet
from nasformer.ops import losses, metrics
from nasformer.types import UserError

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class ImageClassification:
  """One label per image; cross-entropy with label smoothing.

  Attributes:
    net: the backbone.
    augment: random changes of training images.
    label_smoothing: share of the target spread over all classes.
  """

  net: Vision = Vision()
  augment: Augment = Augment()
  label_smoothing: float = 0.1

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise UserError(f"task.label_smoothing={self.label_smoothing}: it must be at least 0 and below 1")

  def build(self, info: Info, kinds: Mapping[str, Kind]) -> VisionNet:
    """The network family for this data."""
    return VisionNet(self.net, info.image_shape, info.num_classes, tuple(kinds.items()), info.mean, info.std)

  def prepare(self, key: Array, batch: Batch) -> dict[str, Array]:
    """A training batch with its images augmented."""
    return {**batch, "image": self.augment(key, batch["image"])}

  def loss(self, logits: Float[Array, "B C"], batch: Batch) -> Float[Array, "B"]:
    """Training loss of each example."""
    return losses.smoothed_cross_entropy(logits, batch["label"], self.label_smoothing)

  def metrics(self, logits: Float[Array, "B C"], batch: Batch) -> dict[str, Float[Array, "B"]]:
    """Numbers to be summed over examples: "loss" (nats, not smoothed), "accuracy" and "count"; zero for padding."""
    real = batch["mask"].astype(jnp.float32) if "mask" in batch else jnp.ones(len(logits))
    loss = losses.smoothed_cross_entropy(logits, batch["label"], 0.0)
    right = metrics.correct(logits, batch["label"]).astype(jnp.float32)
    return {"loss": jnp.where(real > 0, loss, 0), "accuracy": right * real, "count": real}

  def example(self, info: Info, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch."""
    return {"image": jax.ShapeDtypeStruct((batch_size, *info.image_shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32)}
