import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import attention, registry
from nasformer.attention.base import Context, Sizes
from nasformer.attention.luna import Luna
from nasformer.attention.softmax import Softmax
from nasformer.nets import blocks
from nasformer.nets.blocks import Keep, Noise

KINDS = {name: registry.lookup(attention.TABLE, name)() for name in attention.TABLE}
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 5, 6)), jnp.float32)


def draw(declared, seed=0):
  rng = np.random.default_rng(seed)
  return {name: jnp.asarray(rng.normal(size=tensor.shape), jnp.float32) for name, tensor in declared.items()}


def attention_tensors(kind, embed_dim=6, num_heads=3):
  return blocks.norm_tensors(embed_dim) | kind.params(Sizes(embed_dim, num_heads, 4))


def norm(p, x):
  centred = x - x.mean(-1, keepdims=True)
  return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6) * p["norm_scale"] + p["norm_bias"]


def float64(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def close(got, want, tolerance=1e-4):
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation, act", [
    ("relu", lambda x: np.maximum(x, 0)),
    ("gelu", lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))])
def test_mlp_by_hand(activation, act):
  params = draw(blocks.mlp_tensors(6, 7))
  p, x = float64((params, X))
  hidden = act(norm(p, x) @ p["up"] + p["up_bias"])
  close(blocks.mlp_block(activation, params, X), x + hidden @ p["down"] + p["down_bias"], 1e-5)


def test_softmax_attention_by_hand():
  """Head by head and query by query."""
  params = draw(attention_tensors(Softmax()))
  p, x = float64((params, X))
  want = x + p["out_bias"]
  for row in range(2):
    normed = norm(p, x[row])
    for head in range(3):
      q, k, v = (normed @ p[role][:, head] + p[f"{role}_bias"][head] for role in ("query", "key", "value"))
      for i in range(5):
        weights = np.exp(q[i] @ k.T / 2)  # sqrt of a head's width, 4
        want[row, i] += weights / weights.sum() @ v @ p["out"][head]
  got, carry = blocks.attention_block(Softmax(), params, X, Context())
  close(got, want, 1e-5)
  assert carry is None


def test_a_kind_knows_what_the_block_adds_to():
  """What is normed before it, and nothing more than its input otherwise."""
  seen = []

  class Spy(Softmax):
    def __call__(self, params, x, source, context, carry=None):
      seen.append(context.residual)
      return super().__call__(params, x, source, context, carry)

  for pre_norm in (True, False):
    blocks.attention_block(Spy(), draw(attention_tensors(Softmax())), X, Context(), pre_norm=pre_norm)
  assert seen[0] is X and seen[1] is None


def test_what_travels_is_kept_by_kind():
  """A kind finds its own and leaves that of others; one that passes nothing on changes nothing."""
  assert blocks.found(None, "a") is blocks.found({"b": 1}, "a") is None and blocks.found({"a": 2, "b": 1}, "a") == 2
  assert blocks.passed({"a": 2, "b": 1}, "a", 3) == {"a": 3, "b": 1} and blocks.passed(None, "a", 3) == {"a": 3}
  assert blocks.passed({"b": 1}, "a", None) == {"b": 1} and blocks.passed(None, "a", None) is None


def test_what_the_first_layer_finds():
  """Of kinds that pass something on only; a layer that is given it says what it says if it is given nothing."""
  first = blocks.first_carry(KINDS.items(), Sizes(6, 3, 4), X)
  assert {"luna", "evolving"} <= first.keys() and not {"softmax", "linear", "mega"} & first.keys()
  for name, carry in first.items():
    params = draw(attention_tensors(KINDS[name]))
    with_it, after = blocks.attention_block(KINDS[name], params, X, Context(), carry=carry)
    without, other = blocks.attention_block(KINDS[name], params, X, Context())
    jax.tree.map(lambda a, b: close(a, b, 1e-5), (with_it, after), (without, other))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, carry)
  family = blocks.first_carry([("luna", Luna(number)) for number in (2, 7, 5)], Sizes(6, 3, 4), X)
  assert family["luna"].shape == (len(X), 7, 6)


@pytest.mark.parametrize("kind", [  # the laws have all of them, in networks
    pytest.param(kind, id=name, marks=() if name in ("softmax", "luna") else pytest.mark.slow) for name, kind in KINDS.items()])
def test_masked_attention_is_sliced(kind):
  """4 of 6 channels and 2 of 3 heads live; the dead ones come out as exactly zero, whatever their parameters."""
  params, declared = draw(attention_tensors(kind)), attention_tensors(kind, 4, 2)
  small = {name: params[name][tuple(map(slice, tensor.shape))] for name, tensor in declared.items()}
  keep, x = Keep(jnp.arange(6) < 4, jnp.arange(3) < 2), jnp.asarray(np.where(np.arange(6) < 4, X, 0))
  context = Context(grid=(1, 5) if kind.can.grid else None)
  run = lambda p, x, keep=None: blocks.attention_block(kind, p, x, context, keep)[0]
  got, want = map(np.asarray, jax.jit(lambda: (run(params, x, keep), run(small, x[..., :4])))())
  close(got[..., :4], want)
  assert not got[..., 4:].any()


@pytest.mark.parametrize("activation", blocks.ACTIVATIONS)
def test_masked_mlp_is_sliced(activation):
  params, declared = draw(blocks.mlp_tensors(6, 7)), blocks.mlp_tensors(4, 5)
  small = {name: params[name][tuple(map(slice, tensor.shape))] for name, tensor in declared.items()}
  got = blocks.mlp_block(activation, params, X.at[..., 4:].set(0), Keep(jnp.arange(6) < 4, None, jnp.arange(7) < 5))
  close(got[..., :4], blocks.mlp_block(activation, small, X[..., :4]))
  assert not got[..., 4:].any()


