import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Context, Core, Count, Kind, Sizes, Tensor, family, project, xavier
from nasformer.attention.luna import Luna
from nasformer.attention.mega import Mega
from nasformer.attention.naming import label


@dataclasses.dataclass(frozen=True)
class Sum(Core):
  """Keys, values and a vector of its own, summed: a core that shows what comes in and goes out."""

  def core_params(self, sizes):
    return {"own": Tensor((sizes.head_dim,), (None,), jax.nn.initializers.ones)}

  def attend(self, params, q, k, v, context):
    return q + (k + v).sum(1, keepdims=True) + params["own"]

  def core_count(self, sizes, queries, keys, causal):
    return Count(sizes.head_dim, 0, 1 + causal)


SELF, CROSS = Sizes(6, 3, 4), Sizes(6, 3, 4, source_dim=5)


def _draw(sizes, seed=0):
  """Random (params, x, source) of two examples, four queries and seven keys."""
  rng = np.random.default_rng(seed)
  params = {name: rng.normal(size=t.shape) for name, t in Sum().params(sizes).items()}
  inputs = rng.normal(size=(2, 4, sizes.embed_dim)), rng.normal(size=(2, 7, sizes.key_dim))
  return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, *inputs))


def test_a_core_projects_attends_and_adds_the_heads_up():
  params, x, source = _draw(CROSS)
  out, carry = Sum()(params, x, source, Context(), carry="passed on")
  p, x, source = jax.tree.map(np.asarray, (params, x, source))
  want = np.zeros((2, 4, 6)) + p["out_bias"]
  for head in range(3):
    q, k, v = (a @ p[role][:, head] + p[f"{role}_bias"][head]
               for a, role in ((x, "query"), (source, "key"), (source, "value")))
    want += (q + (k + v).sum(1, keepdims=True) + p["own"]) @ p["out"][head]
  np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
  assert carry == "passed on"


def test_dead_heads_channels_and_queries_are_zero():
  params, x, source = _draw(SELF)
  heads, embed = jnp.array([True, False, True]), jnp.arange(6) < 4
  queries = jnp.array([[True] * 4, [True, False, True, False]])
  out, _ = Sum()(params, x, source, Context(queries, keep_heads=heads, keep_embed=embed))
  params["out"] = params["out"].at[1].set(0)
  want, _ = Sum()(params, x, source, Context())
  want = np.where(queries[..., None] & embed, want, 0)
  np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [SELF, CROSS])
def test_tensors_are_stored_by_role_and_head(sizes):
  declared = Sum().params(sizes)
  assert declared["query"].shape == (6, 3, 4) and declared["query"].axes == ("embed", "heads", "head_dim")
  source = ("source" if sizes is CROSS else "embed", "heads", "head_dim")
  assert declared["key"].shape == declared["value"].shape == (sizes.key_dim, 3, 4)
  assert declared["key"].axes == declared["value"].axes == source
  assert declared["out"].shape == (3, 4, 6) and declared["out"].axes == ("heads", "head_dim", "embed")
  assert declared["own"].shape == (4,)
  for name, tensor in declared.items():
    values = tensor.init(jax.random.key(0), tensor.shape)
    assert values.any() != name.endswith("_bias")


def test_count_of_a_core():
  """The four products of the projections, with their weights and biases, and what the core itself costs."""
  weights, inner = 6 * 12 + 2 * 5 * 12 + 12 * 6, 3 * 12 + 6
  assert Sum().count(CROSS, 4, 7) == Count(weights + inner + 4, 4 * 6 * 12 * 2 + 7 * 5 * 12 * 2, 1)
  assert Sum().count(CROSS, 4, 7, causal=True).elementwise == 2
  assert Sum().count(SELF, 1, 1).params == sum(math.prod(t.shape) for t in Sum().params(SELF).values())


def test_counts_add_up():
  assert Count(1, 2, 3) + Count(10, 20, 30) == Count(11, 22, 33)


def test_keys_come_from_the_model_width_unless_told():
  assert (SELF.key_dim, CROSS.key_dim) == (6, 5)


def test_projection_is_in_the_type_of_the_input():
  x, kernel, bias = jnp.ones((1, 2, 3), jnp.bfloat16), jnp.ones((3, 4, 5)), jnp.full((4, 5), 0.5)
  out = project(x, kernel, bias)
  assert out.dtype == jnp.bfloat16 and out.shape == (1, 2, 4, 5) and (out == 3.5).all()


def test_xavier_is_uniform_within_its_bound():
  """The bound is sqrt(6 / (100 + 50)) = 0.2; a uniform on ± b has the deviation b / sqrt(3)."""
  values = xavier(100, 50)(jax.random.key(0), (100, 5, 10))
  assert float(abs(values).max()) <= 0.2
  np.testing.assert_allclose(float(values.std()), 0.2 / np.sqrt(3), rtol=0.02)


def test_a_kind_must_say_what_it_does():
  for call in (lambda: Kind().params(SELF), lambda: Kind().count(SELF, 1, 1), lambda: Kind()({}, *[None] * 3),
               lambda: Core().core_count(SELF, 1, 1, False), lambda: Core().attend({}, *[None] * 4)):
    with pytest.raises((NotImplementedError, TypeError)):
      call()


def test_a_family_differs_in_elastic_sizes_only():
  kinds = {"long": Mega(), "short": Mega(ema_dim=4), "chunks": Mega(chunk_size=8, ema_dim=4), "other": Mega(max_length=9),
           "smaller": Mega(chunk_size=4), "luna": Luna(), "more": Luna(99), "plain": Sum(), "same": Sum()}
  assert {name: family(kinds, name) for name in kinds} == {
      "long": "long", "short": "long", "chunks": "chunks", "other": "other", "smaller": "chunks", "luna": "luna",
      "more": "luna", "plain": "plain", "same": "plain"}


def test_labels_say_what_is_unusual():
  assert [label(kind) for kind in (Luna(), Luna(8), Mega(max_length=9), Mega(chunk_size=8, activation="laplace"))] == [
      "luna", "luna(memory_length=8)", "mega", "mega(chunk_size=8 activation=laplace)"]
  assert label(Sum()) == f"{__name__}:Sum"
