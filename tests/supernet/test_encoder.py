import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.types import EncoderSpec, LayerSpec

SPEC = EncoderSpec(4, (LayerSpec("linear", 2, 4, 3), LayerSpec("softmax", 1, 4, 5)))  # depth 2 of 3, the smaller width


SHALLOW = EncoderSpec(4, SPEC.layers[:1])
RATE = 0.0029  # of dropout, in steps of 1/256: one step at the largest width of 6, none at 4


@pytest.fixture
def genes(small):
  return small.space.encode(SPEC)


@pytest.fixture(scope="module")
def masked(small):
  """(parameters, genes) -> logits of the masked form, and the gradient of a random sum of them."""
  weights = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)

  def run(params, genes):
    logits = small.supernet.masked(params, genes, small.batch["image"])
    return (weights * logits).sum(), logits

  both = small.quick(jax.grad(run, has_aux=True))
  return lambda *args: jax.device_get(both(*args))[::-1]


@pytest.fixture(scope="module")
def used(small):
  """Genes -> which parameters are used."""
  run = small.quick(small.supernet.used)
  return lambda genes: jax.device_get(run(genes))


@pytest.fixture(scope="module")
def noisy(small):
  """A supernet of up to two layers that drops, and its forms: (parameters, genes, images, key) -> logits."""
  space = dataclasses.replace(small.space, depth=(1, 2))
  supernet = dataclasses.replace(small.make(stochastic_depth=0.6, dropout=RATE), space=space)
  forms = {name: small.quick(getattr(supernet, name)) for name in ("masked", "exact")}
  return types.SimpleNamespace(space=space, supernet=supernet, **forms)


def close(got, want, tolerance=1e-4):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


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


@pytest.mark.parametrize("share, apart", [("all", ()), ("values", ("query", "query_bias", "key", "key_bias"))])
def test_kinds_may_share_projections(small, share, apart):
  """Then they are stored once, and networks that differ in kinds alone use the same numbers of them."""
  shared = dataclasses.replace(small.supernet, share_projections=share)
  names = {name.removeprefix("linear.").removeprefix("softmax.").removeprefix("attention.")
           for name in small.supernet.declared["layers"]}
  assert set(shared.declared["layers"]) == {
      stored for name in names for stored in
      ([f"softmax.{name}", f"linear.{name}"] if name in apart else [name if name.startswith("mlp.") else f"attention.{name}"])}
  layers = [dataclasses.replace(layer, kind="softmax") for layer in SPEC.layers]
  genes = [small.space.encode(dataclasses.replace(SPEC, layers=tuple(mine))) for mine in (SPEC.layers, layers)]
  one, two = ({name: mask for name, mask in small.quick(shared.used)(row)["layers"].items() if name.startswith("attention.")}
              for row in genes)
  jax.tree.map(np.testing.assert_array_equal, one, two)
  for name in {"attention.query", "attention.value"} & set(one):
    used = np.broadcast_to(one[name], (3, *shared.declared["layers"][name].shape)).sum()
    assert used == 4 * 3 * 4  # three heads in two layers, of width 4, from width 4


def test_initial_layers_differ_and_repeat(small):
  init = small.quick(small.supernet.init)
  params, again, other = (jax.device_get(init(jax.random.key(seed))) for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, params, again)
  up = params["layers"]["mlp.up"]
  assert (up[0] != up[1]).any() and (params["layers"]["softmax.query"] != params["layers"]["linear.query"]).any()
  assert (params["layers"]["mlp.norm_scale"] == 1).all() and not params["layers"]["mlp.up_bias"].any()
  assert (up != other["layers"]["mlp.up"]).any()


def test_derived_tensors_by_hand(small):
  @small.quick
  def derive(params):
    derived = small.supernet.derive(params, SPEC)
    assert list(derived) == ["stem", "layer_0_attention", "layer_0_mlp", "layer_1_attention", "layer_1_mlp", "head"]
    return derived

  derived = derive(small.params)
  layers, stem, head = small.params["layers"], small.params["stem"], small.params["head"]
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
  jax.tree.map(np.testing.assert_array_equal, derived["stem"], {name: leaf[..., :4] for name, leaf in stem.items()})
  want = {name: leaf if name == "classes_bias" else leaf[:4] for name, leaf in head.items()}
  jax.tree.map(np.testing.assert_array_equal, derived["head"], want)