def test_initial_values_differ_from_tensor_to_tensor_and_stay_in_their_bounds():
  declared = blocks.mlp_tensors(50, 70) | {"twin": blocks.mlp_tensors(50, 70)["up"]}
  values = blocks.initialise(jax.random.key(0), declared)
  assert {name: value.shape for name, value in values.items()} == {n: tensor.shape for n, tensor in declared.items()}
  assert (values["norm_scale"] == 1).all() and not any(values[f"{name}_bias"].any() for name in ("norm", "up", "down"))
  bound = np.sqrt(6 / 120)
  assert 0.98 * bound < np.abs(values["up"]).max() <= bound
  np.testing.assert_allclose(values["up"].std(), bound / np.sqrt(3), rtol=0.05)  # of a uniform variable
  assert (values["up"] != values["twin"]).any()


# -- costs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("length", [1, 6])
def test_attention_count_is_what_is_computed(kind, length, count_products):
  params, grid = draw(attention_tensors(kind)), (1, length) if kind.can.grid else None
  count = blocks.attention_count(kind, Sizes(6, 3, 4, grid=grid), length, length)
  run = lambda p, x: blocks.attention_block(kind, p, x, Context(grid=grid))
  assert count.params == sum(value.size for value in params.values()) == blocks.num_params(attention_tensors(kind))
  assert count.products == count_products(run, params, X[:1, :1].repeat(length, 1))


def test_mlp_count_is_what_is_computed(count_products):
  params = draw(blocks.mlp_tensors(6, 7))
  count = blocks.mlp_count(6, 7, 5)
  assert count.params == sum(value.size for value in params.values()) == 6 * 7 * 2 + 7 + 3 * 6
  assert count.products == count_products(lambda p, x: blocks.mlp_block("relu", p, x), params, X[:1]) == 5 * 2 * 6 * 7


# -- noise -------------------------------------------------------------------------------------------------------------


@jax.jit
def mlp_with_noise(params, x, key, dropout, drop_path):
  return blocks.mlp_block("relu", params, x, noise=Noise(key, hidden=jnp.float32(dropout), drop_path=jnp.float32(drop_path)))


def test_noise_is_right_on_average():
  """The block is linear behind the noise, so the mean over keys tends to the block without it."""
  params = draw(blocks.mlp_tensors(6, 7))
  runs = jax.vmap(lambda key: mlp_with_noise(params, X, key, 0.25, 0.5))(jax.random.split(jax.random.key(0), 4000))
  standard_error = runs.std(0) / np.sqrt(len(runs))
  assert (np.abs(runs.mean(0) - blocks.mlp_block("relu", params, X)) < 4.5 * standard_error).all()
  assert 0 < standard_error.min() and standard_error.max() < 0.2


def test_stochastic_depth_leaves_out_whole_examples():
  params, x = draw(blocks.mlp_tensors(6, 7)), jnp.asarray(RNG.normal(size=(400, 3, 6)), jnp.float32)
  branch = mlp_with_noise(params, x, jax.random.key(0), 0.0, 0.2) - x
  whole = blocks.mlp_block("relu", params, x) - x
  gone = ~np.asarray(branch).any((1, 2))
  assert 0.1 < gone.mean() < 0.3
  close(branch[~gone], whole[~gone] / 0.8)
  other = draw(attention_tensors(Softmax()))
  noise = Noise(jax.random.key(0), drop_path=jnp.float32(0.2))
  attend = lambda noise: blocks.attention_block(Softmax(), other, x, Context(), noise=noise)[0] - x
  branch, whole = attend(noise), attend(None)
  np.testing.assert_array_equal(~np.asarray(branch).any((1, 2)), gone)  # the key decides, and it is the same
  close(branch[~gone], whole[~gone] / 0.8)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_zeroes_hidden_units_at_its_rate(rate):
  """With W₂ = 1 and a positive constant hidden layer, outputs are the hidden units themselves."""
  params = jax.tree.map(jnp.zeros_like, draw(blocks.mlp_tensors(64, 64)))
  params |= {"up_bias": jnp.full(64, 3.0), "down": jnp.eye(64)}
  out = mlp_with_noise(params, jnp.zeros((8, 20, 64)), jax.random.key(0), rate, 0.0)
  steps = round(rate * 256) / 256
  np.testing.assert_allclose(np.unique(out), [0, 3 / (1 - steps)], rtol=1e-6)
  assert abs((out == 0).mean() - steps) < 4 * np.sqrt(rate * (1 - rate) / out.size)


def test_noise_repeats_with_its_key_and_differs_with_another():
  params = draw(blocks.mlp_tensors(6, 7))
  one, again, other = (mlp_with_noise(params, X, jax.random.key(seed), 0.5, 0.0) for seed in (0, 0, 1))
  np.testing.assert_array_equal(one, again)
  assert (one != other).any()


def test_dropped_branches_get_no_gradient():
  params = draw(blocks.mlp_tensors(6, 7))
  keys = (jax.random.key(seed) for seed in range(100))
  key = next(key for key in keys if (mlp_with_noise(params, X[:1], key, 0.25, 0.9) == X[:1]).all())
  grads = jax.grad(lambda p: mlp_with_noise(p, X[:1], key, 0.25, 0.9).sum())(params)
  assert not any(value.any() for value in grads.values())
