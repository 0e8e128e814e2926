"""What the tasks share that give each example one label."""

import dataclasses
import functools
from typing import Any, Callable, ClassVar, Mapping, Sequence as Several

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nasformer.data.batching import eval_batches
from nasformer.data.sequences import Ragged, Split
from nasformer.nets.encoder import EncoderNet, EncoderTransformer
from nasformer.nets.sequence import Rows, Sequence, SequenceNet
from nasformer.ops import losses, metrics
from nasformer.types import EncoderSpec, Params, UserError

Batch = Mapping[str, Array]
_ROWS = 32  # of a batch, where no configuration says


@dataclasses.dataclass(frozen=True)
class Classification:
  """Base: cross-entropy with label smoothing, judged by accuracy.

  Attributes:
    headline: the metric that networks are compared by in the end.
    label_smoothing: share of the target spread over all classes.
  """

  headline: ClassVar[str] = "accuracy"
  label_smoothing: float = 0.1

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise UserError(f"task.label_smoothing={self.label_smoothing}: it must be at least 0 and below 1")

  def loss(self, logits: Float[Array, "B C"], batch: Batch) -> Float[Array, "B"]:
    """Training loss of each example; zero for rows that only fill up."""
    return _real(losses.smoothed_cross_entropy(logits, batch["label"], self.label_smoothing), batch)

  def distillation(self, logits: Float[Array, "B C"], teacher: Float[Array, "B C"], batch: Batch) -> Float[Array, "B"]:
    """Loss of each example where a larger network is the teacher."""
    return _real(losses.distillation(logits, teacher), batch)

  def metrics(self, logits: Float[Array, "B C"], batch: Batch) -> dict[str, Float[Array, "B"]]:
    """Numbers to be summed over examples: "loss" (nats, not smoothed), "accuracy" and "count"; zero for padding."""
    right = metrics.correct(logits, batch["label"]).astype(jnp.float32)
    loss = losses.smoothed_cross_entropy(logits, batch["label"], 0.0)
    return {"loss": _real(loss, batch), "accuracy": _real(right, batch), "count": _real(jnp.ones(len(logits)), batch)}

  def timed(self, network: EncoderTransformer) -> Callable:
    """What latency is measured on: (variables, example) -> anything."""
    return network.apply

  def prefill(self, network: EncoderTransformer) -> None:
    """The part of that which reads before writing: there is none."""

  def judge(self, network: EncoderTransformer, params: Params, split: Any, info: Any,
            limit: int | None = None) -> dict[str, float]:
    """What is measured in the end beside `metrics`: nothing."""
    return {}

  def facts(self, net: EncoderNet, spec: EncoderSpec) -> dict[str, Any]:
    """What is to be told of a network beside its costs: nothing."""
    return {}

  def signatures(self, info: Any) -> dict[str, str]:
    """How exactly the metrics of `judge` were computed, by name."""
    return {}


@dataclasses.dataclass(frozen=True)
class SequenceClassification(Classification):
  """Base of the tasks on sequences of unequal lengths.

  Attributes:
    net: the backbone.
    matthews: measure the Matthews correlation on the test part too, as is usual where classes are of unequal size.
  """

  net: Sequence = Sequence()
  matthews: bool = False

  def prepare(self, key: Array, batch: Batch) -> Batch:
    """A training batch as it is."""
    return batch

  def inputs(self, batch: Batch) -> Rows:
    """What the network takes of a batch."""
    return Rows(batch["values"], batch["length"])

  def example(self, net: SequenceNet, batch_size: int) -> Rows:
    """What a network of this family takes: sequences of the length that costs are counted at, without padding."""
    length = net.count_length
    return Rows(net.source.example(batch_size, length), jnp.full(batch_size, length, jnp.int32))

  def facts(self, net: SequenceNet, spec: EncoderSpec) -> dict[str, Any]:
    """"flops_by_length": FLOPs of an eighth of the length that costs are counted at, up to all of it."""
    found = {}
    for length in sorted({max(net.count_length // part, 1) for part in (8, 4, 2, 1)}):
      short = dataclasses.replace(net, config=dataclasses.replace(net.config, count_length=length))
      found[str(length)] = 2 * short.count_spec(spec).products
    return {"flops_by_length": found}

  def judge(self, network: EncoderTransformer, params: Params, split: Split, info: Any,
            limit: int | None = None) -> dict[str, float]:
    """"matthews": the correlation of predicted and true classes, from -1 to 1, where it was asked for."""
    if not self.matthews:
      return {}
    import sklearn.metrics  # imported on use: it takes a second

    run, predicted, true = jax.jit(lambda p, x: network.apply({"params": p}, x).argmax(-1)), [], []
    for batch in eval_batches(split, _ROWS):
      predicted.append(np.asarray(run(params, self.inputs(jax.device_put(batch))))[batch["mask"]])
      true.append(batch["label"][batch["mask"]])
    return {"matthews": float(sklearn.metrics.matthews_corrcoef(np.concatenate(true), np.concatenate(predicted)))}


def refuse_grids(kinds: Mapping[str, Any], names: Several[str]) -> None:
  """Refuses attention kinds that need the patches of an image.

  Args:
    kinds: all kinds by name.
    names: those of the space.

  Raises:
    UserError: one is such a kind.
  """
  for name in names:
    if kinds[name].can.grid:
      raise UserError(f"space.kinds: {name!r} cannot be used here, it needs the patches of an image")


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
  """(params, sequences) -> logits: sequences are padded to the shortest length that the network was trained at.

  Attributes:
    network: the small network.
    lengths: to which sequences are padded; a longer one is cut to the last of them.
    read: anything that people give -> an array for each sequence.
  """

  network: EncoderTransformer
  lengths: tuple[int, ...]
  read: Callable

  def __call__(self, params: Params, given: Any) -> Float[np.ndarray, "B C"]:
    """Logits of each sequence, in order."""
    rows = self.read(given)
    if not rows:
      return np.zeros((0, self.network.net.num_classes), np.float32)
    values = Ragged.joined(rows).cut(min(self.lengths[-1], self.network.net.max_length))
    found = []
    for first in range(0, len(rows), _ROWS):
      indices = np.arange(first, min(first + _ROWS, len(rows)))
      counts = values.counts[indices]
      length = next(length for length in self.lengths if length >= counts.max())
      length = min(length, self.network.net.max_length)
      found.append(np.asarray(self._run(params, Rows(values.rows(indices, length), counts.astype(np.int32)))))
    return np.concatenate(found)

  @functools.cached_property
  def _run(self) -> Callable:
    return jax.jit(lambda params, rows: self.network.apply({"params": params}, rows))


def _real(values: Float[Array, "B"], batch: Batch) -> Float[Array, "B"]:
  return jnp.where(batch["mask"], values, 0) if "mask" in batch else values
