import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.nets.encoder import EncoderTransformer
from nasformer.types import EncoderSpec, LayerSpec

SPEC = EncoderSpec(4, (LayerSpec("linear", 2, 4, 3), LayerSpec("softmax", 1, 4, 5)))  # depth 2 of 3, the smaller width


@pytest.fixture
def genes(small):
  return jnp.asarray(small.space.encode(SPEC))


def close(got, want, tolerance=1e-4):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


def sliced(small, spec, *inputs, supernet=None):
  """What the small network says."""
  supernet = supernet or small.supernet
  run = small.quick(EncoderTransformer(supernet.net, spec, spec.embed_dim / 6).apply)
  return run({"params": supernet.derive(small.params, spec)}, *inputs)


def poison(params, used):
  """NaN wherever it is not used."""
  return jax.tree.map(lambda leaf, mask: np.where(mask, leaf, np.float32(np.nan)), params, used)


def test_stored_tensors(small):
  """Projections of each kind apart, one norm for both; layers stacked at the largest sizes."""
  params = jax.eval_shape(small.supernet.init, jax.random.key(0))
  roles = ("query", "key", "value")
  projections = {role: (3, 6, 2, 4) for role in roles} | {f"{role}_bias": (3, 2, 4) for role in roles}
  projections |= {"out": (3, 2, 4, 6), "out_bias": (3, 6)}
  layers = {f"{kind}.{name}": shape for kind in ("softmax", "linear") for name, shape in projections.items()}
  layers |= {f"{block}.norm_{part}": (3, 6) for block in ("attention", "mlp") for part in ("scale", "bias")}
  layers |= {"mlp.up": (3, 6, 5), "mlp.up_bias": (3, 5), "mlp.down": (3, 5, 6), "mlp.down_bias": (3, 6)}
  assert {name: leaf.shape for name, leaf in params["layers"].items()} == layers
  assert {name: leaf.shape for name, leaf in params["stem"].items()} == {
      "patch": (8, 6), "patch_bias": (6,), "position": (7, 6), "class": (6,)}
  assert {name: leaf.shape for name, leaf in params["head"].items()} == {
      "norm_scale": (6,), "norm_bias": (6,), "classes": (6, 3), "classes_bias": (3,)}


def test_kinds_may_share_projections(small):
  """Then they are stored once, and networks that differ in kinds alone use the same numbers."""
  shared = dataclasses.replace(small.supernet, share_projections=True)
  names = {name.removeprefix("linear.").removeprefix("softmax.") for name in small.supernet.declared["layers"]}
  assert {name.removeprefix("attention.") for name in shared.declared["layers"]} == {
      name.removeprefix("attention.") for name in names}
  layers = [dataclasses.replace(layer, kind="softmax") for layer in SPEC.layers]
  genes = [jnp.asarray(small.space.encode(dataclasses.replace(SPEC, layers=tuple(mine)))) for mine in (SPEC.layers, layers)]
  jax.tree.map(np.testing.assert_array_equal, *map(shared.used, genes))
  used = jax.tree.map(lambda mask, tensor: np.broadcast_to(mask, (3, *tensor.shape)).sum(), shared.used(genes[0])["layers"],
                      shared.declared["layers"])
  assert used["attention.query"] == 4 * 3 * 4  # three heads in two layers, of width 4, from width 4


def test_initial_layers_differ_and_repeat(small):
  init = small.quick(small.supernet.init)
  params = init(jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, params, init(jax.random.key(0)))
  up = params["layers"]["mlp.up"]
  assert (up[0] != up[1]).any() and (params["layers"]["softmax.query"] != params["layers"]["linear.query"]).any()
  assert (params["layers"]["mlp.norm_scale"] == 1).all() and not params["layers"]["mlp.up_bias"].any()
  assert (up != init(jax.random.key(1))["layers"]["mlp.up"]).any()


def test_derived_tensors_by_hand(small):
  derived, layers = small.supernet.derive(small.params, SPEC), small.params["layers"]
  for i, (kind, heads, ffn) in enumerate([("linear", 2, 3), ("softmax", 1, 5)]):
    want = {"norm_scale": layers["attention.norm_scale"][i, :4], "norm_bias": layers["attention.norm_bias"][i, :4],
            "out": layers[f"{kind}.out"][i, :heads, :, :4], "out_bias": layers[f"{kind}.out_bias"][i, :4]}
    for role in ("query", "key", "value"):
      want |= {role: layers[f"{kind}.{role}"][i, :4, :heads],
               f"{role}_bias": layers[f"{kind}.{role}_bias"][i, :heads]}
    jax.tree.map(np.testing.assert_array_equal, derived[f"layer_{i}_attention"], want)
    want = {"norm_scale": layers["mlp.norm_scale"][i, :4], "norm_bias": layers["mlp.norm_bias"][i, :4],
            "up": layers["mlp.up"][i, :4, :ffn], "up_bias": layers["mlp.up_bias"][i, :ffn],
            "down": layers["mlp.down"][i, :ffn, :4], "down_bias": layers["mlp.down_bias"][i, :4]}
    jax.tree.map(np.testing.assert_array_equal, derived[f"layer_{i}_mlp"], want)
  stem, head = small.params["stem"], small.params["head"]
  jax.tree.map(np.testing.assert_array_equal, derived["stem"], {name: leaf[..., :4] for name, leaf in stem.items()})
  want = {name: leaf if name == "classes_bias" else leaf[:4] for name, leaf in head.items()}
  jax.tree.map(np.testing.assert_array_equal, derived["head"], want)
  assert list(derived) == ["stem", "layer_0_attention", "layer_0_mlp", "layer_1_attention", "layer_1_mlp", "head"]


