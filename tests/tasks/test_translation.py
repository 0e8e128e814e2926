import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry
from nasformer.attention.softmax import Softmax
from nasformer.data.numbers import Numbers
from nasformer.data.vocabulary import EOS, PAD
from nasformer.nets import decoding
from nasformer.nets.decoding import Decoding
from nasformer.nets.translation import Pair, Translation, TranslationTransformer
from nasformer.ops import bleu
from nasformer.space.translation import TinyTranslation
from nasformer.tasks.translation import TranslationTask
from nasformer.types import DecoderLayerSpec, LayerSpec, TranslationSpec, UserError

TASK = TranslationTask(net=Translation(embeddings="separate", count_length=5),
                       decoding=Decoding(2, length_factor=0.5, length_offset=2, batch_size=32))
SPEC = TranslationSpec(8, 8, (LayerSpec("softmax", 2, 4, 5),),
                       (DecoderLayerSpec("softmax", 2, 4, "softmax", 2, 4, 1, 5),))
SPACE = TinyTranslation(encoder_embed_dim=(8,), decoder_embed_dim=(8,))
TARGET = jnp.array([[4, 2, PAD, PAD], [3, 3, 5, 2], [PAD] * 4, [5, 4, 2, PAD], [4, 4, 4, 2], [2, PAD, PAD, PAD]])
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 7)), jnp.float32)
REAL = np.asarray(TARGET != PAD)
BATCH = {"source": TARGET, "target": TARGET, "weight": jnp.asarray(6 * REAL.sum(1) / REAL.sum(), jnp.float32)}