def test_derived_tree_is_the_small_networks_own(small):
  own = jax.eval_shape(small.supernet.module(SPEC).init, jax.random.key(0), small.batch["image"])["params"]
  assert jax.eval_shape(lambda p: small.supernet.derive(p, SPEC), small.params) == own


def test_used_is_what_gets_a_gradient(small, masked, used):
  """And there are as many as the network has parameters. Only key biases of softmax layers cannot matter:
  they add the same to all logits of a query."""
  for genes in np.asarray(small.quick(lambda key: small.space.sample(key, 20))(jax.random.key(0))):
    which = jax.tree.map(lambda mask, leaf: np.broadcast_to(mask, leaf.shape), used(genes), small.params)
    count = small.supernet.net.count_spec(small.space.decode(genes))
    assert sum(mask.sum() for mask in jax.tree.leaves(which)) == count.params
    _, grads = masked(small.params, genes)
    for part in which:
      for name, mask in which[part].items():
        moved = grads[part][name] != 0
        assert (moved <= mask).all(), name
        assert name == "softmax.key_bias" or (moved == mask).all(), name


def test_a_chunk_reads_what_its_largest_member_reads(small, masked, used):
  """One member has the largest sizes of all in every layer, and no kind is used that it does not use."""
  smaller = EncoderSpec(4, (LayerSpec("linear", 1, 4, 3), LayerSpec("softmax", 1, 4, 3)))
  genes = np.stack([small.space.encode(spec) for spec in (SHALLOW, SPEC, smaller)])
  poisoned = poison(small.params, used(genes[1]))
  member = lambda g: small.supernet.shared(poisoned, g, small.batch["image"], "chunk")
  for got, row in zip(small.quick(jax.vmap(member, axis_name="chunk"))(genes), genes, strict=True):
    close(got, masked(small.params, row)[0])


def test_dead_channels_are_zero_whatever_their_weights(small, genes, masked, used):
  """The masked form multiplies by dead weights, so those must be finite; but their values do not count."""
  wild = jax.tree.map(lambda leaf, mask: np.where(mask, leaf, np.float32(1e3)), small.params, used(genes))
  close(masked(wild, genes)[0], masked(small.params, genes)[0], 1e-6)


def test_noise_is_that_of_the_small_network(small, noisy):
  """Of a network of full depth: one key, one pattern. Dropout is scaled down to nothing."""
  network = noisy.supernet.module(SPEC)
  run = small.quick(lambda params, *args: network.apply({"params": noisy.supernet.derive(params, SPEC)}, *args))
  genes, images, key = noisy.space.encode(SPEC), small.batch["image"], jax.random.key(3)
  want = np.asarray(run(small.params, images, key))
  assert max(np.abs(want - run(small.params, images, jax.random.key(seed))).max() for seed in range(3)) > 1e-2
  for form in (noisy.masked, noisy.exact):
    close(form(small.params, genes, images, key), want)


@pytest.mark.parametrize("spec", [SPEC, SHALLOW], ids=["narrow", "shallow"])
def test_exact_reads_nothing_else(small, noisy, used, spec):
  genes, images, key = noisy.space.encode(spec), small.batch["image"], jax.random.key(3)
  poisoned = poison(small.params, used(small.space.encode(spec)))
  assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(poisoned["layers"]))
  close(noisy.exact(poisoned, genes, images, key), noisy.masked(small.params, genes, images, key))


def test_dropout_falls_with_the_width(small, noisy):
  """Of a single layer, which is never left out."""
  run = lambda genes, seed: np.asarray(noisy.masked(small.params, genes, small.batch["image"], jax.random.key(seed)))
  wide, narrow = (noisy.space.encode(EncoderSpec(dim, SHALLOW.layers)) for dim in (6, 4))
  differs = lambda genes: any((run(genes, seed) != run(genes, 0)).any() for seed in range(20))
  assert differs(wide) and not differs(narrow)


def test_bfloat16_is_close(small, genes, masked):
  rough = small.quick(small.make(dtype="bfloat16").masked)
  got, (want, _) = rough(small.params, genes, small.batch["image"]), masked(small.params, genes)
  assert got.dtype == jnp.float32 and (np.asarray(got) != want).any()
  close(got, want, 2e-2)
