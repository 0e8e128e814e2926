import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry
from nasformer.attention.base import Sizes
from nasformer.nets.translation import (BOS, PAD, Pair, Sliced, Translation, TranslationNet, TranslationTransformer,
                                        sinusoids)
from nasformer.types import DecoderLayerSpec, LayerSpec, TranslationSpec, UserError

KINDS = {name: registry.lookup(attention.TABLE, name)() for name in attention.TABLE}
PAIR = Pair(np.array([[5, 4, 7, 2, PAD, PAD], [3, 8, 9, 4, 6, 2], [9, 2, PAD, PAD, PAD, PAD]], np.int32),
            np.array([[6, 5, 2, PAD, PAD], [4, 4, 3, 2, PAD], [8, 7, 9, 5, 2]], np.int32))
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling
quick = functools.partial(jax.jit, compiler_options=QUICK)
ABLE = [name for name, kind in KINDS.items() if kind.can.causal]
over_kinds = pytest.mark.parametrize("kind", ABLE)
SOME = ("cosformer", "evolving", "mega")  # by positions, by what travels up, by what the block adds to
over_nets = pytest.mark.parametrize("norm, embeddings", [("post", "joint"), ("pre", "decoder"), ("post", "separate")])


def make(widths=(6, 8), **config):
  config = Translation(**{"dropout": 0.0} | config)
  return TranslationNet(config, 11, 11 if config.embeddings == "joint" else 13, tuple(KINDS.items()), widths)


SEPARATE = make(embeddings="separate")


def spec_of(kind):
  """Two layers on either side; the second decoder layer attends to both encoder layers, by softmax if the kind cannot."""
  cross = kind if KINDS[kind].can.cross else "softmax"
  decoder = lambda heads, span: DecoderLayerSpec(kind, heads, 4 // heads, cross, heads, 4 // heads, span, 5)
  return TranslationSpec(6, 8, (LayerSpec(kind, 1, 4, 7), LayerSpec(kind, 2, 2, 5)), (decoder(2, 1), decoder(1, 2)))


def brief(kind):
  """The same kind in fewer layers: one of the decoder, or two where something travels up."""
  spec = spec_of(kind)
  carries = KINDS[kind].first_carry(Sizes(8, 2, 2, causal=True), 1, 1, jnp.float32) is not None
  encoder = spec.encoder[0], dataclasses.replace(spec.encoder[1], kind="softmax")
  return dataclasses.replace(spec, encoder=encoder, decoder=spec.decoder if carries else spec.decoder[1:])


SPEC = spec_of("softmax")
SMALL = dataclasses.replace(SPEC, encoder=SPEC.encoder[:1], decoder=SPEC.decoder[:1])


def edited(array, place, value):
  """A copy that has this value there."""
  array = np.array(array)
  array[place] = value
  return array


def draw(net, spec=SPEC):
  """Parameters of which none is zero."""
  shapes = jax.eval_shape(TranslationTransformer(net, spec).init, jax.random.key(0), PAIR)["params"]
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes)


@functools.cache
def compiled(net, spec):
  return quick(TranslationTransformer(net, spec).apply)


def run(net, params, pair=PAIR, key=None, spec=SPEC):
  return np.asarray(compiled(net, spec)({"params": params}, pair, key))


def close(got, want, tolerance=1e-4):
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance / 10)


# -- the whole, written out --------------------------------------------------------------------------------------------


