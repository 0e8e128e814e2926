"""Text classification: binds the network and the tokens of texts."""

import dataclasses
import pathlib
from typing import Any, Mapping

from nasformer.attention.base import Kind
from nasformer.data import texts
from nasformer.data.texts import TextsInfo
from nasformer.nets.encoder import EncoderTransformer
from nasformer.nets.sequence import SequenceNet, Symbols
from nasformer.space.encoder import Encoder
from nasformer.tasks.base import check_parts, check_reach
from nasformer.tasks.classification import Reader, SequenceClassification, refuse_grids
from nasformer.types import UserError


@dataclasses.dataclass(frozen=True)
class TextClassification(SequenceClassification):
  """One label per text, read byte by byte or in subwords; cross-entropy with label smoothing."""

  def build(self, info: Any, space: Any, kinds: Mapping[str, Kind]) -> SequenceNet:
    """The network family for this data.

    Raises:
      UserError: data or space are of another task, or an attention kind is for images or for shorter sequences.
    """
    check_parts("text_classification", info, TextsInfo, "texts with labels", space, Encoder, "an encoder space")
    refuse_grids(kinds, space.kinds)
    net = SequenceNet(self.net, Symbols(info.vocab_size), info.max_length, info.num_classes, tuple(kinds.items()),
                      max(space.embed_dim))
    check_reach(kinds, space.kinds, "encoder", net.num_positions(net.max_length), "the longest text")
    return net

  def deployed(self, network: EncoderTransformer, info: TextsInfo, workdir: pathlib.Path) -> Reader:
    """What people use: (params, list of texts) -> logits."""
    encode = texts.encoder(info, workdir)

    def read(given):
      if isinstance(given, str):
        raise UserError("a list of texts is wanted, such as [\"A fine film.\"], and this is one text")
      return encode(given)

    return Reader(network, info.lengths, read)
