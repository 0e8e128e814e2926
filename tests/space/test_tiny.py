import jax
import numpy as np

from nasformer.space.tiny import Tiny


def test_size():
  """3 widths, then 3 kinds x 3 heads x 3 MLPs for each of 2, 3 or 4 layers."""
  assert Tiny().num_genes == 14
  np.testing.assert_allclose(10 ** Tiny().log10_size(), 3 * (27**2 + 27**3 + 27**4))


def test_samples_show_every_choice():
  space = Tiny()
  specs = [space.decode(genes) for genes in np.asarray(space.sample(jax.random.key(0), 200))]
  assert {spec.embed_dim for spec in specs} == set(space.embed_dim)
  assert {spec.depth for spec in specs} == set(space.depth)
  for field, values in (("kind", space.kinds), ("num_heads", space.num_heads), ("ffn_dim", space.ffn_dim)):
    assert {getattr(layer, field) for spec in specs for layer in spec.layers} == set(values)
