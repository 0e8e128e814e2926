"""Tables of trained or measured architectures, as a space, genomes and columns of values.

  space, genes, values = load("nas_bench_bert", data_dir)

Rows: "nas_bench_bert" (encoders of the FlexiBERT space with GLUE scores; Serianni and Kalita 2023) and "autoformer" (of
AutoFormer-T with accuracies on small data sets; Wei et al. 2024). The columns "params" and "flops" are counted here
from the sizes. FLOPs are 2 x multiply-adds of all matrix products for one example: 128 tokens without embeddings, or an
image of 224 x 224 with its patches and class token. A Fourier transform of n numbers counts 5 n log2 n.

The latency tables of HAT hold layer means instead of architectures; `load_latency` gives them as they are.
"""

import dataclasses
import functools
import gzip
import json
import math
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nasformer.attention.softmax import Softmax
from nasformer.nets.vision import Vision, VisionNet
from nasformer.space.autoformer import AutoFormerTiny
from nasformer.space.base import Gene, Space
from nasformer.types import EncoderSpec, LayerSpec, UserError

TABLES = {
    "nas_bench_bert": ("glue",),
    "autoformer": ("c100_base_acc", "c100_kd_acc", "flower_base_acc", "flower_kd_acc", "chaoyang_base_acc", "chaoyang_kd_acc"),
}
LATENCIES = ("iwslt14deen_gpu_titanxp_all", "wmt14ende_cpu_xeon_all", "wmt14ende_gpu_titanxp_all",
             "wmt14enfr_cpu_xeon_all", "wmt19ende_gpu_titanxp_all")
TOKENS = 128


@dataclasses.dataclass(frozen=True)
class FlexiBert(Space):
  """FlexiBERT's space as used by NAS-BERT-Bench: width, 2 or 4 layers; each attends, transforms linearly or convolves."""

  @functools.cached_property
  def genes(self) -> tuple[Gene, ...]:
    table = [Gene("embed_dim", (128, 256)), Gene("depth", (2, 4))]
    for i in range(4):
      site, needs = f"layer.{i}", (("depth", (2, 4) if i < 2 else (4,)),)
      gene = lambda name, values, kind="ordinal", needs=needs: Gene(f"{site}.{name}", values, kind, site, needs)
      of_kind = lambda kind: ((f"{site}.kind", (kind,)),)
      table += [
          gene("kind", ("SA", "LT", "DSC"), "categorical"),
          gene("similarity", ("SDP", "WMA"), "categorical", of_kind("SA")),
          gene("transform", ("DFT", "DCT"), "categorical", of_kind("LT")),
          gene("kernel", (5, 9), needs=of_kind("DSC")),
          gene("num_heads", (2, 4)), gene("ffn_dim", (512, 1024)), gene("num_ffn", (1, 3))]
    return tuple(table)

  def encode(self, spec: dict) -> Int[np.ndarray, "G"]:
    """The genome of an entry's `model_hparam_overrides`."""
    layers = spec["nas_config"]["encoder_layers"]
    values = {"embed_dim": spec["hidden_size"], "depth": len(layers)}
    for i, layer in enumerate(layers):
      kind = layer["operation_type"]
      values |= {f"layer.{i}.kind": kind,
                 f"layer.{i}.{ {'SA': 'similarity', 'LT': 'transform', 'DSC': 'kernel'}[kind] }": layer["operation_parameter"],
                 f"layer.{i}.num_heads": layer["num_operation_heads"],
                 f"layer.{i}.ffn_dim": layer["feed_forward_dimension"],
                 f"layer.{i}.num_ffn": layer["num_feed_forward"]}
    return self.genome(values)


class Price(NamedTuple):
  """Parameters and FLOPs."""

  params: int
  flops: float

  def __add__(self, other: tuple) -> "Price":
    return Price(self.params + other[0], self.flops + other[1])


def price_flexibert(values: dict, embed_dim: int | None = None, ffn_dim: int | None = None) -> Price:
  """What an encoder costs, with 30,522 words of 128 numbers.

  Args:
    values: chosen values by gene name.
    embed_dim: instead of the chosen width; the published counts take the largest sizes for all.
    ffn_dim: likewise.
  """
  width = embed_dim or values["embed_dim"]
  total = Price(30522 * 128 + 512 * 128 + 2 * 128 + 2 * 128, 0) + _map(128, width)
  for i in range(values["depth"]):
    layer = {name.rpartition(".")[2]: value for name, value in values.items() if name.startswith(f"layer.{i}.")}
    hidden = ffn_dim or layer["ffn_dim"]
    norms = 1 if layer["kind"] == "LT" else 2
    total += _operation(width, layer) + _map(width, width) + (2 * norms * width, 0)
    total += _map(width, hidden) + _map(hidden, width)
    for _ in range(layer["num_ffn"] - 1):
      total += _map(hidden, hidden)
  return total


