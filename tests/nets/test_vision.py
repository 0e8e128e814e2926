import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry
from nasformer.attention.cosformer import CosFormer
from nasformer.nets.blocks import Keep
from nasformer.nets.encoder import EncoderTransformer, layer_noise
from nasformer.nets.vision import Vision, VisionNet
from nasformer.types import EncoderSpec, LayerSpec, UserError

KINDS = {name: registry.lookup(attention.TABLE, name)() for name in attention.TABLE}
KINDS |= {"causal": CosFormer(causal=True)}
SPEC = EncoderSpec(6, (LayerSpec("softmax_relative", 2, 4, 5), LayerSpec("linear", 1, 4, 7)))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 2), np.uint8)
SMALL = EncoderSpec(6, (LayerSpec("softmax", 2, 4, 5), LayerSpec("linear", 1, 4, 7)))  # of quick kinds
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling


def make(**config):
  config = Vision(**{"patch_size": 2} | config)
  return VisionNet(config, (4, 6, 2), 3, tuple(KINDS.items()), (100.0, 120.0), (60.0, 50.0))


def draw(net, spec=SPEC):
  """Parameters of which none is zero."""
  shapes = jax.eval_shape(EncoderTransformer(net, spec).init, jax.random.key(0), IMAGES)["params"]
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes)


@functools.cache
def compiled(*network):
  return jax.jit(EncoderTransformer(*network).apply, compiler_options=QUICK)


def run(net, params, images=IMAGES, key=None, spec=SPEC, width_share=1.0):
  return np.asarray(compiled(net, spec, width_share)({"params": params}, images, key))


# -- the ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("scale_embedding", [False, True])
def test_stem_by_hand(class_token, scale_embedding):
  """Patch by patch, each flattened by row, column and channel, from pixels that are standardised by channel."""
  net = make(class_token=class_token, scale_embedding=scale_embedding)
  params = draw(net)["stem"]
  assert ("class" in params) == class_token and net.length == 6 + class_token
  pixels = (IMAGES - np.array([100, 120])) / np.array([60, 50])
  tokens = [np.broadcast_to(params["class"], (3, 6))] if class_token else []
  for row in (0, 2):
    for column in (0, 2, 4):
      patch = [pixels[:, row + i, column + j, c] for i in range(2) for j in range(2) for c in range(2)]
      tokens.append(np.stack(patch, -1) @ params["patch"] + params["patch_bias"])
  want = np.stack(tokens, 1) * (np.sqrt(6) if scale_embedding else 1) + params["position"]
  np.testing.assert_allclose(jax.jit(net.stem)(params, IMAGES), want, rtol=1e-5, atol=1e-5)


def test_masked_stem_is_sliced():
  net = make(scale_embedding=True)
  params = draw(net)["stem"]

  @jax.jit
  def both(params, images):
    small = {name: leaf[..., :4] for name, leaf in params.items()}
    return net.stem(params, images, Keep(jnp.arange(6) < 4)), net.stem(small, images)

  got, want = both(params, IMAGES)
  np.testing.assert_allclose(got[..., :4], want, rtol=1e-5)
  assert not got[..., 4:].any()


def test_head_reads_the_mean_of_the_patches():
  x = np.random.default_rng(2).normal(size=(2, 7, 6)).astype(np.float32)
  for class_token in (False, True):
    net = make(class_token=class_token)
    params = draw(net)["head"]
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
    normed = normed * params["norm_scale"] + params["norm_bias"]
    want = normed[:, int(class_token):].mean(1) @ params["classes"] + params["classes_bias"]
    np.testing.assert_allclose(jax.jit(net.head)(params, x), want, rtol=1e-4, atol=1e-5)


# -- the whole ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_token", [pytest.param(False, marks=pytest.mark.slow), True])
def test_network_is_its_blocks_in_turn(class_token):
  net = make(class_token=class_token)
  params = draw(net)

  @jax.jit
  def in_turn(params, images):
    x = net.stem(params["stem"], images)
    for i, layer in enumerate(SPEC.layers):
      x, _ = net.attention(layer.kind, params[f"layer_{i}_attention"], x)
      x = net.mlp(params[f"layer_{i}_mlp"], x)
    return net.head(params["head"], x)

  got = run(net, params)
  np.testing.assert_allclose(got, in_turn(params, IMAGES), rtol=1e-4, atol=1e-5)
  assert got.shape == (3, 3) and got.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_independent_and_order_is_seen(kind):
  net, spec = make(), EncoderSpec(6, (LayerSpec(kind, 2, 4, 5),))
  params = draw(net, spec)
  out = run(net, params, spec=spec)
  changed = run(net, params, np.stack([IMAGES[0], 255 - IMAGES[1], IMAGES[2]]), spec=spec)
  np.testing.assert_array_equal(changed[::2], out[::2])
  assert np.abs(changed[1] - out[1]).max() > 1e-3
  mirrored = run(net, params, IMAGES[:, :, ::-1], spec=spec)
  assert np.abs(mirrored - out).max() > 1e-3


def test_pixels_may_be_floats():
  net = make()
  params = draw(net)
  np.testing.assert_array_equal(run(net, params), run(net, params, IMAGES.astype(np.float32)))


@pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=() if KINDS[kind].can.grid else pytest.mark.slow) for kind in KINDS])
def test_bfloat16_is_close(kind):
  spec = EncoderSpec(6, (LayerSpec(kind, 2, 4, 5),))
  params = jax.tree.map(lambda leaf: leaf / 2, draw(make(), spec))
  exact, rough = run(make(), params, spec=spec), run(make(dtype="bfloat16"), params, spec=spec)
  assert rough.dtype == np.float32
  np.testing.assert_allclose(rough, exact, rtol=2e-2, atol=2e-2)
  assert (rough != exact).any()


def test_gelu_is_not_relu():
  params = draw(make(), SMALL)
  assert np.abs(run(make(activation="gelu"), params, spec=SMALL) - run(make(), params, spec=SMALL)).max() > 1e-3


# -- noise -------------------------------------------------------------------------------------------------------------


def test_without_rates_a_key_changes_nothing():
  net = make()
  params = draw(net, SMALL)
  np.testing.assert_array_equal(run(net, params, key=jax.random.key(0), spec=SMALL), run(net, params, spec=SMALL))
  assert layer_noise(net, jax.random.key(0), 0, 4, 1.0) == (None, None)
  assert layer_noise(make(dropout=0.5), None, 0, 4, 1.0) == (None, None)


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"stochastic_depth": 0.5}])
def test_noise_is_a_function_of_its_key(rates):
  net = make(**rates)
  params = draw(net, SMALL)
  one, again, other, none = (run(net, params, key=key, spec=SMALL) for key in (*map(jax.random.key, (0, 0, 1)), None))
  np.testing.assert_array_equal(one, again)
  assert (one != other).any()
  np.testing.assert_array_equal(none, run(make(), params, spec=SMALL))


def test_rates_rise_with_the_layer_and_fall_with_the_width():
  net = make(dropout=0.4, stochastic_depth=0.3)
  noises = [layer_noise(net, jax.random.key(0), layer, 4, 0.5) for layer in range(4)]
  for layer, pair in enumerate(noises):
    for noise in pair:
      np.testing.assert_allclose((noise.hidden, noise.drop_path), (0.2, 0.3 * layer / 3), rtol=1e-6)
  keys = np.array([jax.random.key_data(noise.key) for pair in noises for noise in pair])
  assert len(np.unique(keys, axis=0)) == 8
  assert layer_noise(net, jax.random.key(0), 0, 1, 1.0)[0].drop_path == 0  # a single layer is the first


def test_width_share_scales_dropout_only():
  params = draw(make(), SMALL)
  share = lambda rate, share: run(make(dropout=rate), params, key=jax.random.key(0), spec=SMALL, width_share=share)
  np.testing.assert_array_equal(share(0.5, 0.5), share(0.25, 1.0))
  assert (share(0.5, 0.5) != share(0.5, 1.0)).any()


def test_noise_of_the_last_layer_is_right_on_average():
  """The branch is so small that the norm and the head behind it are linear in it."""
  net, spec = make(dropout=0.5), EncoderSpec(6, (LayerSpec("softmax", 2, 4, 5),))
  params = draw(net, spec)
  params["layer_0_mlp"] |= {"down": 1e-2 * params["layer_0_mlp"]["down"]}

  @functools.partial(jax.jit, compiler_options=QUICK)
  def many(params, images, key):
    apply = lambda key: EncoderTransformer(net, spec, 0.5).apply({"params": params}, images, key)
    return jax.vmap(apply)(jax.random.split(key, 2000))

  outs = np.asarray(many(params, IMAGES, jax.random.key(0)))
  error = np.abs(outs.mean(0) - run(net, params, spec=spec))
  assert (error < 4.5 * outs.std(0) / np.sqrt(2000) + 1e-5).all() and outs.std() > 1e-2


# -- costs and mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_token", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_what_is_computed(kind, class_token, count_products):
  net, spec = make(class_token=class_token), EncoderSpec(6, (LayerSpec(kind, 2, 4, 5), LayerSpec(kind, 3, 4, 7)))
  params = draw(net, spec)
  apply = lambda params, images: EncoderTransformer(net, spec).apply({"params": params}, images)
  assert net.count_spec(spec).params == sum(leaf.size for leaf in jax.tree.leaves(params))
  assert net.count_spec(spec).products == count_products(apply, params, IMAGES[:1])


def test_initial_network_is_deterministic_and_finite():
  init = jax.jit(EncoderTransformer(make(), SMALL).init, compiler_options=QUICK)
  one, again = init(jax.random.key(0), IMAGES), init(jax.random.key(0), IMAGES)
  jax.tree.map(np.testing.assert_array_equal, one, again)
  assert np.isfinite(run(make(), one["params"], spec=SMALL)).all()


@pytest.mark.parametrize("change, message", [
    ({"activation": "tanh"}, "net.activation='tanh': it must be one of relu, gelu"),
    ({"dtype": "float16"}, "net.dtype='float16'"),
    ({"dropout": 1.0}, "net.dropout=1.0: it must lie between 0 and 0.99"),
    ({"dropout": 0.998}, "net.dropout=0.998: it must lie between 0 and 0.99"),
    ({"stochastic_depth": -0.1}, "net.stochastic_depth=-0.1"),
    ({"patch_size": 0}, "net.patch_size=0"),
    ({"patch_size": 4}, "net.patch_size=4 does not divide images of 4x6: choose a common divisor, such as 2"),
])
def test_mistakes_are_told(change, message):
  with pytest.raises(UserError, match=message):
    make(**change)


def test_a_net_is_hashable():
  assert hash(make()) == hash(make()) and make() == dataclasses.replace(make(dropout=0.1), config=Vision(2))
