import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry
from nasformer.nets import decoding
from nasformer.nets.decoding import Decoding, generate
from nasformer.nets.translation import BOS, EOS, PAD, Pair, Sliced, Translation, TranslationNet, TranslationTransformer
from nasformer.types import DecoderLayerSpec, LayerSpec, TranslationSpec, UserError

KINDS = tuple((name, registry.lookup(attention.TABLE, name)()) for name in attention.TABLE)
SPEC = TranslationSpec(6, 8, (LayerSpec("cosformer", 2, 2, 5),), (
    DecoderLayerSpec("softmax_relative", 2, 2, "evolving", 2, 2, 1, 5),  # whose cross-attention has a state of every beam
    DecoderLayerSpec("linear", 1, 4, "evolving", 2, 2, 1, 5)))
SOURCE = np.array([[5, 4, 3, 2, PAD, PAD], [3, 5, 4, 4, 3, 2], [2] + [PAD] * 5, [4, 2] + [PAD] * 4], np.int32)
VOCAB, LONGEST = 6, 4  # tokens of which 3, 4 and 5 go on; of a translation, in most tests
SHORT = {"length_factor": 0.0, "length_offset": LONGEST}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # the time goes into compiling
quick = functools.partial(jax.jit, compiler_options=QUICK)
translate = quick(decoding.translate.__wrapped__, static_argnums=(0, 1, 4, 6))
NET = TranslationNet(Translation(embeddings="separate"), VOCAB, VOCAB, KINDS, (6, 8))
SLICED = Sliced(NET, SPEC)
apply = quick(TranslationTransformer(NET, SPEC).apply)


def whole(params, source, target):
  """Logits of all positions; of one shape, whatever is asked for."""
  filled = Pair(*(np.pad(x, ((0, 40 - len(x)), (0, 10 - x.shape[1]))) for x in (source, target)))
  return np.asarray(apply({"params": params}, filled))[: len(target), : target.shape[1]]


def log_softmax(logits):
  return np.float64(logits) - np.log(np.exp(np.float64(logits)).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def params():
  """Parameters of which none is zero, with which some sentences end by themselves."""
  shapes = jax.eval_shape(TranslationTransformer(NET, SPEC).init, jax.random.key(0), Pair(SOURCE, SOURCE))["params"]
  rng = np.random.default_rng(25)
  draw = lambda path, leaf: rng.normal(scale=0.1 if path[-1].key.endswith("bias") else 0.7, size=leaf.shape)
  return jax.tree_util.tree_map_with_path(lambda *leaf: draw(*leaf).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def log_p(params):
  """For every source, log-probabilities of the next token after every beginning of at most 3 tokens."""
  beginnings = [row for length in range(LONGEST) for row in itertools.product((3, 4, 5), repeat=length)]
  targets = np.array([[*row, *[PAD] * (LONGEST - len(row))] for row in beginnings])
  found = []
  for source in SOURCE:
    rows = log_softmax(whole(params, np.tile(source, (len(targets), 1)), targets))
    found.append({row: rows[i, len(row)] for i, row in enumerate(beginnings)})
  return found


def by_hand(penalty, alpha, length):
  return {"gnmt": ((5 + length) / 6) ** alpha, "fairseq": length**alpha, "none": 1}[penalty]


def exhaustive(table, config):
  """All translations with their scores, the best first."""
  whole_ones = {}
  for row in table:
    said = sum(table[row[:i]][token] for i, token in enumerate((*row, EOS)))
    whole_ones[*row, EOS] = said / by_hand(config.penalty, config.alpha, len(row) + 1)
  return sorted(whole_ones.items(), key=lambda item: -item[1])


def beam_search(table, config, prefix=()):
  """As described: of the 2K best continuations, ends among the first K are finished, the first K others go on."""
  alive, done = [((), 0.0)], []
  for length in range(1, LONGEST + 1):
    tokens = prefix[length - 1 : length] or ((EOS,) if length == LONGEST else (EOS, 3, 4, 5))
    ways = sorted((((*row, token), score + table[row][token]) for row, score in alive for token in tokens),
                  key=lambda way: -way[1])[: 2 * config.beam]
    divisor = by_hand(config.penalty, config.alpha, length)
    done += [(row, score / divisor) for row, score in ways[: config.beam] if row[-1] == EOS]
    alive = [way for way in ways if way[0][-1] != EOS][: config.beam]
    if len(done) >= config.beam:
      break
  return sorted(done[: config.beam], key=lambda item: -item[1])


def found(tokens, scores):
  """What `translate` found of one source, checked for its form."""
  rows = []
  for row, score in zip(np.asarray(tokens).tolist(), np.asarray(scores).tolist()):
    if math.isinf(score):
      assert set(row) == {PAD}
    else:
      end = row.index(EOS) + 1
      assert not {PAD, BOS} & set(row[:end]) and set(row[end:]) <= {PAD}
      rows.append((tuple(row[:end]), score))
  assert [score for _, score in rows] == sorted((score for _, score in rows), reverse=True)
  return rows


def check(got, want):
  assert [row for row, _ in got] == [row for row, _ in want]
  np.testing.assert_allclose([score for _, score in got], [score for _, score in want], rtol=1e-4)


# -- searching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty, alpha", [
    ("gnmt", 0.6), *(pytest.param(*each, marks=pytest.mark.slow) for each in (("fairseq", 1.0), ("none", 0.6)))])
