"""Image classification: binds network and augmentation."""

import dataclasses
import pathlib
from typing import Any, Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array

from nasformer.attention.base import Kind
from nasformer.data.augment import Augment
from nasformer.data.base import Info
from nasformer.nets.encoder import EncoderTransformer
from nasformer.nets.vision import Vision, VisionNet
from nasformer.space.encoder import Encoder
from nasformer.tasks.base import check_parts, check_reach
from nasformer.tasks.classification import Classification
from nasformer.types import UserError

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class ImageClassification(Classification):
  """One label per image; cross-entropy with label smoothing.

  Attributes:
    net: the backbone.
    augment: random changes of training images.
  """

  net: Vision = Vision()
  augment: Augment = Augment()

  def build(self, info: Any, space: Any, kinds: Mapping[str, Kind]) -> VisionNet:
    """The network family for this data.

    Raises:
      UserError: data or space are of another task, or an attention kind is for fewer patches.
    """
    check_parts("image_classification", info, Info, "images", space, Encoder, "an encoder space")
    net = VisionNet(self.net, info.image_shape, info.num_classes, tuple(kinds.items()), info.mean, info.std)
    check_reach(kinds, space.kinds, "encoder", net.length, "an image")
    return net

  def prepare(self, key: Array, batch: Batch) -> dict[str, Array]:
    """A training batch with its images augmented."""
    return {**batch, "image": self.augment(key, batch["image"])}

  def inputs(self, batch: Batch) -> Array:
    """What the network takes of a batch."""
    return batch["image"]

  def example(self, net: VisionNet, batch_size: int) -> Array:
    """What a network of this family takes, filled with zeros."""
    return jnp.zeros((batch_size, *net.image_shape), jnp.uint8)

  def deployed(self, network: EncoderTransformer, info: Info, workdir: pathlib.Path) -> Callable:
    """What people use: (params, images) -> logits, jitted."""
    run = jax.jit(lambda params, images: network.apply({"params": params}, images))

    def apply(params, images):
      wanted = network.net.image_shape
      if images.shape[1:] != wanted:
        raise UserError(f"images of shape {images.shape}: this network takes [batch, {', '.join(map(str, wanted))}]")
      return run(params, images)

    return apply
