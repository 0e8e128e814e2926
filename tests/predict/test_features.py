"""Features by hand on a small space, and HAT's ten."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.predict.features import TABLE, Blocks, Both, Means
from nasformer.registry import lookup
from nasformer.space import TABLE as SPACES
from nasformer.space.base import Gene, Space
from nasformer.types import first_line


@dataclasses.dataclass(frozen=True)
class Toy(Space):
  """One or two layers of a kind and a width; a local layer has a window; the network has a size by name."""

  @functools.cached_property
  def genes(self):
    table = [Gene("size", ("small", "large")), Gene("depth", (1, 2))]
    for i in range(2):
      site, needs = f"layer.{i}", (("depth", (1, 2)[i:]),)
      table += [Gene(f"{site}.kind", ("full", "local"), "categorical", site, needs),
                Gene(f"{site}.window", (4, 8), "ordinal", site, ((f"{site}.kind", ("local",)),)),
                Gene(f"{site}.width", (32, 64), "ordinal", site, needs)]
    return tuple(table)


NAMES = "size", "depth", "layer.kind=full", "layer.kind=local", "layer.window", "layer.width"


def genomes():
  """Large, two layers: full of width 64, local of window 8 and width 32; small, one full layer of width 32."""
  space = Toy()
  return space, np.stack([
      space.genome({"size": "large", "depth": 2, "layer.0.kind": "full", "layer.0.width": 64, "layer.1.kind": "local",
                    "layer.1.window": 8, "layer.1.width": 32}),
      space.genome({"size": "small", "depth": 1, "layer.0.kind": "full", "layer.0.width": 32})])


def test_means_by_hand():
  space, genes = genomes()
  assert Means().names(space) == NAMES
  np.testing.assert_allclose(Means()(space, genes), [[[2, 2, 0.5, 0.5, 8, 48]], [[1, 1, 1, 0, 0, 32]]])


def test_blocks_by_hand():
  space, genes = genomes()
  assert Blocks().names(space) == (*NAMES, "exists") and Blocks().tokens(space) == ("network", "layer.0", "layer.1")
  np.testing.assert_allclose(Blocks()(space, genes), [
      [[1, 1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0.5, 1]],
      [[0.5, 0.5, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0.5, 1], [0, 0, 0, 0, 0, 0, 0]]])


def test_both_are_means_and_what_a_layer_can_have():
  space, genes = genomes()
  names = Both().names(space)
  own = [f"{token}:{name}" for token in ("layer.0", "layer.1") for name in (*NAMES[2:], "exists")]
  assert names == (*NAMES, *own)
  got = np.asarray(Both()(space, genes))[:, 0]
  np.testing.assert_allclose(got[0], [2, 2, 0.5, 0.5, 8, 48, 1, 0, 0, 1, 1, 0, 1, 1, 0.5, 1])


def test_the_ten_of_hat():
  """On HAT's space0: means over layers that exist, as the released predictor reads them."""
  space = lookup(SPACES, "hat_wmt")()
  genes = np.asarray(space.sample(jax.random.key(0), 5))
  names, got = Means().names(space), np.asarray(Means()(space, genes))[:, 0]
  for row, spec in zip(got, map(space.decode, genes)):
    mean = lambda layers, field: np.mean([getattr(layer, field) for layer in layers])
    wanted = {
        "encoder_embed_dim": spec.encoder_embed_dim, "encoder_depth": len(spec.encoder),
        "encoder.ffn_dim": mean(spec.encoder, "ffn_dim"), "encoder.num_heads": mean(spec.encoder, "num_heads"),
        "decoder_embed_dim": spec.decoder_embed_dim, "decoder_depth": len(spec.decoder),
        "decoder.ffn_dim": mean(spec.decoder, "ffn_dim"), "decoder.num_heads": mean(spec.decoder, "num_heads"),
        "decoder.cross_num_heads": mean(spec.decoder, "cross_num_heads"), "decoder.span": mean(spec.decoder, "span")}
    for name, value in wanted.items():
      np.testing.assert_allclose(row[names.index(name)], value, rtol=1e-6)
    share = np.mean([layer.kind == "softmax" for layer in spec.decoder])
    np.testing.assert_allclose(row[names.index("decoder.kind=softmax")], share, rtol=1e-6)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("space", ["vision", "hat_wmt"])
def test_any_space_under_jit(name, space):
  """Inactive genes change nothing, names say what there is, and all is finite."""
  features, space = lookup(TABLE, name)(), lookup(SPACES, space)()
  assert type(features).__dataclass_params__.frozen and first_line(type(features))
  drawn = space.draw(jax.random.key(0), 20)
  compiled = jax.jit(features, static_argnums=0)
  got = compiled(space, drawn)
  np.testing.assert_allclose(got, compiled(space, space.canonical(drawn)), rtol=1e-6)
  assert got.shape[::2] == (20, len(features.names(space))) and jnp.isfinite(got).all()