def test_derived_tree_is_the_small_networks_own(small):
  module = EncoderTransformer(small.supernet.net, SPEC)
  own = jax.eval_shape(module.init, jax.random.key(0), small.batch["image"])["params"]
  assert jax.eval_shape(lambda p: small.supernet.derive(p, SPEC), small.params) == own


def test_used_is_what_gets_a_gradient(small):
  """And there are as many as the network has parameters. Only key biases of softmax layers cannot matter:
  they add the same to all logits of a query."""
  rng = np.random.default_rng(1)
  weights = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
  slope = lambda p, g: (weights * small.supernet.masked(p, g, small.batch["image"])).sum()
  gradient = small.quick(jax.grad(slope))
  used_by = small.quick(small.supernet.used)
  for genes in small.quick(lambda key: small.space.sample(key, 20))(jax.random.key(0)):
    used = jax.tree.map(lambda mask, leaf: np.broadcast_to(mask, leaf.shape), used_by(genes), small.params)
    count = small.supernet.net.count_spec(small.space.decode(np.asarray(genes)))
    assert sum(mask.sum() for mask in jax.tree.leaves(used)) == count.params
    grads = jax.device_get(gradient(small.params, genes))
    for part in used:
      for name, mask in used[part].items():
        moved = grads[part][name] != 0
        assert (moved <= mask).all(), name
        assert name == "softmax.key_bias" or (moved == mask).all(), name


def test_exact_reads_nothing_else(small, genes):
  run = small.quick(small.supernet.exact)
  poisoned = poison(small.params, small.quick(small.supernet.used)(genes))
  assert any(np.isnan(leaf).any() for leaf in jax.tree.leaves(poisoned))
  close(run(poisoned, genes, small.batch["image"]), sliced(small, SPEC, small.batch["image"]))


def test_a_chunk_reads_what_its_largest_member_reads(small):
  """One member has the largest sizes of all in every layer, and no kind is used that it does not use."""
  smaller = EncoderSpec(4, (LayerSpec("linear", 1, 4, 3), LayerSpec("softmax", 1, 4, 3)))
  specs = [EncoderSpec(4, SPEC.layers[:1]), SPEC, smaller]
  genes = jnp.asarray(np.stack([small.space.encode(spec) for spec in specs]))
  poisoned = poison(small.params, small.quick(small.supernet.used)(genes[1]))
  member = lambda g: small.supernet.shared(poisoned, g, small.batch["image"], "chunk")
  for got, spec in zip(small.quick(jax.vmap(member, axis_name="chunk"))(genes), specs, strict=True):
    close(got, sliced(small, spec, small.batch["image"]))


def test_dead_channels_are_zero_whatever_their_weights(small, genes):
  """The masked form multiplies by dead weights, so those must be finite; but their values do not count."""
  run = small.quick(small.supernet.masked)
  used = small.quick(small.supernet.used)(genes)
  wild = jax.tree.map(lambda leaf, mask: np.where(mask, leaf, np.float32(1e3)), small.params, used)
  close(run(wild, genes, small.batch["image"]), run(small.params, genes, small.batch["image"]), 1e-6)


RATE = 0.0029  # of dropout, in steps of 1/256: one step at the largest width of 6, none at 4


def test_noise_is_that_of_the_small_network(small):
  """Stochastic depth of a network of full depth: one key, one pattern. Dropout is scaled down to nothing."""
  supernet = small.make(stochastic_depth=0.6, dropout=RATE)
  deep = EncoderSpec(4, SPEC.layers + (LayerSpec("linear", 1, 4, 5),))
  genes, images, key = jnp.asarray(small.space.encode(deep)), small.batch["image"], jax.random.key(3)
  want = sliced(small, deep, images, key, supernet=supernet)
  assert np.abs(want - sliced(small, deep, images)).max() > 1e-2
  for form in (supernet.masked, supernet.exact):
    close(small.quick(form)(small.params, genes, images, key), want)


def test_dropout_falls_with_the_width(small):
  supernet, images = small.make(dropout=RATE), small.batch["image"]
  run = small.quick(lambda g, key: supernet.masked(small.params, g, images, key))
  wide = jnp.asarray(small.space.encode(EncoderSpec(6, SPEC.layers)))
  narrow = jnp.asarray(small.space.encode(SPEC))
  differs = lambda genes: any((run(genes, jax.random.key(i)) != run(genes, jax.random.key(0))).any() for i in range(20))
  assert differs(wide) and not differs(narrow)


def test_bfloat16_is_close(small, genes):
  rough = small.make(dtype="bfloat16")
  run = lambda supernet: small.quick(supernet.masked)(small.params, genes, small.batch["image"])
  got, want = run(rough), run(small.supernet)
  assert got.dtype == jnp.float32 and (got != want).any()
  close(got, want, 2e-2)