def test_a_wide_beam_finds_everything(params, log_p, penalty, alpha):
  """40 translations: 1 + 3 + 9 + 27 of 0 to 3 tokens and EOS."""
  config = Decoding(40, penalty, alpha, **SHORT)
  for table, *row in zip(log_p, *jax.device_get(translate(config, SLICED, params, SOURCE, LONGEST))):
    want = exhaustive(table, config)
    assert len(want) == 40
    check(found(*row), want)


@pytest.mark.parametrize("beam, penalty", [(2, "fairseq"), (3, "none")])
def test_a_narrow_beam_finds_what_a_naive_one_does(params, log_p, beam, penalty):
  config = Decoding(beam, penalty, 0.8, **SHORT)
  for table, *row in zip(log_p, *jax.device_get(translate(config, SLICED, params, SOURCE, LONGEST))):
    check(found(*row), beam_search(table, config))


def test_one_beam_is_greedy_search(params):
  """Against a loop over full passes; with limits of its own for every source, some of which are met."""
  config, most = Decoding(1, length_factor=1.5, length_offset=1), 10
  got = [found(*row)[0] for row in zip(*jax.device_get(translate(config, SLICED, params, SOURCE, most)))]
  limits = [int(1.5 * length) + 1 for length in (4, 6, 1, 2)]
  target = np.full((4, most), PAD)
  for place in range(most):
    logits = whole(params, SOURCE, target)[:, place]
    target[:, place] = np.where(np.isin(np.arange(VOCAB), [PAD, BOS]), -np.inf, logits).argmax(-1)
  rows = log_softmax(whole(params, SOURCE, target))
  met = 0
  for i, (tokens, score) in enumerate(got):
    free = [*target[i].tolist()[: limits[i] - 1], EOS]
    want = free[: free.index(EOS) + 1]
    met += len(want) == limits[i]
    assert list(tokens) == want
    said = sum(rows[i, place, token] for place, token in enumerate(want))
    assert score == pytest.approx(said / ((5 + len(want)) / 6) ** 0.6, rel=1e-4)
  assert 0 < met < 4


@pytest.mark.parametrize("shared, prefixes", [(0, [(3, 5), (), (4,), (5, 3, 3)]), (1, [(3,), (4, 5), (5, 3, 3), (5, 4)])])
def test_a_prefix_is_what_translations_begin_with(params, log_p, shared, prefixes):
  """The search is forced, and scores count what it is forced to, whether or not the first tokens are read at once."""
  config, padded = Decoding(2, "fairseq", 0.8, **SHORT), np.full((4, 3), PAD, np.int32)
  for row, prefix in zip(padded, prefixes):
    row[: len(prefix)] = prefix
  results = jax.device_get(translate(config, SLICED, params, SOURCE, LONGEST, padded, shared))
  for table, prefix, *row in zip(log_p, prefixes, *results):
    got = found(*row)
    check(got, beam_search(table, config, prefix))
    assert got and all(tokens[: len(prefix)] == prefix for tokens, _ in got)


