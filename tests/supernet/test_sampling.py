import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.ops.losses import distillation, smoothed_cross_entropy
from nasformer.supernet.encoder import Supernet
from nasformer.supernet.sampling import Sampling, _mean_over, extreme, supernet_loss
from nasformer.train.step import Keys
from nasformer.types import UserError

RULES = ["", "layer.*.kind=linear", "depth=1,2", "depth=2,3; layer.*.ffn=5; embed_dim=4; layer.1.num_heads=2"]


@pytest.fixture(params=RULES)
def space(small, request):
  return dataclasses.replace(small.space, restrict=request.param)


# -- which networks are drawn ------------------------------------------------------------------------------------------


def ordinal_values(space, genes):
  """Chosen values of the sizes of a genome, by gene."""
  return {name: value for name, value in space.values(np.asarray(genes)).items() if not name.endswith("kind")}


@functools.cache
def drawing(sampling, space):
  """Compiled seeds -> what is drawn with each, and whether that is a member."""

  def draw(seed):
    genes = sampling(jax.random.key(seed), space)
    return genes, space.contains(genes)

  return jax.jit(jax.vmap(draw))


def drawn(sampling, space):
  return jax.device_get(drawing(sampling, space)(np.arange(20)))


def test_uniform_draws_members_and_nothing_else(space):
  genes, inside = drawn(Sampling(num_networks=5), space)
  assert genes.shape == (20, 5, space.num_genes) and inside.all()
  assert len(np.unique(genes.reshape(100, -1), axis=0)) > 20
  np.testing.assert_array_equal(drawn(Sampling(num_networks=5), space)[0], genes)


def test_sandwich_draws_the_largest_the_smallest_and_others(space):
  genes, inside = drawn(Sampling("sandwich", 4), space)
  assert genes.shape == (20, 4, space.num_genes) and inside.all()
  allowed = {gene.name: [v for v, ok in zip(gene.values, row) if ok] for gene, row in zip(space.genes, space.allowed)}
  for row in genes:
    for place, end in ((0, max), (1, min)):
      values = ordinal_values(space, row[place])
      assert values == {name: end(allowed[name]) for name in values}
      assert values["depth"] == end(allowed["depth"])
  kinds = {tuple(layer.kind for layer in space.decode(row[0]).layers) for row in genes}
  assert (len(kinds) > 3) == ("kind" not in space.restrict)  # kinds have no order: they stay random
  assert len(np.unique(genes[:, 2:].reshape(40, -1), axis=0)) > 10


def test_extremes_of_any_genome_are_members_and_keep_its_kinds(space):
  @jax.jit
  def run(key):
    genes, ends = space.sample(key, 50), {}
    for which in ("largest", "smallest"):
      extremes = jax.vmap(lambda row: extreme(space, row, which))
      once = extremes(genes)
      ends[which] = once, extremes(once), space.contains(once)
    return genes, ends

  genes, ends = jax.device_get(run(jax.random.key(0)))
  for once, twice, inside in ends.values():
    assert inside.all()
    np.testing.assert_array_equal(twice, once)
    for row, end in zip(genes, once):
      before, after = space.decode(row), space.decode(end)
      assert all(a.kind == b.kind for a, b in zip(before.layers, after.layers))


@pytest.mark.parametrize("change, message", [
    ({"num_networks": 0}, "the uniform rule needs at least 1"),
    ({"rule": "sandwich"}, "sampling.num_networks=1: the sandwich rule needs at least 2"),
])
def test_mistakes_are_told(change, message):
  with pytest.raises(UserError, match=message):
    Sampling(**{"rule": "uniform"} | change)


# -- the loss that is averaged over them -------------------------------------------------------------------------------


class Toy(Supernet):
  """Softmax regression with a weight for every gene, pixel and class, and noise: all that the loss asks for."""

  def exact(self, params, genes, images, key=None):
    weights = jnp.einsum("g,gdc->dc", genes.astype(jnp.float32), params["w"])
    logits = images.reshape(len(images), -1) / 255 @ weights
    return logits if key is None else logits + jax.random.normal(key, logits.shape)

  def used(self, genes):
    return {"w": (genes > 0)[:, None, None]}


def prepare(key, batch):
  image = batch["image"].astype(jnp.float32)
  return batch | {"image": image + 30 * jax.random.normal(key, image.shape)}


def cross_entropy(logits, batch):
  return smoothed_cross_entropy(logits, batch["label"], 0.1)


TASK = types.SimpleNamespace(prepare=prepare, inputs=lambda batch: batch["image"], loss=cross_entropy,
                             distillation=lambda logits, teacher, batch: distillation(logits, teacher))


