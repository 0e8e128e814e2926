"""On made-up networks whose latency is known: prices are found again, and their errors are told honestly."""

import numpy as np
import pytest

from nasformer.attention.base import Count
from nasformer.score import prices
from nasformer.search.costs import CostTable
from nasformer.space.encoder import Encoder
from nasformer.types import UserError

SPACE = Encoder(embed_dim=(8, 16), depth=(1, 2, 3), num_heads=(1, 2), head_dim=4, ffn_dim=(8, 32), kinds=("a", "b"))


class Net:
  """Counts multiply-adds as a real network would."""

  def count(self, role, **sizes):
    if role == "attention":
      return Count(0, 4 * sizes["embed_dim"] * sizes["num_heads"] * sizes["head_dim"])
    return Count(0, 2 * sizes["embed_dim"] * sizes["ffn_dim"]) if role == "mlp" else Count(0, sizes["embed_dim"])

  def count_spec(self, spec):
    raise AssertionError("prices are of parts")


def slow(genes):
  """A millisecond, and a price for each layer that no line through its multiply-adds meets."""
  values = SPACE.values(genes)
  total = 1.0 + 0.01 * values["embed_dim"]
  for layer in range(values["depth"]):
    kind, heads, ffn = (values[f"layer.{layer}.{name}"] for name in ("kind", "num_heads", "ffn"))
    total += {"a": 0.5, "b": 0.2}[kind] * heads + 0.01 * ffn + 0.3 * (values["embed_dim"] == 16)
  return total


@pytest.fixture(scope="module")
def measured():
  genes = np.unique(np.asarray(SPACE.canonical(np.random.default_rng(0).integers(0, 2, (200, SPACE.num_genes)))), axis=0)
  return genes, np.array([slow(row) for row in genes])


def test_prices_that_add_up_are_found_again(measured):
  genes, truth = measured
  train, rest = slice(0, 60), slice(60, None)
  found = prices.fit(SPACE, Net(), genes[train], truth[train])
  table = CostTable(SPACE, found.terms, prices.UNIT_MS)
  assert np.abs(table.exact(genes[rest]) / truth[rest] - 1).max() < 0.02
  assert found.errors["mape"] < 0.02 and found.errors["tau"] > 0.95
  assert all((price >= 0).all() for _, price in found.terms)


def test_errors_are_those_of_networks_left_out(measured):
  """Noise of 10 % cannot be predicted, however well it can be fitted."""
  genes, truth = measured
  noisy = truth * np.random.default_rng(1).lognormal(0, 0.1, len(truth))
  assert 0.06 < prices.fit(SPACE, Net(), genes, noisy).errors["mape"] < 0.12


def test_errors_by_hand():
  found = prices.errors(np.array([1.1, 2.0, 2.0]), np.array([1.0, 2.0, 4.0]))
  assert found == pytest.approx({"mape": 0.2, "median_ape": 0.1, "rmse_ms": np.sqrt(4.01 / 3), "tau": 2 / 3})


def test_limits_are_exact_at_the_last_nanosecond(measured):
  genes, truth = measured
  table = CostTable(SPACE, prices.fit(SPACE, Net(), genes, truth).terms, prices.UNIT_MS)
  for limit in table.exact(genes)[:20]:
    assert (np.asarray(table.excess(genes, float(limit)) == 0) == (table.exact(genes) <= limit)).all()


@pytest.mark.parametrize("change, complaint", [
    (lambda ms: ms[:10], "table of 10 networks is too small to fit: measure at least 20"),
    (lambda ms: np.where(np.arange(len(ms)) == 3, np.nan, ms), "row 4 of the latency table says nan ms"),
    (lambda ms: np.full(len(ms), 2.0), "all .* networks of the latency table take 2 ms"),
])
def test_useless_tables_are_refused(measured, change, complaint):
  genes, truth = measured
  changed = change(truth)
  with pytest.raises(UserError, match=complaint):
    prices.fit(SPACE, Net(), genes[: len(changed)], changed)
