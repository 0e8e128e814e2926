import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.base import Tensor
from nasformer.supernet import slicing

ZEROS = jax.nn.initializers.zeros
LARGE = {"w": Tensor((4, 3, 2), ("embed", "heads", None), ZEROS), "b": Tensor((4,), ("embed",), ZEROS)}
SMALL = {"w": Tensor((2, 3, 2), ("embed", "heads", None), ZEROS), "b": Tensor((2,), ("embed",), ZEROS)}
RNG = np.random.default_rng(0)


def draw(shapes):
  return {name: jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def test_take_by_hand():
  stored = draw({"w": (4, 3, 2), "b": (4,), "other": (9,)})
  small = slicing.plain(SMALL).take(stored)
  np.testing.assert_array_equal(small["w"], stored["w"][:2])
  np.testing.assert_array_equal(small["b"], stored["b"][:2])
  assert list(small) == ["w", "b"]


def test_take_of_a_layer_and_under_other_names():
  stored = draw({"a.w": (5, 4, 3, 2), "shared.b": (5, 4)})
  cut = slicing.Cut(SMALL, {"w": "a.w", "b": "shared.b"}, SMALL)
  for layer in range(5):
    for number in (layer, jnp.int32(layer)):
      small = cut.take(stored, number)
      np.testing.assert_array_equal(small["w"], stored["a.w"][layer, :2])
      np.testing.assert_array_equal(small["b"], stored["shared.b"][layer, :2])
    here = cut.take(jax.device_get(stored), layer)
    assert all(isinstance(leaf, np.ndarray) for leaf in here.values())  # on the host, where nothing is compiled
    jax.tree.map(np.testing.assert_array_equal, here, small)
  assert slicing.plain(SMALL, "x.").names == {"w": "x.w", "b": "x.b"}


def test_add_is_the_transpose_of_take():
  """⟨take(stored), small⟩ = ⟨stored, add(0, small)⟩, and what was there stays."""
  shapes = {"x.w": (5, 4, 3, 2), "x.b": (5, 4), "other": (5, 2)}
  cut, stored, small = slicing.plain(SMALL, "x."), draw(shapes), draw({"w": (2, 3, 2), "b": (2,)})
  inner = lambda one, two: sum(np.vdot(one[name], two[name]) for name in one)
  zeros = jax.tree.map(jnp.zeros_like, stored)
  take, add = jax.jit(cut.take), jax.jit(cut.add)
  for layer in range(5):
    assert inner(take(stored, layer), small) == pytest.approx(inner(stored, add(zeros, small, layer)), rel=1e-5)
    jax.tree.map(np.testing.assert_array_equal, add(stored, small, layer),
                 jax.tree.map(jnp.add, stored, add(zeros, small, layer)))
  untouched = add(zeros, small, 3)
  assert not untouched["other"].any() and not untouched["x.w"][:3].any() and not untouched["x.w"][3, 2:].any()


def test_a_tensor_that_two_roles_share_collects_both_gradients():
  roles = {"one": SMALL["b"], "two": SMALL["b"]}
  cut = slicing.Cut(roles, {"one": "b", "two": "b"}, roles)
  added = cut.add({"b": jnp.zeros((1, 4))}, {"one": jnp.ones(2), "two": jnp.full(2, 10.0)}, 0)
  np.testing.assert_array_equal(added["b"], [[11, 11, 0, 0]])


def test_used_by_hand():
  alive = {"embed": jnp.array([True, True, False, False]), "heads": jnp.array([True, False, False])}
  want = np.zeros((4, 3, 2), bool)
  want[:2, :1] = True
  np.testing.assert_array_equal(np.broadcast_to(slicing.used(LARGE["w"], alive), want.shape), want)
  np.testing.assert_array_equal(slicing.used(LARGE["b"], alive), alive["embed"])
  plain = Tensor((3, 2), (None, None), ZEROS)
  assert np.broadcast_to(slicing.used(plain, alive), (3, 2)).all()


def test_used_layer_by_layer():
  """Widths may be the network's or each layer's; a layer that is not used uses nothing."""
  heads = jnp.array([[True, False, False], [True, True, True], [True, True, False]])
  alive, layers = {"embed": jnp.array([True, True, True, False]), "heads": heads}, jnp.array([True, False, True])
  want = np.zeros((3, 4, 3, 2), bool)
  want[0, :3, :1] = want[2, :3, :2] = True
  np.testing.assert_array_equal(np.broadcast_to(slicing.used(LARGE["w"], alive, layers), want.shape), want)
  plain = slicing.used(Tensor((2,), (None,), ZEROS), alive, layers)
  np.testing.assert_array_equal(np.broadcast_to(plain, (3, 2)), [[True] * 2, [False] * 2, [True] * 2])


def test_a_divided_width_holds_every_number_of_heads():
  """Width and heads of a projection trade; what is stored per head only is stored for the most heads, and of what is as
  wide as a head, the widest."""

  def cut(heads):
    declared = {"w": Tensor((5, heads, 12 // heads), (None, "heads", "head_dim"), ZEROS),
                "per_head": Tensor((heads, 7), ("heads", None), ZEROS),
                "per_width": Tensor((12 // heads,), ("head_dim",), ZEROS)}
    return slicing.Cut(declared, {name: f"x.{name}" for name in declared}, slicing.divided(declared, 4))

  stored = slicing.union([cut(2), cut(4)])
  assert {name: tensor.shape for name, tensor in stored.items()} == {
      "x.w": (5, 4, 3), "x.per_head": (4, 7), "x.per_width": (6,)}
  values = draw({name: tensor.shape for name, tensor in stored.items()})
  for heads in (2, 4):
    small = cut(heads).take(values)
    np.testing.assert_array_equal(small["w"], values["x.w"].reshape(5, heads, -1))
    np.testing.assert_array_equal(small["per_head"], values["x.per_head"][:heads])
    np.testing.assert_array_equal(small["per_width"], values["x.per_width"][: 12 // heads])


def test_users_of_stored_tensors():
  """By the number of the choice; one that needs a tensor in several shapes needs the part that they all fit into."""

  def cut(name, size):
    w = {"w": Tensor((size, 5 - size), (None, "embed"), ZEROS)}
    return slicing.Cut(w, {"w": name}, w)

  found = slicing.users([[cut("all", 2), cut("mine", 1)], [cut("all", 2), cut("all", 3)], [cut("all", 2)]])
  assert found == {"all": {(2, 3): [0, 2], (3, 3): [1]}, "mine": {(1, 4): [0]}}


def test_used_by_choices_of_several_sizes():
  """Layer by layer: the first choice uses less than the second, the third nothing."""
  alive, layers = {"embed": jnp.array([True, True, False])}, jnp.array([True, True, True, False])
  users, tensor = {(2, 3): [0], (4, 3): [1]}, Tensor((4, 3), (None, "embed"), ZEROS)
  want = np.zeros((4, 4, 3), bool)
  want[0, :2, :2] = want[1, :, :2] = True
  used = slicing.used_by(users, tensor, alive, layers, jnp.array([0, 1, 2, 1]))
  np.testing.assert_array_equal(np.broadcast_to(used, want.shape), want)
