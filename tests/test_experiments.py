"""Every experiment file is closed, and its networks shape-checked at full size; nothing of that size is computed."""

import dataclasses
import functools
import inspect
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer import config, stages, workdir
from nasformer.data import TABLE
from nasformer.data.base import Info, Splits
from nasformer.data.parallel import Parallel, TextInfo
from nasformer.data.series import Series, SeriesInfo
from nasformer.data.texts import BYTES, Texts, TextsInfo
from nasformer.experiment import Experiment
from nasformer.nets.blocks import decayed
from nasformer.nets.translation import TranslationNet
from nasformer.registry import lookup
from nasformer.supernet.sampling import extreme, supernet_loss
from nasformer.train import state, step

ROOT = pathlib.Path(__file__).parent.parent
SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def run_file(path):
  """What a config file defines; it may import the files beside it."""
  with config._neighbours(["", f"--config={path}"]):
    return runpy.run_path(str(path))


def cases():
  """File and argument of every experiment; the functions of a file with variants are its arguments."""
  for path in sorted((ROOT / "experiments").glob("*/*.py")):
    if "def get_config(" in path.read_text():  # the others are programs of their own
      members = run_file(path)
      variants = [name for name, thing in members.items() if inspect.signature(members["get_config"]).parameters
                  and inspect.isfunction(thing) and thing.__code__.co_filename == str(path) and name != "get_config"]
      for variant in variants or [None]:
        yield f"{path.relative_to(ROOT / 'experiments')}:{variant or ''}".removesuffix(":")


@functools.cache
def load(case):
  """A run of the experiment whose data set is known by its sizes only."""
  path, _, argument = case.partition(":")
  get_config = run_file(ROOT / "experiments" / path)["get_config"]
  experiment = config.close(Experiment, get_config(*filter(None, [argument])))
  (name,) = [name for name in TABLE if lookup(TABLE, name) is type(experiment.data)]
  run = workdir.Run(experiment, pathlib.Path("none"))
  if isinstance(experiment.data, Parallel):
    size, languages = experiment.data.vocab_size, (experiment.data.source_language, experiment.data.target_language)
    vars(run)["splits"] = Splits(TextInfo(name, *languages, size, size, experiment.data.joint, experiment.data.max_length,
                                          experiment.data.lengths, "", "0"), {})
    return run
  data = experiment.data
  if isinstance(data, Texts):
    size = 256 if data.vocabulary == BYTES else data.vocab_size
    vars(run)["splits"] = Splits(TextsInfo(name, 2, ("no", "yes"), data.vocabulary, size, data.max_length, data.lengths, "",
                                           ""), {})
    return run
  if isinstance(data, Series):
    vars(run)["splits"] = Splits(SeriesInfo(name, 2, ("no", "yes"), data.max_length, (data.max_length,), "", (0.0,), (1.0,)), {})
    return run
  height, width, channels = SHAPES[name]
  side = experiment.data.image_size
  shape = (side or height, side or width, channels)
  info = Info(name, shape, 10, tuple("0123456789"), "", (0.0,) * channels, (1.0,) * channels)
  vars(run)["splits"] = Splits(info, {})
  return run


def batch_of(run, size):
  if isinstance(run.splits.info, TextInfo):
    length = run.splits.info.lengths[-1]
    rows = size // length
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    return {"source": tokens, "target": tokens, "weight": jax.ShapeDtypeStruct((rows,), jnp.float32)}
  if hasattr(run.splits.info, "max_length"):
    values, length = jax.eval_shape(lambda: run.experiment.task.example(run.supernet.net, size))
    return {"values": values, "length": length, "label": length, "mask": jax.ShapeDtypeStruct((size,), bool)}
  return {"image": jax.ShapeDtypeStruct((size, *run.splits.info.image_shape), jnp.uint8),
          "label": jax.ShapeDtypeStruct((size,), jnp.int32)}


over_experiments = pytest.mark.parametrize("case", list(cases()))


@over_experiments
def test_it_says_how_to_run_it(case):
  path = case.partition(":")[0]
  text = (ROOT / "experiments" / path).read_text()
  assert f"python -m nasformer.main --config=experiments/{path}" in text.split('"""')[1]


