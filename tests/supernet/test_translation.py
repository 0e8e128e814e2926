"""What is stored, cut out and read; that all forms agree with the small network is one of the laws."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.linear import Linear
from nasformer.attention.softmax import Softmax
from nasformer.nets.translation import PAD, Pair, Translation, TranslationNet
from nasformer.space.translation import Translation as TranslationSpace
from nasformer.supernet.translation import TranslationSupernet
from nasformer.types import DecoderLayerSpec, LayerSpec, TranslationSpec

SPACE = TranslationSpace(
    encoder_embed_dim=(4, 6), decoder_embed_dim=(6, 8), encoder_depth=(2, 3), decoder_depth=(1, 2),
    encoder_ffn_dim=(3, 5), decoder_ffn_dim=(2, 7), encoder_heads=(1, 2), decoder_heads=(2,), cross_heads=(2, 4),
    span=(1, 2), qkv_dim=8, encoder_kinds=("softmax", "linear"), decoder_kinds=("linear",), cross_kinds=("softmax",))
SPEC = TranslationSpec(6, 6, (LayerSpec("linear", 1, 8, 3), LayerSpec("softmax", 2, 4, 5)),
                       (DecoderLayerSpec("linear", 2, 4, "softmax", 2, 4, 2, 2),))
PAIR = Pair(np.array([[5, 4, 2, PAD], [3, 8, 6, 2]]), np.array([[6, 5, 2], [4, 2, PAD]]))
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling
quick = functools.partial(jax.jit, compiler_options=QUICK)


def make(**config):
  config = Translation(**{"dropout": 0.0, "count_vocabulary": True} | config)
  net = TranslationNet(config, 9, 9, (("softmax", Softmax()), ("linear", Linear())), (6, 8))
  return TranslationSupernet(SPACE, net)


@pytest.fixture(scope="module")
def params():
  """None is zero."""
  shapes, rng = jax.eval_shape(PRE.init, jax.random.key(0)), np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def poisoned(params, genes, value=np.nan):
  """The parameters with this value wherever they are not used. In cross-attention, what lies behind the encoder's width
  meets zeros, so it may be anything that is finite."""
  bad = lambda path: 1e3 if path[-1].key.startswith("cross.") else value
  change = lambda path, leaf, mask: np.where(mask, leaf, np.float32(bad(path)))
  return jax.tree_util.tree_map_with_path(change, params, USED(genes))


PRE = make(norm="pre", embeddings="separate")
USED = quick(PRE.used)
FEW = dataclasses.replace(SPACE, encoder_heads=(2,), cross_heads=(4,), span=(2,))  # as large, and compiled quickly
OF_FEW = TranslationSpec(4, 6, (LayerSpec("linear", 2, 4, 3), LayerSpec("softmax", 2, 4, 5)),
                         (DecoderLayerSpec("linear", 2, 4, "softmax", 4, 2, 2, 2),))
NOISY = dataclasses.replace(
    make(norm="pre", embeddings="separate", dropout=0.3, activation_dropout=0.2, attention_dropout=0.1), space=FEW)


# -- what is stored ----------------------------------------------------------------------------------------------------


def attention(depth, width, source_width, heads):
  """Shapes of the projections of one kind, cut into the most heads."""
  parts = {"query": (width, heads, 8 // heads)} | {role: (source_width, heads, 8 // heads) for role in ("key", "value")}
  parts |= {f"{role}_bias": (heads, 8 // heads) for role in list(parts)}
  parts |= {"out": (heads, 8 // heads, width), "out_bias": (width,)}
  return {name: (depth, *shape) for name, shape in parts.items()}


def test_stored_tensors():
  """Projections of each kind apart, one norm for both; layers stacked at the largest sizes, for the most heads."""
  encoder, decoder = {}, {}
  for kind in ("softmax", "linear"):
    encoder |= {f"attention.{kind}.{name}": shape for name, shape in attention(3, 6, 6, 2).items()}
  decoder |= {f"attention.linear.{name}": shape for name, shape in attention(2, 8, 8, 2).items()}
  decoder |= {f"cross.softmax.{name}": shape for name, shape in attention(2, 8, 6, 4).items()}
  rest = (encoder, 3, 6, 5, "attention mlp"), (decoder, 2, 8, 7, "attention cross mlp")
  for side, depth, width, ffn, modules in rest:
    side |= {f"{module}.norm_{part}": (depth, width) for module in modules.split() for part in ("scale", "bias")}
    side |= {"mlp.up": (depth, width, ffn), "mlp.up_bias": (depth, ffn)}
    side |= {"mlp.down": (depth, ffn, width), "mlp.down_bias": (depth, width)}
  params = jax.eval_shape(make(norm="pre").init, jax.random.key(0))
  shapes = jax.tree.map(lambda leaf: leaf.shape, params)
  ends = {"embedding": (9, 8), "encoder_norm_scale": (6,), "encoder_norm_bias": (6,), "decoder_norm_scale": (8,),
          "decoder_norm_bias": (8,)}
  assert shapes == {"ends": ends, "encoder": encoder, "decoder": decoder}


def test_initial_layers_differ_and_repeat():
  init = quick(dataclasses.replace(make(), space=dataclasses.replace(SPACE, encoder_kinds=("linear",))).init)
  one, again, other = (jax.device_get(init(jax.random.key(seed))) for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, one, again)
  for side in ("encoder", "decoder"):
    up = one[side]["mlp.up"]
    assert (up[0] != up[1]).any() and (up != other[side]["mlp.up"]).any() and not one[side]["mlp.up_bias"].any()


def test_derived_tensors_by_hand(params):
  """Fewer heads are runs of neighbouring ones."""
  derived = quick(lambda params: make(embeddings="separate").derive(params, SPEC))(params)
  encoder, decoder = params["encoder"], params["decoder"]

  def norm(stored, module, i):
    return {f"norm_{part}": stored[f"{module}.norm_{part}"][i, :6] for part in ("scale", "bias")}

  def attention(stored, module, kind, i, heads):
    prefix, parts = f"{module}.{kind}", norm(stored, module, i)
    for role in ("query", "key", "value"):
      parts[role] = stored[f"{prefix}.{role}"][i, :6].reshape(6, heads, 8 // heads)
      parts[f"{role}_bias"] = stored[f"{prefix}.{role}_bias"][i].reshape(heads, 8 // heads)
    parts["out"] = stored[f"{prefix}.out"][i, :, :, :6].reshape(heads, 8 // heads, 6)
    return parts | {"out_bias": stored[f"{prefix}.out_bias"][i, :6]}

  want = {"ends": {name: leaf[:, :6] for name, leaf in params["ends"].items() if "norm" not in name},
          "encoder_0_attention": attention(encoder, "attention", "linear", 0, 1),
          "encoder_1_attention": attention(encoder, "attention", "softmax", 1, 2),
          "decoder_0_attention": attention(decoder, "attention", "linear", 0, 2),
          "decoder_0_cross": attention(decoder, "cross", "softmax", 0, 2)}
  for side, stored, i, ffn in (("encoder", encoder, 0, 3), ("encoder", encoder, 1, 5), ("decoder", decoder, 0, 2)):
    want[f"{side}_{i}_mlp"] = norm(stored, "mlp", i) | {
        "up": stored["mlp.up"][i, :6, :ffn], "up_bias": stored["mlp.up_bias"][i, :ffn],
        "down": stored["mlp.down"][i, :ffn, :6], "down_bias": stored["mlp.down_bias"][i, :6]}
  assert derived.keys() == want.keys()
  jax.tree.map(np.testing.assert_array_equal, derived, want)


@pytest.mark.parametrize("norm, embeddings", [pytest.param("post", "joint", marks=pytest.mark.slow), ("pre", "separate")])
def test_used_is_what_the_network_has(norm, embeddings):
  """As many numbers as it counts, and those that are cut out for it: their sum stays when all others are zero."""
  supernet = make(norm=norm, embeddings=embeddings)
  shapes, rng = jax.eval_shape(supernet.init, jax.random.key(0)), np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.integers(1, 100, leaf.shape), shapes)
  total, used_by = lambda tree: sum(int(leaf.sum()) for leaf in jax.tree.leaves(tree)), quick(supernet.used)
  genomes = np.asarray(quick(lambda key: SPACE.sample(key, 6))(jax.random.key(0)))
  specs = [SPACE.decode(genes) for genes in genomes]
  derived = jax.device_get(quick(lambda params: [supernet.derive(params, spec) for spec in specs])(params))
  for genes, spec, small in zip(genomes, specs, derived):
    used = jax.tree.map(lambda mask, leaf: np.broadcast_to(mask, leaf.shape), jax.device_get(used_by(genes)), shapes)
    assert total(used) == supernet.net.count_spec(spec).params
    assert total(small) == total(jax.tree.map(np.multiply, params, used))
    own = jax.eval_shape(supernet.module(spec).init, jax.random.key(0), PAIR)["params"]
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, own)


# -- what is read ------------------------------------------------------------------------------------------------------


def test_exact_is_the_small_network_with_its_noise_and_reads_nothing_else(params):
  """One key, one pattern of dropout, at rates of the network's own widths."""
  key, network = jax.random.key(3), NOISY.module(OF_FEW)
  run = quick(lambda params, *args: network.apply({"params": NOISY.derive(params, OF_FEW)}, *args))
  want, genes = np.asarray(run(params, PAIR, key)), FEW.encode(OF_FEW)
  close(quick(NOISY.exact)(poisoned(params, SPACE.encode(OF_FEW)), genes, PAIR, key), want)
  assert np.abs(want - run(params, PAIR, jax.random.key(4))).max() > 1e-2


def test_dead_weights_do_not_count(params):
  """The masked form multiplies by them, so they must be finite, but nothing else."""
  masked, genes = quick(dataclasses.replace(PRE, space=FEW).masked), FEW.encode(OF_FEW)
  close(masked(poisoned(params, SPACE.encode(OF_FEW), 1e3), genes, PAIR), masked(params, genes, PAIR))
