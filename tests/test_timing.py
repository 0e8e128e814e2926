"""The latency table of a work directory: measured once, gone on with, refused where it does not fit, searched with."""

import dataclasses
import json

import numpy as np
import pytest

from nasformer import timing
from nasformer.experiment import Limits, Search
from nasformer.score.latency import Latency
from nasformer.search.evolution import Evolution
from nasformer.types import UserError


@pytest.fixture
def run(make_run, tmp_path):
  return make_run(tmp_path, latency=Latency(warmup=1, runs=3, networks=24))


@pytest.fixture
def known(monkeypatch):
  """Latency without a clock: a part of a millisecond for every layer, and for every gene that is not 0."""
  measured = []

  def measure(run, genes, reference=None):
    measured.append(tuple(np.asarray(genes).tolist()))
    value = 1.0 + int(genes[1]) + 0.1 * int(np.count_nonzero(genes))
    return {"median_ms": value, "p10_ms": value, "p90_ms": value, "reference_ms": 1.0, "runs": 3}

  monkeypatch.setattr(timing, "measure", measure)
  return measured


def test_a_table_is_gone_on_with(run, known, tmp_path):
  timing.latency(run)
  path = tmp_path / "latency_table.jsonl"
  whole, lines = path.read_text(), path.read_text().splitlines(keepends=True)
  assert len(lines) == 25 and len(set(known)) == len(known) == 24
  assert json.loads(lines[0])["batch_size"] == 1 and json.loads(lines[0])["dtype"] == "float32"
  path.write_text("".join(lines[:11]) + lines[11][:9])  # killed while the eleventh network was written
  timing.latency(run)
  rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
  strip = lambda text: [row["genes"] for row in map(json.loads, text.splitlines()[1:])]
  assert [row["genes"] for row in rows[1:]] == strip(whole)
  assert len(known) == 24 + 14
  assert "left out of the fit" in run.console.file.getvalue()


def test_a_longer_table_begins_as_a_shorter_one(run, known, tmp_path, make_run):
  """Raising the number of networks measures those that are added, and no other; lowering it uses the first ones.

  A space of few networks gives what it has."""
  longer = lambda num: make_run(tmp_path, latency=dataclasses.replace(run.experiment.latency, networks=num))
  rows = {num: [genes.tolist() for genes in timing.networks(longer(num))] for num in (1, 20, 33, 400)}
  assert all(rows[400][: len(rows[num])] == rows[num] and len(rows[num]) == num for num in (1, 20, 33))
  assert 33 < len(rows[400]) == len(set(map(tuple, rows[400]))) < 400
  timing.latency(longer(20))
  before, prices = (tmp_path / "latency_table.jsonl").read_text(), timing.predicted(longer(20))[0].exact(np.array(rows[33]))
  timing.latency(longer(33))
  np.testing.assert_array_equal(timing.predicted(longer(20))[0].exact(np.array(rows[33])), prices)
  assert (timing.predicted(longer(33))[0].exact(np.array(rows[33])) != prices).any()
  assert (tmp_path / "latency_table.jsonl").read_text().startswith(before) and list(map(list, known)) == rows[33]


def test_a_real_network_is_measured(run):
  found = timing.measure(run, timing.networks(run)[0], lambda: None)
  assert 0 < found["p10_ms"] <= found["median_ms"] <= found["p90_ms"] and "prefill_ms" not in found
  assert 0 < found["reference_ms"] < found["median_ms"]


def test_a_machine_that_slows_down_does_not_matter(run, known, tmp_path):
  """Half of the table was measured at half the speed, as the reference tells."""
  timing.latency(run)
  table, errors = timing.predicted(run)
  path = tmp_path / "latency_table.jsonl"
  header, *rows = map(json.loads, path.read_text().splitlines())
  slow = [{**row, **{name: 2 * row[name] for name in ("median_ms", "p10_ms", "p90_ms", "reference_ms")}} for row in rows[::2]]
  path.write_text("".join(json.dumps(row) + "\n" for row in (header, *slow, *rows[1::2])))
  told, again = timing.predicted(run)
  genes = timing.networks(run)
  usual = 1.5  # the median of twelve 1 and twelve 2
  np.testing.assert_allclose(told.exact(np.stack(genes)), usual * table.exact(np.stack(genes)), rtol=0.1)
  assert again["median_ape"] < errors["median_ape"] + 0.05