def by_hand(net, params, spec, source, target):
  """Logits for one pair without padding, in float64, from the definitions; softmax attention."""
  params, pre = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), net.config.norm == "pre"
  ends = params["ends"]

  def norm(x, p, prefix=""):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * p[f"{prefix}norm_scale"] + p[f"{prefix}norm_bias"]

  def embed(tokens, names, dim):
    rates = 10000.0 ** (-(np.arange(max(net.widths)) // 2 * 2) / max(net.widths))
    angles = np.arange(len(tokens))[:, None] * rates
    waves = np.where(np.arange(max(net.widths)) % 2, np.cos(angles), np.sin(angles))
    table = next(ends[name] for name in names if name in ends)
    return table[np.asarray(tokens), :dim] * np.sqrt(dim) + waves[:, :dim]

  def attend(p, x, source, seen):
    q, k, v = (np.einsum("td,dnh->nth", y, p[role]) + p[f"{role}_bias"][:, None]
               for y, role in ((x, "query"), (source, "key"), (source, "value")))
    scores = np.exp(np.einsum("nth,nsh->nts", q, k) / np.sqrt(q.shape[-1])) * seen
    return np.einsum("nts,nsh,nhd->td", scores / scores.sum(-1, keepdims=True), v, p["out"]) + p["out_bias"]

  def block(p, x, branch):
    return x + branch(norm(x, p)) if pre else norm(x + branch(x), p)

  def layer(x, name, causal, memory=None):
    p = params[f"{name}_attention"]
    seen = np.tril(np.ones((len(x), len(x)))) if causal else 1
    x = block(p, x, lambda y: attend(p, y, y, seen))
    if memory is not None:
      cross = params[f"{name}_cross"]
      x = block(cross, x, lambda y: attend(cross, y, memory, 1))
    mlp = params[f"{name}_mlp"]
    relu = lambda y: np.maximum(y @ mlp["up"] + mlp["up_bias"], 0)
    return block(mlp, x, lambda y: relu(y) @ mlp["down"] + mlp["down_bias"])

  x, memory = embed(source, ("source_embedding", "embedding"), spec.encoder_embed_dim), []
  for i in range(len(spec.encoder)):
    x = layer(x, f"encoder_{i}", False)
    memory.insert(0, norm(x, ends, "encoder_") if pre else x)
  x = embed([BOS, *target[:-1]], ("target_embedding", "embedding"), spec.decoder_embed_dim)
  for i, row in enumerate(spec.decoder):
    x = layer(x, f"decoder_{i}", True, np.concatenate(memory[: row.span]))
  table = next(ends[name] for name in ("output", "target_embedding", "embedding") if name in ends)
  return (norm(x, ends, "decoder_") if pre else x) @ table[:, : spec.decoder_embed_dim].T


@over_nets
def test_network_by_hand(norm, embeddings):
  net = make(norm=norm, embeddings=embeddings)
  params = draw(net)
  got = run(net, params)
  assert got.shape == (3, 5, net.target_vocab) and got.dtype == np.float32
  for logits, source, target in zip(got, *PAIR):
    source, target = source[source != PAD], target[target != PAD]
    close(logits[: len(target)], by_hand(net, params, SPEC, source, target), 1e-3)


# -- what a position may depend on -------------------------------------------------------------------------------------


@over_kinds
def test_padding_and_batch_mates_change_nothing(kind):
  """What PAD is embedded as reaches no real position, and nor does another pair."""
  spec = brief(kind)
  params = draw(SEPARATE, spec)
  out, real = run(SEPARATE, params, spec=spec), PAIR.target != PAD
  wild = params | {"ends": params["ends"] | {
      name: edited(params["ends"][name], PAD, 1e3) for name in ("source_embedding", "target_embedding")}}
  np.testing.assert_array_equal(run(SEPARATE, wild, spec=spec)[real], out[real])
  changed = run(SEPARATE, params, Pair(edited(PAIR.source, 1, 7), edited(PAIR.target, 1, 9)), spec=spec)
  np.testing.assert_array_equal(changed[::2], out[::2])
  assert np.abs(changed[1] - out[1]).max() > 1e-3


@over_kinds
def test_only_earlier_tokens_are_seen(kind):
  """Logits of a position depend on the target before it, and on all of the source."""
  spec = brief(kind)
  params = draw(SEPARATE, spec)
  out = run(SEPARATE, params, spec=spec)
  for place in range(4):
    other = run(SEPARATE, params, PAIR._replace(target=edited(PAIR.target, np.s_[:, place], 10)), spec=spec)
    np.testing.assert_array_equal(other[:, : place + 1], out[:, : place + 1])
    assert (np.abs(other - out)[:, place + 1:].max((0, 2)) > 1e-5).all()
  for place in range(6):
    other = run(SEPARATE, params, PAIR._replace(source=edited(PAIR.source, (1, place), 10)), spec=spec)
    assert np.abs(other - out)[1].max() > 1e-4


def stepwise(net, spec, room, first=0):
  """Compiled (params, source, target) -> logits of the first positions at once and of others one by one, with room for so
  many."""
  sliced = Sliced(net, spec)

  def run(params, source, target):
    turn = lambda state, row: sliced.step(params, state, *row)[::-1]
    given = jnp.concatenate([jnp.full_like(target[:, :1], BOS), target[:, :-1]], 1)
    if first:
      begun, state = sliced.prefill(params, source, given[:, :first], room)
    else:
      begun, state = jnp.zeros((len(source), 0, net.target_vocab)), sliced.start(params, source, room)
    _, logits = jax.lax.scan(turn, state, (given[:, first:].T, jnp.arange(first, target.shape[1])))
    return jnp.concatenate([begun, jnp.swapaxes(logits, 0, 1)], 1)

  return quick(run)


@pytest.mark.parametrize("kind, first", [
    pytest.param(kind, first, marks=() if kind in SOME and first else pytest.mark.slow)
    for kind in ABLE for first in (0, 2)])
def test_step_by_step_is_the_whole(kind, first):
  """Whatever the room for the translation, and whoever else is in the batch; of all kinds alone it is tested with them."""
  spec = brief(kind)
  params, step = draw(SEPARATE, spec), stepwise(SEPARATE, spec, 7, first)
  want, real = run(SEPARATE, params, spec=spec), PAIR.target != PAD
  out = np.asarray(step(params, *PAIR))
  close(out[real], want[real])
  changed = np.asarray(step(params, edited(PAIR.source, 1, 7), edited(PAIR.target, 1, 9)))
  np.testing.assert_array_equal(changed[::2], out[::2])


def test_step_by_step_with_the_norm_before_and_alone():
  net = make(norm="pre", embeddings="decoder")
  params = draw(net)
  want = run(net, params)
  close(stepwise(net, SPEC, 3)(params, PAIR.source[:1, :4], PAIR.target[:1, :3]), want[:1, :3])


# -- the ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [8, 7])
def test_sinusoids_by_hand(dim):
  got = np.asarray(quick(lambda: sinusoids(jnp.arange(50), dim))())
  for place in (0, 1, 7, 49):
    for column in range(dim):
      angle = place / 10000 ** (column // 2 * 2 / dim)
      np.testing.assert_allclose(got[place, column], np.cos(angle) if column % 2 else np.sin(angle), atol=1e-5)


def test_narrower_networks_take_the_leading_columns():
  """Of embeddings and of the sinusoids of the largest width; and tokens may begin at any position."""
  net, scaled, tokens = make(scale_embedding=False, widths=(6, 9)), make(widths=(6, 9)), PAIR.target
  table = np.random.default_rng(0).normal(size=(11, 9)).astype(np.float32)

  @quick
  def embed(table, tokens):
    params, narrow = {"embedding": table}, {}
    for dim in (4, 5):
      masked = net.embed(params, "target", tokens, 9, jnp.arange(9) < dim)
      narrow[dim] = net.embed(params, "source", tokens, dim), masked, scaled.embed(params, "source", tokens, dim)
    later = net.embed(params, "target", tokens[:, 2:], 9, first=2)
    return net.embed(params, "target", tokens, 9), later, narrow, sinusoids(jnp.arange(5), 9)

  whole, later, narrow, waves = jax.device_get(embed(table, tokens))
  np.testing.assert_allclose(whole, table[tokens] + waves, rtol=1e-6)
  np.testing.assert_array_equal(later, whole[:, 2:])
  for dim, (sliced, masked, scaled) in narrow.items():
    np.testing.assert_array_equal(sliced, whole[..., :dim])
    np.testing.assert_array_equal(masked[..., :dim], whole[..., :dim])
    assert not masked[..., dim:].any()
    close(scaled - whole[..., :dim], (np.sqrt(dim) - 1) * table[tokens][..., :dim])


TABLES = {"joint": {"embedding": (11, 8)}, "decoder": {"source_embedding": (11, 6), "target_embedding": (13, 8)}}
TABLES["separate"] = TABLES["decoder"] | {"output": (13, 8)}


@pytest.mark.parametrize("embeddings, target, output", [
    ("joint", "embedding", "embedding"), ("decoder", "target_embedding", "target_embedding"),
    ("separate", "target_embedding", "output")])
def test_what_embeddings_share(embeddings, target, output):
  """The table that each use reads; the ends have no others."""
  net = make(embeddings=embeddings, scale_embedding=False)
  ends = draw(net)["ends"]
  assert {name: leaf.shape for name, leaf in ends.items()} == TABLES[embeddings]
  source = "embedding" if embeddings == "joint" else "source_embedding"
  sides = ("source", source, 6), ("target", target, 8)

  @quick
  def read(ends, tokens, x):
    embedded = [net.embed(ends, side, tokens, dim) - sinusoids(jnp.arange(6), 8)[:, :dim] for side, _, dim in sides]
    return embedded, net.logits(ends, x)

  embedded, logits = jax.device_get(read(ends, PAIR.source, np.arange(8, dtype=np.float32).reshape(1, 1, 8)))
  for got, (_, name, dim) in zip(embedded, sides):
    close(got, ends[name][PAIR.source][..., :dim], 1e-3)
  close(logits[0, 0], ends[output] @ np.arange(8.0), 1e-3)


def test_the_wider_side_gives_the_joint_table_its_width():
  for dims, width in (((6, 8), 8), ((8, 6), 8), ((4, 4), 4)):
    assert make().ends_tensors(*dims)["embedding"].shape == (11, width)


def test_pre_norm_normalises_all_layers_that_are_attended_to():
  net, spec = make(norm="pre"), dataclasses.replace(SPEC, decoder=(dataclasses.replace(SPEC.decoder[0], span=2),))
  params = draw(net, spec)
  params["ends"] |= {"encoder_norm_scale": np.full(6, 3.0, np.float32), "encoder_norm_bias": np.full(6, 0.5, np.float32)}
  memory = jax.device_get(quick(Sliced(net, spec).encode)(params, PAIR.source))
  assert len(memory) == 2
  for x in memory:
    close(x.mean(-1), np.full(x.shape[:2], 0.5), 1e-3)
    close(x.std(-1), np.full(x.shape[:2], 3.0), 1e-3)


# -- noise -------------------------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_its_key():
  """And without a key there is none."""
  net = make(dropout=0.4, activation_dropout=0.2, attention_dropout=0.1)
  params = draw(net, SMALL)
  one, again, other = (run(net, params, key=jax.random.key(seed), spec=SMALL) for seed in (0, 0, 1))
  np.testing.assert_array_equal(one, again)
  assert (one != other).any() and np.isfinite(one).all()
  np.testing.assert_array_equal(run(net, params, spec=SMALL), run(make(), params, spec=SMALL))
  assert net.noise(None, 0, 0, 1.0) is None and make().noise(jax.random.key(0), 0, 0, 1.0) is None


def test_rates_scale_with_the_width():
  """All but that of attention weights; every block has randomness of its own."""
  net = make(dropout=0.4, activation_dropout=0.2, attention_dropout=0.1)
  noises = [net.noise(jax.random.key(0), layer, block, 0.5) for layer in range(-1, 3) for block in range(5)]
  for noise in noises:
    np.testing.assert_allclose((noise.branch, noise.hidden, noise.weights), (0.2, 0.1, 0.1), rtol=1e-6)
    assert noise.drop_path is None
  assert len(np.unique([jax.random.key_data(noise.key) for noise in noises], axis=0)) == len(noises)
  only = make(activation_dropout=0.2).noise(jax.random.key(0), 0, 0, 1.0)
  assert only.branch is None and only.weights is None


def test_a_network_knows_its_share_of_the_largest_width():
  """Of either side; and what it asks noise for: embeddings and blocks, all different."""
  asked = []

  class Listening(TranslationNet):
    def noise(self, key, layer, block, share):
      asked.append(((layer, block), share))

  net = Listening(Translation(), 11, 11, tuple(KINDS.items()), (12, 32))
  jax.eval_shape(TranslationTransformer(net, SPEC).apply, {"params": draw(make())}, PAIR, jax.random.key(0))
  encoder = {(-1, 0): 0.5} | {(layer, block): 0.5 for layer in range(2) for block in (0, 1)}
  decoder = {(-1, 2): 0.25} | {(layer, block): 0.25 for layer in range(2) for block in (2, 3, 4)}
  assert dict(asked) == encoder | decoder and len(asked) == len(dict(asked))


# -- costs, types and mistakes -----------------------------------------------------------------------------------------


@over_nets
def test_counts_with_and_without_the_vocabulary(norm, embeddings, count_products):
  net = make(norm=norm, embeddings=embeddings, count_vocabulary=True, count_length=7)
  plain = make(norm=norm, embeddings=embeddings, count_length=7)
  tokens, shapes = jnp.full((1, 7), 5), jax.eval_shape(lambda: draw(net))
  apply = lambda params, pair: TranslationTransformer(net, SPEC).apply({"params": params}, pair)
  count, rest = net.count_spec(SPEC), plain.count_spec(SPEC)
  assert count.params == sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count.products == count_products(apply, shapes, Pair(tokens, tokens))
  tables = sum(np.prod(shape) for shape in TABLES[embeddings].values())
  assert (count.params - rest.params, count.products - rest.products) == (tables, 7 * 8 * net.target_vocab)
  assert plain.count_spec(SPEC, 9) == make(norm=norm, embeddings=embeddings, count_length=9).count_spec(SPEC)
  assert "7 tokens" in net.counting and "included" in net.counting and "left out" in plain.counting


def test_bfloat16_is_close():
  params = jax.tree.map(lambda leaf: leaf / 2, draw(make(), SMALL))
  exact, rough = run(make(), params, spec=SMALL), run(make(dtype="bfloat16"), params, spec=SMALL)
  assert rough.dtype == jnp.float32 and (rough != exact).any()
  np.testing.assert_allclose(rough, exact, rtol=5e-2, atol=5e-2)


def test_initial_network_is_deterministic_and_finite():
  init = quick(TranslationTransformer(make(), SMALL).init)
  one, again = init(jax.random.key(0), PAIR), init(jax.random.key(0), PAIR)
  jax.tree.map(np.testing.assert_array_equal, one, again)
  assert np.isfinite(run(make(), one["params"], spec=SMALL)).all()
  assert hash(make()) == hash(make()) and make() != make(norm="pre")


@pytest.mark.parametrize("change, message", [
    ({"activation": "tanh"}, "net.activation='tanh': it must be one of relu, gelu"),
    ({"dtype": "float16"}, "net.dtype='float16': it must be one of float32, bfloat16"),
    ({"dropout": 1.0}, "net.dropout=1.0: it must lie between 0 and 0.99"),
    ({"attention_dropout": -0.1}, "net.attention_dropout=-0.1"),
    ({"count_length": 0}, "net.count_length=0: it must be at least 1"),
])
def test_mistakes_are_told(change, message):
  with pytest.raises(UserError, match=message):
    make(**change)


def test_one_table_needs_one_vocabulary():
  with pytest.raises(UserError, match="net.embeddings='joint' needs one vocabulary, but there are 11 source and 12"):
    TranslationNet(Translation(), 11, 12, (), (6, 8))