def costs(smoothing):
  """Cross entropy of every position with the target (1 - ε) one-hot + ε / 7, in nats."""
  logits = np.asarray(LOGITS, np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return -(((1 - smoothing) * np.eye(7)[np.asarray(TARGET)] + smoothing / 7) * log_p).sum(-1)


# -- losses and metrics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_mean_over_tokens(smoothing):
  """Of the batch, and so of its micro-batches on average, however many tokens each holds; PAD says nothing."""
  task = TranslationTask(label_smoothing=smoothing)
  rows = np.asarray(task.loss(jnp.where(REAL[..., None], LOGITS, jnp.nan), BATCH))
  assert rows.mean() == pytest.approx(costs(smoothing)[REAL].mean(), rel=1e-5) and rows[2] == 0
  for number in (2, 3):
    parts = [{name: leaf[i::number] for name, leaf in BATCH.items()} for i in range(number)]
    means = [float(task.loss(LOGITS[i::number], part).mean()) for i, part in enumerate(parts)]
    assert np.mean(means) == pytest.approx(rows.mean(), rel=1e-5) and np.std(means) > 1e-3


def test_padding_has_no_gradient():
  slope = jax.grad(lambda logits: TASK.loss(logits, BATCH).sum())(LOGITS)
  np.testing.assert_array_equal(np.asarray(slope).any(-1), REAL)


def test_metrics_by_hand():
  """Sums over the tokens of each pair, so batches may be cut as one likes; smoothing is in the bits only."""
  got = TranslationTask(label_smoothing=0.3).metrics(LOGITS, BATCH)
  want = {"loss": costs(0.0), "smoothed_bits": costs(0.3) / math.log(2),
          "accuracy": np.asarray(LOGITS).argmax(-1) == np.asarray(TARGET), "count": np.ones((6, 4))}
  assert got.keys() == want.keys()
  for name, values in want.items():
    np.testing.assert_allclose(got[name], (values * REAL).sum(1), rtol=1e-5, err_msg=name)
  blank = TASK.metrics(jnp.where(REAL[..., None], LOGITS, jnp.nan), BATCH)
  assert all(np.isfinite(values).all() and values[2] == 0 for values in blank.values())


def test_distillation_is_the_mean_over_tokens():
  teacher = jnp.asarray(np.random.default_rng(1).normal(size=LOGITS.shape), jnp.float32)
  p, q = (np.asarray(jax.nn.log_softmax(logits), np.float64) for logits in (teacher, LOGITS))
  want = (np.exp(p) * (p - q)).sum(-1)[REAL].mean()
  assert TASK.distillation(LOGITS, teacher, BATCH).mean() == pytest.approx(want, rel=1e-4)
  assert np.abs(TASK.distillation(LOGITS, LOGITS, BATCH)).max() < 1e-6


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_mistakes_are_told(smoothing):
  with pytest.raises(UserError, match=f"task.label_smoothing={smoothing}: it must be at least 0 and below 1"):
    TranslationTask(label_smoothing=smoothing)


# -- networks for data -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def splits(folder):
  """Numbers in words; their vocabulary lies in the folder."""
  data = Numbers(vocab_size=400, train_size=80, val_size=10, test_size=14, max_length=16, lengths=(8, 16))
  return data.load(None, folder)


@pytest.fixture(scope="module")
def network(splits):
  return TranslationTransformer(TASK.build(splits.info, SPACE, {"softmax": Softmax(), "cosformer": Softmax()}), SPEC)


@pytest.fixture(scope="module")
def params(network):
  """Of a network that says something else to everything, and no single bytes, which would not be text."""
  shapes = jax.eval_shape(network.init, jax.random.key(0), TASK.example(network.net, 1))["params"]
  rng = np.random.default_rng(0)
  draw = lambda path, leaf: rng.normal(scale=0.1 if path[-1].key.endswith("bias") else 1.0, size=leaf.shape)
  params = jax.tree_util.tree_map_with_path(lambda *leaf: jnp.asarray(draw(*leaf), jnp.float32), shapes)
  params["ends"]["output"] = params["ends"]["output"].at[3:260].set(0)
  return params


@pytest.fixture(scope="module")
def quickly():
  """Programs are compiled with little care: the time goes into compiling."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def translator(splits, network, folder, quickly):
  return TASK.deployed(network, splits.info, folder)


def test_build_takes_all_from_the_data(splits, network):
  net = network.net
  assert (net.source_vocab, net.target_vocab, net.widths, net.config) == (400, 400, (8, 8), TASK.net)
  apart = dataclasses.replace(splits.info, target_vocab=300)
  with pytest.raises(UserError, match="'joint' needs one vocabulary, but there are 400 source and 300 target"):
    TranslationTask().build(apart, SPACE, {"softmax": Softmax(), "cosformer": Softmax()})


def test_batches_of_the_data_fit(splits, network):
  """Inputs of a network, and weights with which rows add up to the mean over tokens, fillers included."""
  batch = jax.tree.map(jnp.asarray, splits.get("val", "evaluate").eval_batch(0, 64))
  pair = TASK.inputs(batch)
  assert isinstance(pair, Pair) and pair.source.shape == pair.target.shape == (8, 8)
  assert TASK.prepare(jax.random.key(0), batch) is batch
  logits = jax.random.normal(jax.random.key(0), (8, 8, 400))
  metrics = TASK.metrics(logits, batch)
  mean = metrics["smoothed_bits"].sum() / metrics["count"].sum() * math.log(2)
  assert TASK.loss(logits, batch).mean() == pytest.approx(float(mean), rel=1e-5)


def test_latency_is_measured_on_greedy_words(network, params):
  example = TASK.example(network.net, 2)
  assert example.source.shape == example.target.shape == (2, 5) and (example.source != PAD).all()
  words = jax.eval_shape(TASK.timed(network), {"params": params}, example)
  assert (words.shape, words.dtype) == ((2, 5), jnp.int32)


def test_facts_tell_how_flops_grow(network):
  found = TASK.facts(network.net, SPEC)["flops_by_length"]
  assert list(found) == ["10", "30", "100", "300", "1000"]
  assert found["30"] == 2 * network.net.count_spec(SPEC, 30).products and found["1000"] > 10 * found["100"]


# -- translating -------------------------------------------------------------------------------------------------------


def test_translations_come_in_order(splits, translator, params):
  """Whatever the batches: more sentences than fit into one, and of several lengths. Empty ones have none."""
  sentences = list(splits.get("test", "evaluate").sources)
  lengths = list(map(len, splits.get("test", "evaluate").vocabularies.source.encode(sentences)))
  assert min(lengths) < 7 <= max(lengths)
  out = translator(params, sentences)
  assert len(out) == 14 and len(set(out)) > 5 and all(isinstance(line, str) for line in out)
  order = [3, 13, 0, 7, 7, 5]
  assert translator(params, [*(sentences[i] for i in order), "", " \t"]) == [*(out[i] for i in order), "", ""]
  assert translator(params, []) == [] == translator.n_best(params, [])


def test_translations_are_those_of_beam_search(splits, translator, params):
  """The best first, with their scores; a sentence that is too long is cut."""
  sentence = "one " * 30
  (tokens,) = splits.get("test", "evaluate").vocabularies.source.encode([sentence])
  assert len(tokens) > 15 and translator.too_long(["one", sentence]) == 1
  source = jnp.full((2, 16), PAD).at[0].set(jnp.array([*tokens[:15], EOS]))
  rows, scores = decoding.translate(TASK.decoding, translator.sliced, params, source, 10)
  (found,) = translator.n_best(params, [sentence])
  real = np.isfinite(scores[0])
  np.testing.assert_allclose([score for _, score in found], np.asarray(scores[0])[real], rtol=1e-5)
  assert [text for text, _ in found] == translator.vocabularies.target.decode(np.asarray(rows[0])[real])
  assert translator(params, [sentence]) == [found[0][0]]


def test_prefixes_are_what_translations_begin_with(splits, translator, params):
  """Whatever the batches, here of two, of which one has tokens to read at once; where nothing is forced, it is as ever."""
  long = max(splits.get("test", "evaluate").sources, key=len)
  prefixes = ["drei vier", "", " \u00e9 ", "hundert"]
  assert [len(row) for row in translator.vocabularies.target.encode(["drei vier", "", "\u00e9", "hundert"])] == [4, 0, 3, 2]
  sentences = [*[long] * 4, " "]
  *found, nothing = translator.n_best(params, sentences, translator.forced(sentences, [*prefixes, "neun"]))
  assert [text for text, _ in found[1]] == [text for text, _ in translator.n_best(params, [long])[0]] and not nothing
  for begun, prefix in zip(found, prefixes):
    assert begun and all(text.startswith(prefix.strip()) for text, _ in begun)
  assert len({text for begun in found for text, _ in begun}) == sum(map(len, found))


def test_prefixes_that_do_not_fit_are_refused(translator):
  with pytest.raises(UserError, match="prefixes has 1 lines and the input 2: give one line for each"):
    translator.forced(["one", "two"], ["eins"])
  with pytest.raises(UserError, match="prefixes, line 2: it has .* tokens, and a translation .* to at most 2 tokens"):
    translator.forced(["one", "two"], ["", "zwei " * 9])


def test_judgement(splits, network, params, translator):
  """Scores of the very translations, against raw references; of the first few only, if asked."""
  split = splits.get("test", "evaluate")
  found = TASK.judge(network, params, split, splits.info)
  outputs = found.pop("outputs")
  assert outputs == translator(params, split.sources)
  assert found["bleu_low"] <= found["bleu"] <= found["bleu_high"]
  want = bleu.scores(outputs, split.targets, "de")
  assert {name: found[name] for name in want} == want and found.keys() - want.keys() == {"bleu_low", "bleu_high"}
  assert TASK.judge(network, params, split, splits.info, 6)["outputs"] == outputs[:6]
  assert TASK.compare(outputs, outputs, split)["difference"] == 0 and TASK.signatures(splits.info).keys() <= want.keys()


def test_a_vocabulary_that_is_not_the_networks_is_refused(splits, network, folder, tmp_path):
  with pytest.raises(UserError, match="vocabulary does not hold the vocabulary that this network was trained with"):
    TASK.deployed(network, splits.info, tmp_path)
  with pytest.raises(UserError, match="bring it back, its fingerprint is abc"):
    TASK.deployed(network, dataclasses.replace(splits.info, fingerprint="abc"), folder)


# -- every kind of the table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", attention.TABLE)
def test_a_kind_is_taken_where_it_can_be_and_refused_by_name_elsewhere(splits, name):
  """Alone in each module, with one number of heads and with two."""
  kind = registry.lookup(attention.TABLE, name)()
  able = {"encoder": True, "decoder": kind.can.causal, "cross": kind.can.cross}
  for module, heads in itertools.product(able, ((2,), (1, 2))):
    fields = {f"{part}_kinds": (name,) if part == module else ("softmax",) for part in able} | {f"{module}_heads": heads}
    build = lambda: TASK.build(splits.info, dataclasses.replace(SPACE, **fields), {"softmax": Softmax(), name: kind})
    if able[module] and not kind.can.grid and (kind.can.divides or len(heads) == 1):
      assert dict(build().kinds)[name] is kind
    else:
      with pytest.raises(UserError, match=f"space.{module}_kinds: .*'{name}' cannot "):
        build()
