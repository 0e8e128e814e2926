import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.linear import Linear
from nasformer.attention.softmax import Softmax
from nasformer.nets.encoder import EncoderTransformer
from nasformer.nets.sequence import Channels, Rows, Sequence, SequenceNet, Symbols
from nasformer.types import EncoderSpec, LayerSpec, UserError

KINDS = (("softmax", Softmax()), ("linear", Linear()))
SPEC = EncoderSpec(6, (LayerSpec("softmax", 2, 4, 5), LayerSpec("linear", 1, 4, 7)))
RNG = np.random.default_rng(0)
SERIES = Rows(jnp.asarray(RNG.normal(size=(3, 7, 2)), jnp.float32), jnp.array([7, 4, 0]))
TEXTS = Rows(jnp.asarray(RNG.integers(0, 9, (3, 7)), jnp.int32), jnp.array([7, 4, 0]))


def make(source=Channels((1.0, -1.0), (2.0, 0.5)), **config):
  return SequenceNet(Sequence(**config), source, 9, 3, KINDS, 8)


def drawn(net, inputs):
  """Function inputs -> logits of a network whose parameters are all drawn."""
  module = EncoderTransformer(net, SPEC)
  shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda x: jnp.asarray(rng.normal(scale=0.5, size=x.shape), x.dtype), shapes)
  return jax.jit(lambda inputs: module.apply(params, inputs))


def test_stem_of_series_by_hand():
  """A patch of two steps; the second patch of the second row has one real step."""
  net = make(patch_size=2)
  params = {name: jnp.asarray(RNG.normal(size=tensor.shape), jnp.float32) for name, tensor in net.stem_tensors(6).items()}
  rows = Rows(SERIES.values[:2, :4], jnp.array([4, 3]))
  got = net.stem(params, rows)
  values = (np.asarray(rows.values) - [1.0, -1.0]) / [2.0, 0.5]
  values[1, 3] = 0
  want = values.reshape(2, 2, 4) @ params["patch"] + params["patch_bias"] + params["position"][:2]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_stem_of_texts_by_hand():
  net = make(Symbols(9), patch_size=2)
  params = {name: jnp.asarray(RNG.normal(size=tensor.shape), jnp.float32) for name, tensor in net.stem_tensors(6).items()}
  got = net.stem(params, Rows(jnp.array([[3, 5, 8]]), jnp.array([3])))
  table, where = params["embedding"], params["position"]
  np.testing.assert_allclose(got[0], [table[0, 3] + table[1, 5] + where[0], table[0, 8] + where[1]], rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling_is_over_real_positions(pooling):
  x, mask = jnp.asarray(RNG.normal(size=(2, 4, 3)), jnp.float32), jnp.array([[True, True, False, False], [False] * 4])
  got = make(pooling=pooling).pool(x, mask)
  np.testing.assert_allclose(got[0], getattr(np, pooling)(np.asarray(x)[0, :2], axis=0), rtol=1e-6)
  np.testing.assert_array_equal(got[1], 0)


PLAIN, OTHER = {}, {"patch_size": 2, "positions": "sinusoidal", "pooling": "max"}
OF_SERIES, OF_TEXTS = (Channels((1.0, -1.0), (2.0, 0.5)), SERIES), (Symbols(9), TEXTS)


@pytest.mark.parametrize("config, source, rows", [(OTHER, *OF_SERIES), (PLAIN, *OF_TEXTS), *(
    pytest.param(*each, marks=pytest.mark.slow) for each in ((PLAIN, *OF_SERIES), (OTHER, *OF_TEXTS)))])
def test_padding_changes_nothing(config, source, rows):
  """Neither its content, nor how much there is, nor an empty row, which gives finite logits."""
  run = drawn(make(source, **config), rows)
  want = run(rows)
  assert np.isfinite(want).all()
  real = jnp.arange(7) < rows.length[:, None]
  real = real[..., None] if rows.values.ndim == 3 else real
  np.testing.assert_allclose(run(rows._replace(values=jnp.where(real, rows.values, 8))), want, atol=1e-6)
  frame = [(0, 0), (0, 2)] + [(0, 0)] * (rows.values.ndim - 2)
  np.testing.assert_allclose(run(rows._replace(values=jnp.pad(rows.values, frame))), want, atol=1e-5)
  short = Rows(rows.values[1:2, :4], rows.length[1:2])
  np.testing.assert_allclose(run(short), want[1:2], atol=1e-5)


@pytest.mark.parametrize("source, rows", [(Channels((1.0, -1.0), (2.0, 0.5)), SERIES), (Symbols(9), TEXTS)])
@pytest.mark.parametrize("config", [{"count_length": 7}, {"count_length": 7, "patch_size": 3, "positions": "sinusoidal"}])
def test_counts_are_exact(config, source, rows, count_products):
  net = make(source, **config)
  module = EncoderTransformer(net, SPEC)
  one = jax.tree.map(lambda x: x[:1], rows)
  params = jax.eval_shape(module.init, jax.random.key(0), one)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == net.count_spec(SPEC).params
  assert count_products(module.apply, params, one) == net.count_spec(SPEC).products
  assert "one sequence of 7" in net.counting


def test_dtype_and_gradient_of_empty_rows():
  net = dataclasses.replace(make(), config=Sequence(dtype="bfloat16", dropout=0.5, stochastic_depth=0.5))
  module = EncoderTransformer(net, SPEC)
  params = jax.jit(module.init)(jax.random.key(0), SERIES)["params"]
  grads = jax.jit(jax.grad(lambda p: module.apply({"params": p}, SERIES, jax.random.key(1)).sum()))(params)
  assert all(np.isfinite(leaf).all() and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("config, message", [
    ({"positions": "none"}, "net.positions='none': it must be one of learned, sinusoidal"),
    ({"pooling": "last"}, "net.pooling='last': it must be one of mean, max"),
    ({"count_length": -1}, "net.count_length=-1: it must be at least 1, or 0 for the longest"),
    ({"count_length": 10}, "net.count_length=10 is above the 9 steps of the longest sequence"),
    ({"patch_size": 0}, "net.patch_size=0: it must be at least 1"),
])
def test_mistakes_are_told(config, message):
  with pytest.raises(UserError, match=message):
    make(**config)


def test_longer_sequences_are_refused():
  with pytest.raises(UserError, match="sequences of 10 steps: this network takes at most 9"):
    make().stem({}, Rows(jnp.zeros((1, 10, 2)), jnp.array([10])))