@over_experiments
def test_json_and_back(case):
  experiment = load(case).experiment
  assert config.from_json(Experiment, config.to_json(experiment)) == experiment


@over_experiments
def test_the_budget_can_be_met_by_every_arm(case):
  domains, baseline = stages._domains(load(case))
  for domain in domains.values():
    least = {name: domain.costs[name].minimum()[0] for name in domain.limits}
    assert all(least[name] < limit for name, limit in domain.limits.items())
  assert any(baseline.meets(np.stack(list(baseline.space.uniform_genomes()))))


end = jax.jit(extreme, static_argnums=(0, 2))


def chosen(spec):
  """What is not a size: every kind, and where in the network it is."""
  return {(str(path[0]), str(path[-1]), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(spec.to_json())
          if isinstance(leaf, str)}


@over_experiments
@pytest.mark.parametrize("size", ["smallest", "largest"])
def test_networks_at_the_ends(case, size):
  """As few of them as hold every kind, whose layers take them in turn."""
  run = load(case)
  net, space = run.supernet.net, run.experiment.space
  choices = [len(gene.values) if gene.kind == "categorical" else 1 for gene in space.genes]
  seen = set()
  for first in range(max(choices)):
    genes = (first + np.cumsum(np.array(choices) > 1)) % choices
    spec = space.decode(np.asarray(end(space, jnp.asarray(genes, jnp.int32), size)))
    if chosen(spec) <= seen:
      continue
    seen |= chosen(spec)
    network, inputs = run.supernet.module(spec), run.experiment.task.example(net, 2)
    outputs, params = jax.eval_shape(network.init_with_output, jax.random.key(0), inputs)
    assert outputs.shape[0] == 2
    counted = sum(leaf.size for leaf in jax.tree.leaves(params))
    if isinstance(net, TranslationNet):  # these configs leave embeddings out
      counted -= sum(leaf.size for name, leaf in params["params"]["ends"].items() if "norm" not in name)
    assert counted == net.count_spec(spec).params


ENDS = ("heads", "depth")


def stored_alike(space):
  """The space with few sizes whose supernet stores the same: a branch for each of the others would only be more to trace.

  Of heads and depths, which may share a budget of heads, the ends are kept, and of every other size the largest.
  """
  sizes = {field.name: getattr(space, field.name) for field in dataclasses.fields(space)}
  return dataclasses.replace(space, **{name: tuple(dict.fromkeys((found[0], found[-1]) if name.endswith(ENDS) else found[-1:]))
                                       for name, found in sizes.items()
                                       if isinstance(found, tuple) and found and not isinstance(found[0], str)})


def spaces():
  """A case for every space; the one with the fewest genes stands for all of its kind of networks and task."""
  by_space, met = {load(case).experiment.space: case for case in cases()}, set()
  for space, case in sorted(by_space.items(), key=lambda row: row[0].num_genes):
    alike = space.spec, type(load(case).experiment.task)
    yield pytest.param(case, marks=[pytest.mark.slow] * (alike in met))
    met.add(alike)


@pytest.mark.parametrize("case", list(spaces()))
def test_a_training_step(case):
  """Of the supernet of every space, at the full batch: the state keeps its shapes."""
  whole = load(case)
  run = workdir.Run(dataclasses.replace(whole.experiment, space=stored_alike(whole.experiment.space)), whole.path)
  vars(run)["splits"] = whole.splits
  params, stored = (jax.eval_shape(one.supernet.init, jax.random.key(0)) for one in (run, whole))
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, stored)
  experiment, supernet, training = run.experiment, run.supernet, run.experiment.train
  loss = supernet_loss(supernet, experiment.sampling, experiment.task)
  optimizer = training.optimizer.make(training.steps, decayed(params))
  before = jax.eval_shape(lambda p: state.init(p, optimizer, ema=training.ema_decay > 0), params)
  update = step.make_step(loss, optimizer, accumulate=training.accumulate, ema_decay=training.ema_decay,
                          freeze_unused=training.freeze_unused)
  after, metrics = jax.eval_shape(update, before, batch_of(run, training.batch_size), jax.random.key(0))
  sizes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
  assert sizes(after) == sizes(before)
  assert {name: value.shape for name, value in metrics.items()} == {"loss": (), "grad_norm": ()}
