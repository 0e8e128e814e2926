import dataclasses
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


def test_uniform_draws_members_and_nothing_else(space):
  draw = jax.jit(lambda key: Sampling(num_networks=5)(key, space))
  genes = jnp.concatenate([draw(jax.random.key(seed)) for seed in range(20)])
  assert genes.shape == (100, space.num_genes) and space.contains(genes).all()
  assert len(np.unique(genes, axis=0)) > 20
  np.testing.assert_array_equal(draw(jax.random.key(3)), genes[15:20])


def test_sandwich_draws_the_largest_the_smallest_and_others(space):
  draw = jax.jit(lambda key: Sampling("sandwich", 4)(key, space))
  genes = np.stack([draw(jax.random.key(seed)) for seed in range(20)])
  assert genes.shape == (20, 4, space.num_genes) and space.contains(genes.reshape(80, -1)).all()
  allowed = {gene.name: [v for v, ok in zip(gene.values, row) if ok] for gene, row in zip(space.genes, space.allowed)}
  for row in genes:
    for place, end in ((0, max), (1, min)):
      values = ordinal_values(space, row[place])
      assert values == {name: end(allowed[name]) for name in values}
      assert values["depth"] == end(allowed["depth"])
  kinds = {tuple(layer.kind for layer in space.decode(row[0]).layers) for row in genes}
  assert (len(kinds) > 3) == ("kind" not in space.restrict)  # kinds have no order: they stay random
  assert len(np.unique(genes[:, 2:].reshape(40, -1), axis=0)) > 10


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_extremes_of_any_genome_are_members_and_keep_its_kinds(space, which):
  genes = space.sample(jax.random.key(0), 50)
  ends = jax.jit(jax.vmap(lambda row: extreme(space, row, which)))(genes)
  assert space.contains(ends).all()
  np.testing.assert_array_equal(jax.vmap(lambda row: extreme(space, row, which))(ends), ends)
  for row, end in zip(np.asarray(genes), np.asarray(ends)):
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
  """The mean over the drawn networks, one after another; the teacher has weights of its own, and no noise."""
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
  return sum(losses) / len(losses)


@pytest.mark.parametrize("sampling", [
    Sampling(), Sampling("sandwich", 3, True), Sampling(num_networks=3, distill=True),
    *(pytest.param(each, marks=pytest.mark.slow) for each in (Sampling(num_networks=3), Sampling("sandwich", 3)))],
    ids=lambda s: f"{s.rule}{s.num_networks}{'-distill' * s.distill}")
def test_loss_and_gradient_by_hand(small, sampling):
  toy, keys = Toy(small.space, small.supernet.net), Keys(jax.random.key(1), jax.random.key(2))
  params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(small.space.num_genes, 48, 3)), jnp.float32)}
  loss = supernet_loss(toy, sampling, TASK)
  (value, (metrics, used)), grads = small.quick(jax.value_and_grad(loss, has_aux=True))(params, small.batch, keys)
  alone, _ = small.quick(loss)(params, small.batch, keys)
  want, want_grads = small.quick(jax.value_and_grad(
      lambda mine, teachers: by_hand(toy, sampling, mine, teachers, small.batch, keys)))(params, params)
  np.testing.assert_allclose((value, alone), want, rtol=1e-5)  # with and without a gradient
  np.testing.assert_allclose(grads["w"], want_grads["w"], rtol=1e-4, atol=1e-6)
  drawn = np.asarray(sampling(keys.step, small.space))
  np.testing.assert_array_equal(used["w"][:, 0, 0], (drawn > 0).any(0))
  assert metrics == {} and not np.where(used["w"], 0, grads["w"]).any()


def test_a_teacher_learns_from_the_labels_and_students_from_it_alone(small):
  """Other labels change the gradient of the largest network only."""
  toy, keys = Toy(small.space, small.supernet.net), Keys(jax.random.key(1), jax.random.key(2))
  params = {"w": jnp.ones((small.space.num_genes, 48, 3))}
  for sampling, teaches in ((Sampling("sandwich", 3, True), True), (Sampling(num_networks=3, distill=True), False)):
    loss = supernet_loss(toy, sampling, TASK)
    gradient = small.quick(jax.grad(lambda p, labels: loss(p, small.batch | {"label": labels}, keys)[0]))
    one, two = (gradient(params, labels)["w"] for labels in (small.batch["label"], 2 - small.batch["label"]))
    assert (one != two).any() == teaches


def test_the_draw_is_the_steps_and_the_noise_the_micro_batchs(small):
  toy, sampling = Toy(small.space, small.supernet.net), Sampling(num_networks=2)
  params = {"w": jnp.ones((small.space.num_genes, 48, 3)).at[..., 0].set(2)}
  loss = small.quick(supernet_loss(toy, sampling, TASK))
  run = lambda step, micro: loss(params, small.batch, Keys(jax.random.key(step), jax.random.key(micro)))
  (one, (_, used)), (two, (_, same)), (_, (_, other)) = run(0, 0), run(0, 1), run(1, 0)
  np.testing.assert_array_equal(used["w"], same["w"])
  assert one != two and (used["w"] != other["w"]).any()


def test_mean_over_is_the_mean_and_so_is_its_gradient(small):
  """Memory aside; also where it is part of a larger function."""
  rng = np.random.default_rng(0)
  genes, keys = small.space.sample(jax.random.key(0), 4), jax.random.split(jax.random.key(1), 4)
  params = {"w": jnp.asarray(rng.normal(size=11), jnp.float32), "scale": jnp.float32(0.3)}
  batch, teacher = jnp.asarray(rng.normal(size=(5, 11)), jnp.float32), jnp.float32(2.0)

  def of_one(params, genes, batch, key, teacher):
    rows = jnp.tanh(batch * genes @ params["w"]) + jax.random.normal(key, (5,)) * params["scale"]
    return teacher * (rows**2).mean()

  plain = lambda p: jnp.stack([of_one(p, genes[i], batch, keys[i], teacher) for i in range(4)]).mean() ** 2
  ours = lambda p: _mean_over(of_one)(p, genes, batch, keys, teacher) ** 2
  (value, grads), (want, want_grads) = (small.quick(jax.value_and_grad(f))(params) for f in (ours, plain))
  np.testing.assert_allclose(value, want, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), grads, want_grads)
  np.testing.assert_allclose(ours(params), value, rtol=1e-6)
