"""On a toy network; that the counts of real networks are exact is one of the laws."""

import itertools

import jax
import numpy as np
import pytest

from nasformer.attention.base import Count
from nasformer.score.counts import NumFlops, NumParams, terms
from nasformer.space.encoder import Encoder

SPACE = Encoder(embed_dim=(2, 3), depth=(1, 2), num_heads=(1, 2), head_dim=5, ffn_dim=(7, 11), kinds=("a", "b"))


class ToyNet:
  """Prices that tell every size apart."""

  def __init__(self):
    self.asked = []

  def count(self, role, **sizes):
    self.asked.append((role, *sizes.values()))
    if role == "ends":
      return Count(sizes["embed_dim"], 10 * sizes["embed_dim"], 10**6)
    if role == "attention":
      factor = {"a": 100, "b": 1000}[sizes["kind"]]
      return Count(factor * sizes["num_heads"] * sizes["head_dim"], factor * sizes["embed_dim"])
    return Count(sizes["embed_dim"] * sizes["ffn_dim"], 0)

  def count_spec(self, spec):
    total = self.count("ends", embed_dim=spec.embed_dim)
    for layer in spec.layers:
      sizes = {"kind": layer.kind, "num_heads": layer.num_heads, "head_dim": layer.head_dim}
      total += self.count("attention", embed_dim=spec.embed_dim, **sizes)
      total += self.count("mlp", embed_dim=spec.embed_dim, ffn_dim=layer.ffn_dim)
    return total


def test_read():
  """A multiply-add is two operations; element-wise work is left out."""
  assert NumParams().read(Count(3, 5, 7)) == 3 and NumFlops().read(Count(3, 5, 7)) == 10


@pytest.mark.parametrize("cost", [NumParams(), NumFlops()])
def test_terms_of_active_parts_add_up(cost):
  """A part exists while the last of its genes is active."""
  found = terms(SPACE, ToyNet(), cost)
  assert [tuple(SPACE.genes[i].name for i in where) for where, _ in found] == [part.genes for part in SPACE.parts]
  for genes in np.asarray(SPACE.sample(jax.random.key(0), 30)):
    active = np.asarray(SPACE.active(genes))
    total = sum(prices[tuple(genes[list(where)])] for where, prices in found if active[where[-1]])
    assert total == cost.read(ToyNet().count_spec(SPACE.decode(genes)))


def test_prices_by_hand():
  ends, attention, mlp, *_ = (prices for _, prices in terms(SPACE, ToyNet(), NumParams()))
  np.testing.assert_array_equal(ends, [2, 3])
  np.testing.assert_array_equal(attention, [[[500, 1000], [5000, 10000]]] * 2)  # width, kind, heads
  np.testing.assert_array_equal(mlp, [[14, 22], [21, 33]])
  assert all(prices.dtype == np.int64 for prices in (ends, attention, mlp))


def test_layers_share_their_tables():
  """A deep space asks no more of the network than a shallow one: every combination of sizes once."""
  net = ToyNet()
  found = terms(SPACE, net, NumFlops())
  combinations = [("ends", dim) for dim in (2, 3)]
  combinations += [("attention", *sizes, 5) for sizes in itertools.product((2, 3), ("a", "b"), (1, 2))]
  combinations += [("mlp", *sizes) for sizes in itertools.product((2, 3), (7, 11))]
  assert sorted(net.asked, key=str) == sorted(combinations, key=str)
  assert found[1][1] is found[3][1] and found[2][1] is found[4][1]
