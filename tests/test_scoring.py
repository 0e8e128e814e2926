"""A score is what the small network would get, and it is found with one program."""

import dataclasses

import jax
import numpy as np
import pytest

from nasformer import evaluate, scoring
from nasformer.data.batching import eval_batches
from nasformer.experiment import Search
from nasformer.space.tiny import Tiny

SEARCH = Search(arms={"mixed": ""}, batch_size=64)


def test_a_score_is_that_of_the_small_network(make_run, tmp_path, monkeypatch):
  """However many are scored at once, and over batches of which the last is not full."""
  monkeypatch.setattr(scoring, "_CAPACITY", 4)
  space = Tiny(embed_dim=(8, 12), depth=(1, 2), num_heads=(1,), head_dim=4, ffn_dim=(8,), kinds=("softmax", "linear"))
  run = make_run(tmp_path, space=space, search=dataclasses.replace(SEARCH, batch_size=48))
  params = jax.jit(run.supernet.init)(jax.random.key(0))
  genes = np.asarray(run.experiment.space.sample(jax.random.key(1), 6))
  score = scoring.Scorer(run)(params, genes)
  assert (score.source, score.split) == ("inherited", "val")
  np.testing.assert_array_equal(score.value, -score.parts["loss"])
  spec = run.experiment.space.decode(genes[5])
  network = run.supernet.module(spec)
  judge = evaluate.evaluator(lambda p, x: network.apply({"params": p}, x), run.experiment.task)
  found = judge(run.supernet.derive(params, spec), eval_batches(run.splits.get("val", "search"), 64))
  assert found == pytest.approx({name: part[5] for name, part in score.parts.items()}, abs=1e-5)


def test_the_chunk_is_measured_once_for_a_work_directory(make_run, tmp_path, monkeypatch):
  run, calls = make_run(tmp_path), []
  monkeypatch.setattr(scoring.jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(scoring, "fastest_chunk", lambda *args: (calls.append(args), (4, {1: 0.5, 4: 0.25}))[1])
  for _ in range(2):
    scorer = scoring.Scorer(run)
    assert scorer.population.chunk == 4 and scorer.chunk_seconds == {"1": 0.5, "4": 0.25}
  assert len(calls) == 1
  assert scoring.Scorer(make_run(tmp_path, search=dataclasses.replace(SEARCH, chunk=2))).population.chunk == 2
