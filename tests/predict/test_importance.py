"""Importance of features against Kendall's tau, and spaces that are pruned by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.ops import stats
from nasformer.predict.importance import importance, prune, select
from nasformer.space.tiny import Tiny
from nasformer.types import UserError


def test_importance_is_kendall_tau():
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 4, (25, 3)).astype(np.float32), rng.integers(0, 6, 25).astype(np.float32)
  x[:, 2] = 7
  got = jax.jit(importance)(jnp.asarray(x), jnp.asarray(y), jnp.ones(25))
  np.testing.assert_allclose(got, [abs(stats.kendall_tau(column, y)) for column in x.T], atol=1e-6)
  assert got[2] == 0


def test_rows_of_weight_0_do_not_count():
  x, y = jnp.array([[1.0], [2.0], [jnp.nan], [3.0]]), jnp.array([1.0, 2.0, jnp.nan, 3.0])
  assert importance(x, y, jnp.array([1.0, 1, 0, 1])) == 1


def test_select_gives_the_best_first():
  rng = np.random.default_rng(0)
  y = np.arange(20.0, dtype=np.float32)
  x = np.stack([rng.normal(size=20), -y, y + 8 * rng.normal(size=20)], 1).astype(np.float32)
  np.testing.assert_array_equal(select(jnp.asarray(x), jnp.asarray(y), jnp.ones(20), 2), [1, 2])


def labelled(space):
  """Depth counts most, then the width of heads; softmax layers help a little, MLPs not at all."""
  genes = np.asarray(space.sample(jax.random.key(0), 300))
  specs = [space.decode(row) for row in genes]
  return genes, np.array([2.0 * spec.depth + sum(layer.num_heads for layer in spec.layers)
                          + 0.1 * sum(layer.kind == "softmax" for layer in spec.layers) for spec in specs])


def test_prune_keeps_what_counts_and_fixes_the_rest_to_its_best_value():
  space = Tiny()
  genes, targets = labelled(space)
  small = prune(space, genes, targets, 2)
  sampled = small.sample(jax.random.key(1), 50)
  specs = [small.decode(row) for row in np.asarray(sampled)]
  assert len({spec.depth for spec in specs}) > 1
  for field, kept in (("num_heads", True), ("ffn_dim", False), ("kind", False)):
    found = {getattr(layer, field) for spec in specs for layer in spec.layers}
    assert (len(found) > 1) == kept, field
  assert len({spec.embed_dim for spec in specs}) == 1
  assert space.contains(sampled).all()  # it is still the same space


def test_the_value_is_that_of_the_best_mean_label():
  """By hand for the width of the network, which is given a label of its own."""
  space = Tiny()
  genes = np.asarray(space.sample(jax.random.key(0), 300))
  targets = 100.0 * genes[:, space.index["depth"]] - 60.0 * (genes[:, 0] != 1)
  assert f"embed_dim={space.embed_dim[1]}" in prune(space, genes, targets, 1).restrict


def test_restrictions_are_kept():
  space = Tiny("layer.*.kind=linear")
  genes, targets = labelled(space)
  small = prune(space, genes, targets, 1)
  assert small.restrict.startswith("layer.*.kind=linear; ")
  specs = [small.decode(row) for row in np.asarray(small.sample(jax.random.key(1), 20))]
  assert {layer.kind for spec in specs for layer in spec.layers} == {"linear"}


@pytest.mark.parametrize("keep, spoil, told", [
    (0, 1.0, "keep=0: the space has 5 roles"), (9, 1.0, "keep=9"), (1, np.nan, "0 of 300 labels are finite"),
])
def test_what_cannot_be_pruned_is_refused(keep, spoil, told):
  genes, targets = labelled(Tiny())
  with pytest.raises(UserError, match=told):
    prune(Tiny(), genes, targets * spoil, keep)
