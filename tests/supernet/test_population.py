import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.supernet.population import PopulationPass, fastest_chunk
from nasformer.tasks.image_classification import ImageClassification

CAPACITY, CHUNKS = 10, (1, 3)


@pytest.fixture(scope="module")
def passes(small):
  """Passes of both chunk sizes; 3 does not divide their capacity."""
  return {chunk: PopulationPass(small.supernet, ImageClassification(), CAPACITY, chunk) for chunk in CHUNKS}


@pytest.fixture(scope="module")
def data(small):
  """Genomes, their numbers of parameters, and two batches, the second of which ends in padding."""
  genes = np.asarray(small.space.sample(jax.random.key(0), CAPACITY))
  costs = np.array([small.supernet.net.count_spec(small.space.decode(row)).params for row in genes])
  first = small.batch | {"mask": jnp.ones(4, bool)}
  second = {"image": 255 - small.batch["image"], "label": jnp.array([1, 1, 0, 0]), "mask": jnp.arange(4) < 2}
  return genes, costs, [first, second]


@pytest.fixture(scope="module")
def one_by_one(small, data):
  """Sums over all real examples, network by network and example by example, from the definitions."""
  genes, _, batches = data
  run = small.quick(small.supernet.masked)
  sums = {"loss": np.zeros(len(genes)), "accuracy": np.zeros(len(genes)), "count": np.zeros(len(genes))}
  for i, row in enumerate(genes):
    for batch in batches:
      logits = np.asarray(run(small.params, jnp.asarray(row), batch["image"]), np.float64)
      for example, label, real in zip(logits, batch["label"], batch["mask"]):
        if real:
          sums["loss"][i] += np.log(np.exp(example).sum()) - example[label]
          sums["accuracy"][i] += example.argmax() == label
          sums["count"][i] += 1
  return sums


def close(got, want, tolerance):
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_sums_are_those_of_the_members_alone(chunk, small, passes, data, one_by_one):
  genes, costs, batches = data
  close(passes[chunk](small.params, genes, costs, batches), one_by_one, 1e-4)
  assert (one_by_one["count"] == 6).all() and len(np.unique(one_by_one["loss"].round(3))) == CAPACITY


@pytest.mark.parametrize("chunk", CHUNKS)
def test_members_do_not_know_each_other(chunk, small, passes, data):
  """Order, sorting and the rest of the population change nothing, and nothing is compiled again."""
  genes, costs, batches = data
  run = passes[chunk]
  whole = run(small.params, genes, costs, batches)
  for chosen in ([7, 2, 9, 0, 5, 1, 3, 8, 6, 4], [4], [3, 3, 8], [0, 9, 2, 5, 6, 1, 7]):
    want = {name: values[chosen] for name, values in whole.items()}
    close(run(small.params, genes[chosen], costs[chosen], batches), want, 1e-5)
    close(run(small.params, genes[chosen], -1.5 * costs[chosen], batches), want, 1e-5)  # sorted the wrong way round
  assert run.step._cache_size() == 1


def test_chunk_sizes_agree(small, passes, data):
  genes, costs, batches = data
  one, three = (passes[chunk](small.params, genes, costs, batches) for chunk in CHUNKS)
  close(one, three, 1e-5)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_padding_counts_for_nothing(chunk, small, passes, data):
  genes, costs, batches = data
  other = batches[1] | {"image": batches[1]["image"].at[2:].set(0), "label": batches[1]["label"].at[2:].set(2)}
  run = lambda batch: passes[chunk](small.params, genes, costs, [batch])
  close(run(other), run(batches[1]), 1e-6)


def test_sums_of_batches_add_up(small, passes, data):
  genes, costs, batches = data
  one, two = (passes[1](small.params, genes, costs, [batch]) for batch in batches)
  both = passes[1](small.params, genes, costs, iter(batches))
  close(both, {name: one[name] + two[name] for name in one}, 1e-6)
  assert all(values.dtype == np.float64 and values.shape == (CAPACITY,) for values in both.values())


class Recorder:
  """Stands in for passes; writes down what it is asked."""

  def __init__(self):
    self.asked = []

  def build(self, chunk):
    return lambda params, genes, costs, batches: self.asked.append((chunk, len(genes), len(batches)))


def test_fastest_chunk_is_one_that_was_tried():
  recorder, genes = Recorder(), np.zeros((5, 3), np.int32)
  best, seconds = fastest_chunk(recorder.build, {}, genes, np.zeros(5), {"image": jnp.zeros(1)}, (1, 2, 5, 6, 7))
  assert best in seconds and list(seconds) == [1, 2, 5]  # a chunk larger than the population is not tried
  assert {chunk for chunk, *_ in recorder.asked} == {1, 2, 5}
  assert all((size, batches) == (5, 1) for _, size, batches in recorder.asked)
  assert fastest_chunk(recorder.build, {}, genes, np.zeros(5), {}, (16, 64))[0] == 16  # the first always is


@pytest.mark.parametrize("seconds, best", [({1: 1.0, 4: 0.95, 16: 0.92}, 1), ({1: 1.0, 4: 0.5, 16: 0.48}, 4),
                                           ({1: 1.0, 4: 2.0, 16: 0.8}, 16)])
def test_a_larger_chunk_must_be_a_tenth_faster(monkeypatch, seconds, best):
  """On a clock that passes advance."""
  now = [0.0]
  monkeypatch.setattr("time.perf_counter", lambda: now[0])

  def build(chunk):
    def run(*_):
      now[0] += seconds[chunk]

    return run

  found, measured = fastest_chunk(build, {}, np.zeros((64, 3), np.int32), np.zeros(64), {}, seconds)
  assert found == best and measured == pytest.approx(seconds)
