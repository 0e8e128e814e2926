"""Memory of networks grows with them, training needs more than use, and a limit on it is kept."""

import dataclasses
import json

import numpy as np
import pytest

from nasformer import footprint, stages
from nasformer.experiment import Limits, Search
from nasformer.search.evolution import Evolution
from nasformer.store import files
from nasformer.types import Score, UserError

SEARCH = Search(strategy=Evolution(population=4, num_parents=2, num_mutations=2, num_crossovers=2), generations=2,
                arms={"mixed": ""}, batch_size=64)


@pytest.fixture
def scored(monkeypatch):
  """The search needs no supernet: the more of everything, the better."""

  def scorer(params, genes):
    accuracy = np.asarray(genes).sum(-1) / 100
    return Score(accuracy, {"loss": 1 - accuracy, "accuracy": accuracy}, "inherited", "val")

  scorer.chunk, scorer.chunk_seconds = 1, {}
  monkeypatch.setattr(stages, "Scorer", lambda run: scorer)
  monkeypatch.setattr(stages, "trained_supernet", lambda *_: {})


def test_larger_networks_and_training_need_more(make_run, tmp_path):
  run = make_run(tmp_path)
  space = run.experiment.space
  small, large = np.zeros(space.num_genes, np.int32), space.genome({gene.name: gene.values[-1] for gene in space.genes})
  assert footprint.in_use(run, small) < footprint.in_use(run, large) < footprint.in_training(run, large)
  assert footprint.in_training(run, small) < footprint.in_training(run, large)
  weights = 4e-6 * run.supernet.net.count_spec(space.decode(large)).params
  assert footprint.in_use(run, large) > weights
  assert footprint.in_training(run, large) > 4 * weights  # weights, their moving average, two moments


@pytest.mark.parametrize("name", ["memory_mb", "training_memory_mb"])
def test_a_limit_on_memory_is_kept(scored, make_run, tmp_path, name, monkeypatch):
  """Megabytes are the sum of genes here, so that nothing must be compiled."""
  measured = []

  def megabytes(run, genes):
    measured.append(tuple(genes.tolist()))
    return 1.0 + float(genes.sum())

  monkeypatch.setattr(footprint, "in_use", megabytes)
  monkeypatch.setattr(footprint, "in_training", megabytes)
  search = lambda limit: stages.search(make_run(tmp_path, search=dataclasses.replace(SEARCH, limits=Limits(**{name: limit}))))
  with pytest.raises(UserError, match=f"search.limits.{name}=0.5 cannot be met: the smallest network .* needs 1 MB"):
    search(0.5)
  search(5.0)
  (main, baseline) = files.read_json(tmp_path / "winner.json")["winners"]
  assert sum(main["genes"]) <= 4 and sum(baseline["genes"]) <= 4
  assert len(measured) == len(set(measured))
  log = tmp_path / ("memory_search.jsonl" if name == "memory_mb" else "training_memory_search.jsonl")
  assert {tuple(json.loads(line)["genes"]) for line in log.read_text().splitlines()} == set(measured)
