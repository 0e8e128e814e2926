"""Image classification: binds network, loss, augmentation and metrics."""

import dataclasses
import pathlib
from typing import Any, Callable, ClassVar, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nasformer.attention.base import Kind
from nasformer.data.augment import Augment
from nasformer.data.base import Info, Split
from nasformer.nets.encoder import EncoderTransformer
from nasformer.nets.vision import Vision, VisionNet
from nasformer.ops import losses, metrics
from nasformer.space.encoder import Encoder
from nasformer.tasks.base import check_parts
from nasformer.types import EncoderSpec, Params, UserError

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class ImageClassification:
  """One label per image; cross-entropy with label smoothing.

  Attributes:
    headline: the metric that networks are compared by in the end.
    net: the backbone.
    augment: random changes of training images.
    label_smoothing: share of the target spread over all classes.
  """

  headline: ClassVar[str] = "accuracy"
  net: Vision = Vision()
  augment: Augment = Augment()
  label_smoothing: float = 0.1

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise UserError(f"task.label_smoothing={self.label_smoothing}: it must be at least 0 and below 1")

  def build(self, info: Any, space: Any, kinds: Mapping[str, Kind]) -> VisionNet:
    """The network family for this data.

    Raises:
      UserError: data or space are of another task.
    """
    check_parts("image_classification", info, Info, "images", space, Encoder, "an encoder space")
    return VisionNet(self.net, info.image_shape, info.num_classes, tuple(kinds.items()), info.mean, info.std)

  def prepare(self, key: Array, batch: Batch) -> dict[str, Array]:
    """A training batch with its images augmented."""
    return {**batch, "image": self.augment(key, batch["image"])}

  def inputs(self, batch: Batch) -> Array:
    """What the network takes of a batch."""
    return batch["image"]

  def loss(self, logits: Float[Array, "B C"], batch: Batch) -> Float[Array, "B"]:
    """Training loss of each example."""
    return losses.smoothed_cross_entropy(logits, batch["label"], self.label_smoothing)

  def metrics(self, logits: Float[Array, "B C"], batch: Batch) -> dict[str, Float[Array, "B"]]:
    """Numbers to be summed over examples: "loss" (nats, not smoothed), "accuracy" and "count"; zero for padding."""
    real = batch["mask"].astype(jnp.float32) if "mask" in batch else jnp.ones(len(logits))
    loss = losses.smoothed_cross_entropy(logits, batch["label"], 0.0)
    right = metrics.correct(logits, batch["label"]).astype(jnp.float32)
    return {"loss": jnp.where(real > 0, loss, 0), "accuracy": right * real, "count": real}

  def distillation(self, logits: Float[Array, "B C"], teacher: Float[Array, "B C"], batch: Batch) -> Float[Array, "B"]:
    """Loss of each example where a larger network is the teacher."""
    return losses.distillation(logits, teacher)

  def example(self, net: VisionNet, batch_size: int) -> Array:
    """What a network of this family takes, filled with zeros."""
    return jnp.zeros((batch_size, *net.image_shape), jnp.uint8)

  def timed(self, network: EncoderTransformer) -> Callable:
    """What latency is measured on: (variables, example) -> anything."""
    return network.apply

  def prefill(self, network: EncoderTransformer) -> None:
    """The part of that which reads before writing: there is none."""

  def judge(self, network: EncoderTransformer, params: Params, split: Split, info: Info,
            limit: int | None = None) -> dict[str, float]:
    """What is measured in the end beside `metrics`: nothing."""
    return {}

  def facts(self, net: VisionNet, spec: EncoderSpec) -> dict[str, Any]:
    """What is to be told of a network beside its costs: nothing."""
    return {}

  def signatures(self, info: Info) -> dict[str, str]:
    """How exactly the metrics of `judge` were computed, by name."""
    return {}

  def deployed(self, network: EncoderTransformer, info: Info, workdir: pathlib.Path) -> Callable:
    """What people use: (params, images) -> logits, jitted."""
    run = jax.jit(lambda params, images: network.apply({"params": params}, images))

    def apply(params, images):
      wanted = network.net.image_shape
      if images.shape[1:] != wanted:
        raise UserError(f"images of shape {images.shape}: this network takes [batch, {', '.join(map(str, wanted))}]")
      return run(params, images)

    return apply