COMPANY = Decoding(3, length_factor=1.0, length_offset=3)


def among(params, source):
  """Translations of the sources, which are of one shape, and their scores."""
  return jax.device_get(translate(COMPANY, SLICED, params, source, 9))


def alone(params, source):
  """The same of one source of another shape, with more room."""
  return jax.device_get(translate(COMPANY, SLICED, params, source, 11))


def test_company_and_padding_change_nothing(params):
  """Alone, padded further and with more room, or beside others: the same translations and scores."""
  tokens, scores = among(params, SOURCE)
  for row in range(4):
    its_tokens, its_scores = alone(params, np.pad(SOURCE[row:row + 1], ((0, 0), (0, 3))))
    np.testing.assert_array_equal(its_tokens[0], np.pad(tokens[row], ((0, 0), (0, 2))))
    np.testing.assert_allclose(its_scores[0], scores[row], rtol=1e-4)
  for other in ([4, 4, 3, 3, 5, 2], [PAD] * 6):  # a row without a sentence has no translation
    changed = SOURCE.copy()
    changed[1] = other
    others, their_scores = among(params, changed)
    for one, two in ((tokens, others), (scores, their_scores)):
      np.testing.assert_array_equal(np.delete(one, 1, 0), np.delete(two, 1, 0))
  assert not others[1].any() and np.isneginf(their_scores[1]).all()


def test_limits_are_kept(params):
  """Also where nothing would end by itself: with an output that hates EOS, translations are as long as they may be."""
  never = jax.tree.map(np.zeros_like, params)
  never["decoder_1_mlp"]["norm_bias"][:] = 1
  never["ends"]["output"][[EOS, 4]] = [[-5.0], [1.0]]
  long = np.array([[4] * 8 + [EOS]], np.int32)
  assert ((among(never, SOURCE)[0] != PAD).sum(-1)[:, 0] == [7, 9, 4, 5]).all()
  assert (alone(never, long)[0] != PAD).sum(-1)[0, 0] == 11  # it would be 12 if there were room


def test_generate_says_the_most_probable_token_again_and_again(params):
  """Whatever it is, as long as asked for."""
  tokens = np.asarray(quick(generate, static_argnums=(0, 3))(SLICED, params, SOURCE, 7))
  np.testing.assert_array_equal(whole(params, SOURCE, tokens).argmax(-1), tokens)


# -- scores and mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty, alpha, length, divisor", [
    ("gnmt", 0.6, 7, 2**0.6), ("gnmt", 1.0, 1, 1.0), ("gnmt", 0.0, 9, 1.0), ("fairseq", 1.0, 5, 5.0),
    ("fairseq", 0.5, 4, 2.0), ("none", 0.6, 9, 1.0)])
def test_penalties_by_hand(penalty, alpha, length, divisor):
  got = Decoding(penalty=penalty, alpha=alpha).normalised(jnp.float32(-3.0), length)
  assert float(got) == pytest.approx(-3.0 / divisor)


def test_limit_by_hand():
  assert [int(Decoding().limit(length)) for length in (1, 2, 5, 30)] == [11, 13, 17, 55]
  assert [int(Decoding(length_factor=0.0, length_offset=3).limit(length)) for length in (1, 30)] == [3, 3]


@pytest.mark.parametrize("change, message", [
    ({"beam": 0}, "decoding: beam=0 and batch_size=4096 must be at least 1"),
    ({"batch_size": 0}, "beam=4 and batch_size=0 must be at least 1"),
    ({"length_factor": -0.5}, "length_factor=-0.5 must not be negative"),
    ({"length_offset": 0}, "length_offset=0 must be at least 1"),
])
def test_mistakes_are_told(change, message):
  with pytest.raises(UserError, match=message):
    Decoding(**change)