def by_hand(toy, sampling, params, teacher_params, batch, keys):
  """The mean over the drawn networks, one after another, and these; the teacher has weights of its own, and no noise."""
  augment, noise, tie = jax.random.split(keys.micro, 3)
  genes, batch = sampling(keys.step, toy.space), prepare(augment, batch)
  noises = jax.random.split(noise, len(genes))
  logits = [toy.exact(params, row, batch["image"], noises[i]) for i, row in enumerate(genes)]
  losses = [cross_entropy(each, batch).mean() for each in logits]
  if sampling.distill:
    largest = genes[0]
    if sampling.rule == "uniform":
      largest = extreme(toy.space, toy.space.sample(tie, 1)[0], "largest")
    target = jax.nn.log_softmax(toy.exact(teacher_params, largest, batch["image"]))
    for i, row in enumerate(genes):
      imitation = (jnp.exp(target) * (target - jax.nn.log_softmax(logits[i]))).sum(-1).mean()
      losses[i] = jnp.where((row == largest).all(), losses[i], imitation)
  return sum(losses) / len(losses), genes


@pytest.fixture(scope="module")
def toy(small):
  return Toy(small.space, small.supernet.net)


KEYS = Keys(jax.random.key(1), jax.random.key(2))


@functools.cache
def compiled(toy, sampling):
  """(parameters, batch, keys) -> the loss, and again with what comes with it and its gradient."""
  loss = supernet_loss(toy, sampling, TASK)
  return jax.jit(lambda *args: (loss(*args)[0], *jax.value_and_grad(loss, has_aux=True)(*args)))


@pytest.mark.parametrize("sampling", [
    Sampling(), Sampling("sandwich", 3, True), Sampling(num_networks=3, distill=True),
    *(pytest.param(each, marks=pytest.mark.slow) for each in (Sampling(num_networks=3), Sampling("sandwich", 3)))],
    ids=lambda s: f"{s.rule}{s.num_networks}{'-distill' * s.distill}")
def test_loss_and_gradient_by_hand(small, toy, sampling):
  params = {"w": np.random.default_rng(0).normal(size=(small.space.num_genes, 48, 3)).astype(np.float32)}
  alone, (value, (metrics, used)), grads = jax.device_get(compiled(toy, sampling)(params, small.batch, KEYS))
  reference = jax.value_and_grad(lambda mine, *rest: by_hand(toy, sampling, mine, *rest), has_aux=True)
  (want, drawn), want_grads = jax.device_get(small.quick(reference)(params, params, small.batch, KEYS))
  np.testing.assert_allclose((value, alone), want, rtol=1e-5)  # with and without a gradient
  np.testing.assert_allclose(grads["w"], want_grads["w"], rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(used["w"][:, 0, 0], (drawn > 0).any(0))
  assert metrics == {} and not np.where(used["w"], 0, grads["w"]).any()


def test_a_teacher_learns_from_the_labels_and_students_from_it_alone(small, toy):
  """Other labels change the gradient of the largest network only."""
  params = {"w": np.ones((small.space.num_genes, 48, 3), np.float32)}
  for sampling, teaches in ((Sampling("sandwich", 3, True), True), (Sampling(num_networks=3, distill=True), False)):
    one, two = (np.asarray(compiled(toy, sampling)(params, small.batch | {"label": labels}, KEYS)[2]["w"])
                for labels in (small.batch["label"], 2 - np.asarray(small.batch["label"])))
    assert (one != two).any() == teaches


def test_the_draw_is_the_steps_and_the_noise_the_micro_batchs(small, toy):
  params = {"w": np.ones((small.space.num_genes, 48, 3), np.float32)}
  params["w"][..., 0] = 2
  run = lambda *seeds: jax.device_get(
      compiled(toy, Sampling())(params, small.batch, Keys(*map(jax.random.key, seeds)))[1])
  (one, (_, used)), (two, (_, same)), (_, (_, other)) = run(0, 0), run(0, 1), run(1, 0)
  np.testing.assert_array_equal(used["w"], same["w"])
  assert one != two and (used["w"] != other["w"]).any()


def test_mean_over_is_the_mean_and_so_is_its_gradient(small):
  """Memory aside; also where it is part of a larger function."""
  rng = np.random.default_rng(0)
  genes, keys = rng.integers(0, 3, (4, 11)), jax.vmap(jax.random.key)(np.arange(4))
  params = {"w": rng.normal(size=11).astype(np.float32), "scale": np.float32(0.3)}
  batch, teacher = rng.normal(size=(5, 11)).astype(np.float32), np.float32(2.0)

  def of_one(params, genes, batch, key, teacher):
    rows = jnp.tanh(batch * genes @ params["w"]) + jax.random.normal(key, (5,)) * params["scale"]
    return teacher * (rows**2).mean()

  plain = lambda p: jnp.stack([of_one(p, genes[i], batch, keys[i], teacher) for i in range(4)]).mean() ** 2
  ours = lambda p: _mean_over(of_one)(p, genes, batch, keys, teacher) ** 2
  run = small.quick(lambda p: (ours(p), *map(lambda f: jax.value_and_grad(f)(p), (ours, plain))))
  alone, (value, grads), (want, want_grads) = jax.device_get(run(params))
  np.testing.assert_allclose((value, alone), want, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), grads, want_grads)