def _map(num_in: int, num_out: int) -> Price:
  return Price(num_in * num_out + num_out, 2.0 * TOKENS * num_in * num_out)


def _operation(width: int, layer: dict) -> Price:
  """Mixing of tokens, without the linear map that follows it; a convolution takes half of the width and of the heads."""
  if layer["kind"] == "LT":
    size = TOKENS * width
    return Price(0, 5.0 * size * math.log2(size))
  own = width if layer["kind"] == "SA" else width // 2
  attention = _map(width, own) + _map(width, own) + _map(width, own) + (0, 4.0 * TOKENS**2 * own)
  if layer["kind"] == "SA":
    return attention + ((width**2, 2.0 * TOKENS * width**2) if layer["similarity"] == "WMA" else (0, 0))
  kernel, heads = layer["kernel"], layer["num_heads"] // 2
  separable = Price(kernel * width + own, 2.0 * TOKENS * kernel * width) + (width * own, 2.0 * TOKENS * width * own)
  return attention + separable + _map(own, kernel * heads) + _map(width, own) + (0, 2.0 * TOKENS * kernel * own)


class Labelled(NamedTuple):
  """Architectures of a table: genomes of a space, and what is known of them by name."""

  space: Space
  genes: Int[np.ndarray, "E G"]
  values: dict[str, Float[np.ndarray, "E"]]


def load(name: str, data_dir: pathlib.Path) -> Labelled:
  """A table of trained architectures.

  Raises:
    UserError: there is no such table, or its folder is missing.
  """
  if name not in TABLES:
    raise UserError(f"there is no table {name!r} (there are: {', '.join(TABLES)})")
  return (_bert if name == "nas_bench_bert" else _autoformer)(data_dir)


def _bert(data_dir: pathlib.Path) -> Labelled:
  with gzip.open(existing(data_dir / "nas_bench_bert" / "BERT_benchmark_subset.json.gz"), "rt") as file:
    rows = json.load(file)
  space = FlexiBert()
  genes = np.stack([space.encode(row["hparams"]["model_hparam_overrides"]) for row in rows])
  prices = np.array([price_flexibert(space.values(row)) for row in genes], float)
  values = {name: np.array([row["scores"][name] for row in rows]) for name in rows[0]["scores"]}
  return Labelled(space, genes, values | {"params": prices[:, 0], "flops": prices[:, 1]})


def _autoformer(data_dir: pathlib.Path) -> Labelled:
  with open(existing(data_dir / "vit_accuracy_tables" / "gt_autoformer.json")) as file:
    rows = json.load(file)
  space = AutoFormerTiny()
  net = VisionNet(Vision(), (224, 224, 3), 100, (("softmax", Softmax()),))

  def spec(arch):
    layers = zip(arch["num_heads"], arch["mlp_ratio"], strict=True)
    return EncoderSpec(arch["hidden_dim"], tuple(
        LayerSpec("softmax", heads, space.head_dim, int(ratio * arch["hidden_dim"])) for heads, ratio in layers))

  specs = [spec(row["arch"]) for row in rows]
  counts = [net.count_spec(each) for each in specs]
  values = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "arch"}
  values |= {"params": np.array([float(count.params) for count in counts]),
             "flops": np.array([2.0 * count.products for count in counts])}
  return Labelled(space, np.stack([space.encode(each) for each in specs]), values)


class Latencies(NamedTuple):
  """A latency table of HAT in the order of its rows, which is that of the measurements.

  Attributes:
    names: of the features.
    features: ten layer means of the architecture.
    mean_ms: encoder and decoder.
    std_ms: of the runs that a mean is made of.
  """

  names: tuple[str, ...]
  features: Float[np.ndarray, "E Q"]
  mean_ms: Float[np.ndarray, "E 2"]
  std_ms: Float[np.ndarray, "E 2"]


def load_latency(path: pathlib.Path) -> Latencies:
  """Reads one table: a CSV file, compressed or not, with HAT's columns.

  Raises:
    UserError: the file is missing, or lacks a column.
  """
  opener = gzip.open if path.suffix == ".gz" else open
  with opener(existing(path), "rt") as file:
    table = np.genfromtxt(file, delimiter=",", names=True)
  names = tuple(table.dtype.names)
  parts = [f"latency_{what}_{side}" for what in ("mean", "std") for side in ("encoder", "decoder")]
  missing = [part for part in parts if part not in names]
  if missing:
    raise UserError(f"{path} has no column {missing[0]!r} (it has: {', '.join(names)})")
  features = [name for name in names if name not in parts]
  column = lambda keys: np.stack([table[key] for key in keys], 1)
  return Latencies(tuple(features), column(features), column(parts[:2]), column(parts[2:]))


def existing(path: pathlib.Path) -> pathlib.Path:
  """The path itself.

  Raises:
    UserError: there is no such file.
  """
  if not path.is_file():
    raise UserError(f"{path} does not exist: --data_dir (or NASFORMER_DATA) must name the folder that holds"
                    f" {path.parent.name}/")
  return path
