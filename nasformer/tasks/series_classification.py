"""Series classification: binds the network and the steps of series."""

import dataclasses
import pathlib
from typing import Any, Mapping

import numpy as np

from nasformer.attention.base import Kind
from nasformer.data.series import SeriesInfo
from nasformer.nets.encoder import EncoderTransformer
from nasformer.nets.sequence import Channels, SequenceNet
from nasformer.space.encoder import Encoder
from nasformer.tasks.base import check_parts, check_reach
from nasformer.tasks.classification import Reader, SequenceClassification, refuse_grids
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class SeriesClassification(SequenceClassification):
  """One label per series of numbers, of one channel or several; cross-entropy with label smoothing."""

  def build(self, info: Any, space: Any, kinds: Mapping[str, Kind]) -> SequenceNet:
    """The network family for this data.

    Raises:
      UserError: data or space are of another task, or an attention kind is for images or for shorter sequences.
    """
    check_parts("series_classification", info, SeriesInfo, "series with labels", space, Encoder, "an encoder space")
    refuse_grids(kinds, space.kinds)
    net = SequenceNet(self.net, Channels(info.mean, info.std), info.max_length, info.num_classes, tuple(kinds.items()),
                      max(space.embed_dim))
    check_reach(kinds, space.kinds, "encoder", net.num_positions(net.max_length), "the longest series")
    return net

  def deployed(self, network: EncoderTransformer, info: SeriesInfo, workdir: pathlib.Path) -> Reader:
    """What people use: (params, arrays) -> logits, an array [steps, channels] for each series, as it was measured."""
    channels = len(info.mean)

    def read(given):
      rows = [np.asarray(row, np.float32) for row in given]
      rows = [row[:, None] if row.ndim == 1 and channels == 1 else row for row in rows]
      for row in rows:
        if row.ndim != 2 or row.shape[1] != channels:
          raise UserError(f"a series of shape {row.shape}: this network takes [steps, {channels}]")
      return rows

    return Reader(network, info.lengths, read)
