"""The tables that benches read, as spaces and genomes."""

import csv
import gzip
import importlib.util
import json
import os
import pathlib

import numpy as np
import pytest

from nasformer.types import UserError

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tables():
  spec = importlib.util.spec_from_file_location("tables", ROOT / "experiments" / "bench" / "tables.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def data_dir():
  if "NASFORMER_DATA" not in os.environ:
    pytest.skip("NASFORMER_DATA does not name the folder of the tables")
  return pathlib.Path(os.environ["NASFORMER_DATA"])


@pytest.mark.parametrize("name, rows, best", [("nas_bench_bert", 350, ("glue", 75.1)), ("autoformer", 100, None)])
def test_genomes_are_members_and_values_are_those_of_the_rows(tables, data_dir, name, rows, best):
  space, genes, values = tables.load(name, data_dir)
  assert genes.shape == (rows, space.num_genes) and np.asarray(space.contains(genes)).all()
  assert set(tables.TABLES[name]) | {"params", "flops"} <= set(values)
  assert all(column.shape == (rows,) and np.isfinite(column).all() for column in values.values())
  if best:
    assert values[best[0]].max() == pytest.approx(best[1], abs=0.05)


def test_parameters_equal_the_published_ones(tables, data_dir):
  """Those count every network at the largest width and hidden size, so the count here is asked for that."""
  space, genes, _ = tables.load("nas_bench_bert", data_dir)
  folder = data_dir / "nas_bench_bert"
  with gzip.open(folder / "BERT_benchmark_subset.json.gz", "rt") as file:
    ids = [row["id"] for row in json.load(file)]
  with gzip.open(folder / "BERT_results_activation_subset.csv.gz", "rt") as file:
    published = {int(row["ID"]): int(row["Number of Parameters"]) for row in csv.DictReader(file)}
  counts = [tables.price_flexibert(space.values(row), 256, 1024).params for row in genes]
  np.testing.assert_array_equal(counts, [published[i] for i in ids])


def test_a_linear_transform_costs_what_its_products_do(tables):
  """Width 128, two layers of DFT and one hidden layer of 512: 2 x 128 tokens x (128² + 2 x 128 x 512), the transform on top."""
  values = {"embed_dim": 128, "depth": 2}
  for i in range(2):
    values |= {f"layer.{i}.kind": "LT", f"layer.{i}.transform": "DFT", f"layer.{i}.num_heads": 2, f"layer.{i}.ffn_dim": 512,
               f"layer.{i}.num_ffn": 1}
  products = 128 * 128 + 2 * (128**2 + 2 * 128 * 512)  # with the map from the embeddings
  transform = 5 * 128 * 128 * np.log2(128 * 128)
  assert tables.price_flexibert(values).flops == pytest.approx(2 * 128 * products + 2 * transform)


def test_latencies_have_the_ten_features_of_hat(tables, data_dir):
  for name in tables.LATENCIES:
    table = tables.load_latency(data_dir / "hat_latency" / f"{name}.csv.gz")
    assert table.features.shape == (2000, 10) and (table.mean_ms > 0).all() and (table.std_ms >= 0).all()
    assert table.names[0] == "encoder_embed_dim" and table.names[-1] == "decoder_arbitrary_ende_attn_avg"


def test_what_is_not_there_is_named(tables, tmp_path):
  with pytest.raises(UserError, match="no table 'bert'"):
    tables.load("bert", tmp_path)
  with pytest.raises(UserError, match="does not exist: --data_dir"):
    tables.load("autoformer", tmp_path)
  (tmp_path / "a.csv").write_text("one,two\n1,2\n")
  with pytest.raises(UserError, match="no column 'latency_mean_encoder'"):
    tables.load_latency(tmp_path / "a.csv")
