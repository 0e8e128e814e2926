"""Architectures as HAT's files give them (mit-han-lab/hardware-aware-transformers, configs/*/subtransformer/HAT_*.yml)."""

from typing import Any, Mapping, Sequence

from nasformer.types import DecoderLayerSpec, LayerSpec, TranslationSpec, UserError

QKV_DIM = 512  # in all spaces of HAT
SPANS = {-1: 1, 1: 2, 2: 3}  # its code for the encoder layers that are attended to


def spec(fields: Mapping[str, Any], kind: str = "softmax", qkv_dim: int = QKV_DIM) -> TranslationSpec:
  """The architecture that the fields of one of HAT's files describe, read by any YAML or JSON reader.

  Args:
    fields: such as "encoder-embed-dim-subtransformer"; dashes or underscores, with the ending "-subtransformer" or without.
      Lists may be longer than there are layers, as in HAT's own search.
    kind: of attention, in every module.
    qkv_dim: width of queries, keys and values.

  Raises:
    UserError: a field is missing, too short, or has a value that HAT's do not have.
  """
  found = {name.replace("_", "-").removesuffix("-subtransformer"): value for name, value in fields.items()}

  def field(name: str) -> Any:
    if name not in found:
      raise UserError(f"{name}-subtransformer is missing: HAT's files have it (there are: {', '.join(sorted(found))})")
    return found[name]

  def rows(side: str, *names: str) -> list[tuple]:
    depth = int(field(f"{side}-layer-num"))
    return list(zip(*(_first(f"{side}-{name}", field(f"{side}-{name}"), depth) for name in names)))

  encoder = rows("encoder", "self-attention-heads-all", "ffn-embed-dim-all")
  decoder = rows("decoder", "self-attention-heads-all", "ende-attention-heads-all", "arbitrary-ende-attn-all",
                 "ffn-embed-dim-all")
  for heads in (*(row[0] for row in encoder), *(heads for row in decoder for heads in row[:2])):
    if heads < 1 or qkv_dim % heads:
      raise UserError(f"{heads} heads do not divide the width {qkv_dim} of queries, keys and values")
  for *_, code, _ in decoder:
    if code not in SPANS:
      raise UserError(f"decoder-arbitrary-ende-attn-all-subtransformer has {code}: it must be one of {', '.join(map(str, SPANS))}")
  return TranslationSpec(
      field("encoder-embed-dim"), field("decoder-embed-dim"),
      tuple(LayerSpec(kind, heads, qkv_dim // heads, ffn_dim) for heads, ffn_dim in encoder),
      tuple(DecoderLayerSpec(kind, heads, qkv_dim // heads, kind, cross, qkv_dim // cross, SPANS[code], ffn_dim)
            for heads, cross, code, ffn_dim in decoder))


def _first(name: str, values: Sequence[int], depth: int) -> Sequence[int]:
  if len(values) < depth:
    raise UserError(f"{name}-subtransformer has {len(values)} values for {depth} layers")
  return values[:depth]
