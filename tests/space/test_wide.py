import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.linear import Linear
from nasformer.attention.softmax import Softmax
from nasformer.nets.vision import Vision, VisionNet
from nasformer.search import variation
from nasformer.space.encoder import Encoder
from nasformer.space.wide import Wide
from nasformer.types import EncoderSpec, LayerSpec, UserError

SPACE = Wide()
FINE = Encoder(embed_dim=(8,), depth=(1, 2, 3), num_heads=(), head_budget=5, ffn_dim=(4,), kinds=("softmax",))
FEW = dataclasses.replace(SPACE, depth=(1, 2, 3))
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # the time goes into compiling
NET = VisionNet(Vision(8), (32, 32, 3), 10, (("softmax", Softmax()), ("linear", Linear())))


def shape(*heads, kind="softmax"):
  return EncoderSpec(192, tuple(LayerSpec(kind, number, 16, 384) for number in heads))


def heads_of(space, genes):
  return tuple(layer.num_heads for layer in space.decode(np.asarray(genes)).layers)


def test_any_depth_goes_with_any_composition():
  """By hand: 5 is written in 1, 4 and 6 ways as a sum of one, two and three; all are drawn, and there is nothing else."""
  assert SPACE.heads == tuple(range(4, 49, 4)) and FINE.heads == (1, 2, 3, 4, 5)
  assert dataclasses.replace(FINE, depth=(1, 3)).heads == (1, 2, 3, 5) and dataclasses.replace(FINE, depth=(1,)).heads == (5,)
  assert 10 ** FINE.log10_size() == pytest.approx(11)
  assert {heads_of(FINE, genes) for genes in np.unique(quick(FINE.sample, static_argnums=1)(jax.random.key(0), 300), axis=0)} == {
      (5,), (1, 4), (2, 3), (3, 2), (4, 1), (1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}


@pytest.mark.parametrize("space", [
    FEW, dataclasses.replace(FEW, restrict="depth=2,3; layer.*.num_heads=4,8,16,32; layer.1.num_heads=16")])
def test_variation_always_gives_the_budget(space):
  """And different genomes are different networks."""

  @quick
  def vary(key):
    one, two = space.sample(key, 60).reshape(2, 30, -1)
    children = [space.mutate(key, one, 0.3), space.cross(key, one, two), variation.mutate(key, space, one, 0.05, 0.5),
                variation.neighbours(space, two[0])[0][::4]]
    genes = jnp.concatenate([one, two, *children])
    return genes, space.contains(genes)

  genes, inside = map(np.asarray, vary(jax.random.key(0)))
  assert inside.all()
  specs = [space.decode(row) for row in genes]
  assert {sum(layer.num_heads for layer in spec.layers) for spec in specs} == {48}
  np.testing.assert_array_equal([space.encode(spec) for spec in specs], genes)
  assert len(set(specs)) == len(np.unique(genes, axis=0)) and len({spec.depth for spec in specs}) > 1


def test_a_mutation_keeps_what_it_changes():
  """The heads of one layer become 24; the others give in proportion to what they have. A single layer has no choice."""
  genes = SPACE.encode(shape(8, 4, 12, 24))
  first = np.arange(SPACE.num_genes) == 3
  assert heads_of(SPACE, SPACE.settle(np.where(first, SPACE.heads.index(24), genes), first)) == (24, 4, 8, 12)
  assert np.asarray(SPACE.free(np.stack([SPACE.encode(shape(48)), genes])))[:, 3:7:3].tolist() == [[False] * 2, [True] * 2]
  even = dataclasses.replace(SPACE, restrict="depth=6; layer.*.num_heads=8")
  assert even.free(even.encode(shape(*(8,) * 6))).sum() == 20 - 6


def test_reading_is_what_decode_says():
  """Of any genomes, whose heads seldom add up."""
  genes = np.random.default_rng(0).integers(0, [len(gene.values) for gene in SPACE.genes], (40, SPACE.num_genes), np.int32)
  reading = quick(SPACE.read)(genes)
  for i, spec in enumerate(map(SPACE.decode, genes)):
    assert reading.depth[i] == spec.depth and sum(layer.num_heads for layer in spec.layers) == 48
    for number, layer in enumerate(spec.layers):
      assert SPACE.heads[reading.heads[i, number]] == layer.num_heads
      assert SPACE.kinds[reading.kind[i, number]] == layer.kind
      assert SPACE.ffn_dim[reading.ffn[i, number]] == layer.ffn_dim


def test_what_is_all_alike_shares_evenly():
  """Hand-made networks, the genome of first options, and that of the largest ones."""
  alike = {(len(heads), *set(heads)) for heads in (heads_of(SPACE, genes) for genes in SPACE.uniform_genomes())}
  assert alike == {(1, 48), (2, 24), (3, 16), (4, 12), (6, 8)}
  assert heads_of(Encoder(depth=(2, 4), num_heads=(), head_budget=8), np.zeros(14, int)) == (4, 4)
  assert heads_of(SPACE, SPACE.genome({gene.name: gene.values[-1] for gene in SPACE.genes})) == (8,) * 6


@pytest.mark.parametrize("kind", ["softmax", "linear"])
@pytest.mark.parametrize("heads", [(24,) * 2, (16,) * 3, (8,) * 6, (4, 28, 16)])
def test_the_trade_costs_what_layers_have_beside_heads(kind, heads):
  """Every layer more costs its MLP, two norms and the bias of an output; heads cost the same wherever they are."""
  one, many, more = NET.count_spec(shape(48, kind=kind)), NET.count_spec(shape(*heads, kind=kind)), len(heads) - 1
  assert many.products - one.products == more * 2 * NET.length * 192 * 384
  assert many.params - one.params == more * (2 * 192 * 384 + 384 + 192 + 4 * 192 + 192)


@pytest.mark.parametrize("fields, message", [
    ({"num_heads": (2,)}, "either num_heads or head_budget"),
    ({"head_budget": 0}, "either num_heads or head_budget"),
    ({"head_step": 0}, "head_step=0: it must be positive"),
    ({"head_step": 5}, "head_budget=48: it must be a multiple of head_step=5"),
    ({"depth": (1, 13)}, "head_budget=48: 13 layers need at least 52 heads, 4 each"),
    ({"head_budget": -48}, "head_budget=-48: 6 layers need at least 24 heads"),
    ({"restrict": "layer.*.num_heads=8"}, "left to 1 layers never add up to head_budget=48 .they do with depth=6."),
    ({"restrict": "layer.*.num_heads=20"}, "left to 1 layers never add up to head_budget=48 .nor do those of any depth.")])
def test_budgets_that_make_no_space_are_refused(fields, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(SPACE, **fields)


@pytest.mark.parametrize("heads, message", [
    ((12, 12), "2 layers with 24 heads are outside the space .head_budget 48."),
    ((22, 26), "layer.0.num_heads = 22 is outside the space")])
def test_heads_of_another_space_are_refused(heads, message):
  with pytest.raises(UserError, match=message):
    SPACE.encode(shape(*heads))