@pytest.mark.parametrize("field, value", [("device", "gpu: H200 x1"), ("jax", "0.1"), ("batch_size", 7), ("space", {})])
def test_a_table_of_something_else_is_refused_by_name(run, known, tmp_path, field, value):
  timing.latency(run)
  path = tmp_path / "latency_table.jsonl"
  header, *rows = path.read_text().splitlines()
  path.write_text("\n".join([json.dumps({**json.loads(header), field: value}), *rows]) + "\n")
  with pytest.raises(UserError, match=f"measured for another {field}"):
    timing.predicted(run)


def test_bad_tables_are_told(run, known, tmp_path, make_run):
  with pytest.raises(UserError, match="run --stages=latency first"):
    timing.predicted(run)
  timing.latency(run)
  path = tmp_path / "latency_table.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:6]))
  with pytest.raises(UserError, match="table of 5 networks is too small"):
    timing.predicted(run)
  path.write_text("".join(lines[1:]))
  with pytest.raises(UserError, match="it is no latency table"):
    timing.predicted(run)
  row = json.loads(lines[3])
  path.write_text("".join([*lines[:3], json.dumps({**row, "median_ms": None}) + "\n", *lines[4:]]))
  with pytest.raises(UserError, match="entry 4 lacks a latency"):
    timing.predicted(run)
  for fields, told in (({"median_ms": float("nan")}, "has median_ms=nan, where a number above 0"),
                       ({"reference_ms": 0.0}, "has reference_ms=0.0"), ({"p90_ms": "fast"}, "has p90_ms='fast'"),
                       ({"genes": row["genes"][1:]}, "genes that are not of this space"),
                       ({"genes": [9] * len(row["genes"])}, "genes that are not of this space")):
    path.write_text("".join([*lines[:3], json.dumps({**row, **fields}) + "\n", *lines[4:]]))
    with pytest.raises(UserError, match=f"entry 4 .*{told}"):
      timing.predicted(run)
  scattered = [json.dumps({**json.loads(line), "p90_ms": 99}) + "\n" for line in lines[1:]]
  path.write_text("".join([lines[0], *scattered]))
  with pytest.raises(UserError, match=r"24 of 24 scattered by more than latency.spread=0.25"):
    timing.predicted(run)
  elsewhere = make_run(tmp_path / "b", latency=dataclasses.replace(run.experiment.latency, table=str(path)))
  with pytest.raises(UserError, match="leave one of them out"):
    timing.latency(elsewhere)


def test_a_predicted_limit_holds_when_it_is_measured(run, known, monkeypatch, contents):
  """The search believes the table; the clock, which disagrees by some, has the last word."""
  from nasformer import stages
  from nasformer.store import files
  from nasformer.types import Score

  def scorer(params, genes):
    accuracy = np.asarray(genes) @ np.arange(1, 9) / 100
    return Score(accuracy, {"loss": 1 - accuracy, "accuracy": accuracy}, "inherited", "val")

  scorer.chunk, scorer.chunk_seconds = 1, {}
  monkeypatch.setattr(stages, "Scorer", lambda run: scorer)
  monkeypatch.setattr(stages, "trained_supernet", lambda *_: {})
  search = Search(strategy=Evolution(population=8, num_parents=4, num_mutations=4, num_crossovers=4), generations=3,
                  arms={"mixed": ""}, limits=Limits(latency_ms=2.45), latency="predicted", minimise=("latency_ms",),
                  batch_size=64)
  run = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, search=search))
  with pytest.raises(UserError, match="run --stages=latency first"):
    stages.search(run)
  timing.latency(run)
  stages.search(run)
  main, baseline = files.read_json(run.winner)["winners"]
  table, _ = timing.predicted(run)
  for row in (main, baseline):
    genes = np.array(row["genes"], np.int32)
    assert row["predicted_ms"] == table.exact(genes) <= 2.45
  assert timing.AtUsualSpeed(run)(np.array(main["genes"], np.int32)) <= 2.45
  before = contents(run.path)
  run.winner.unlink()
  stages.search(run)
  assert contents(run.path) == before


def test_an_impossible_limit_is_explained_at_once(run, known):
  from nasformer import stages

  timing.latency(run)
  search = dataclasses.replace(run.experiment.search, limits=Limits(latency_ms=0.5), latency="predicted")
  run = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, search=search))
  with pytest.raises(UserError, match=r"search.limits.latency_ms=0.5 cannot be met: .* needs latency_ms="):
    stages.search(run)
