"""Made-up work directories, of images and of translation, with every file that the stages write."""

import functools
import json
import pathlib

import numpy as np
import pytest

from nasformer.report import page

ARMS = {"mixed": ("softmax", "linear"), "softmax": ("softmax",), "linear": ("linear",)}
EXPERIMENT = {
    "config": {"task": "classify", "space": {"name": "tiny", "restrict": ""}, "strategy": {"population": 24}},
    "command": ["python", "-m", "nasformer.main", "--config=experiments/quickstart/digits.py", "--workdir=runs/my run"],
    "versions": {"python": "3.11.7", "jax": "0.10.2", "nasformer": "0.1.0"},
    "device": "cpu: AMD EPYC x2",
    "commit": "0123abc",
    "counting": "FLOPs = 2 x multiply-adds of all matrix products, one image; parameters include embeddings.",
    "dataset": {"name": "digits", "note": "8x8 grey images; small enough for a laptop.", "num_train": 1077,
                "num_val": 360, "num_test": 360, "class_names": [str(i) for i in range(10)]},
}


TEXT = EXPERIMENT | {
    "headline": "bleu",
    "counting": "FLOPs = 2 x multiply-adds for a source and a target of 30 tokens; embeddings are left out.",
    "dataset": {"name": "captions", "source_language": "en", "target_language": "de", "source_vocab": 512,
                "target_vocab": 512, "joint": True, "max_length": 48, "lengths": [48], "fingerprint": "ea9a46",
                "note": "Captions made up for tests.", "num_train": 2000, "num_val": 400, "num_test": 40},
}
SERIES = EXPERIMENT | {"dataset": EXPERIMENT["dataset"] | {
    "name": "vowels", "num_classes": 10, "max_length": 29, "lengths": [29], "mean": [0.0], "std": [1.0]}}
SIGNATURES = {"bleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
              "chrf": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
              "bleu_tokenised": "nrefs:1|case:mixed|eff:no|tok:moses-de-0.2.1+compounds|smooth:exp|version:2.6.0"}
WORDS = {"a": "ein", "man": "Mann", "dog": "Hund", "runs": "läuft", "sleeps": "schläft", "through": "durch",
         "the": "die", "old": "alte", "white": "weiße", "street": "Straße", "and": "und", "laughs": "lacht",
         "<now>": "<jetzt>"}


def make_workdir(
    path: pathlib.Path, seeds=(0,), arms=tuple(ARMS), limits={"flops": 1.0e6}, generations=6, population=12,
    until="evaluate", task="images",
) -> pathlib.Path:
  """Writes the files of every stage up to `until` ("train", "search", "retrain", "evaluate") of "images", "series" or "text"."""
  write_json(path / "experiment.json", {"images": EXPERIMENT, "series": SERIES, "text": TEXT}[task])
  searches = [_search(arm, seed, generations, population) for seed in seeds for arm in arms]
  for seed in seeds:
    _write_curve(path / f"supernet/seed{seed}", seed, 2.3, 40)
  write_lines(path / "timings.jsonl", [{"stage": "train total", "seed": seed, "seconds": 41.2, "compilations": 2}
                                       for seed in seeds])
  if until == "train":
    return path
  winners = [_winner(trials, limits) for trials in searches] + [_baseline(seed) for seed in seeds]
  winners.sort(key=lambda row: row["seed"])
  if task == "text":
    winners = [row | {"spec": _translation_spec(row)} for row in winners]
  write_lines(path / "trials.jsonl", [row for trials in searches for row in trials])
  write_json(path / "winner.json", {"main": arms[0], "limits": limits, "winners": winners})
  if "latency_ms" in limits:
    write_lines(path / "latency_search.jsonl", [{"genes": row["genes"], "median_ms": row["flops"] / 1.6e6}
                                                for row in winners])
  if until == "search":
    return path
  for i, row in enumerate(winners):
    _write_curve(path / f"retrain/{row['arm']}/seed{row['seed']}", 100 + i, 2.2, 20)
  if until == "retrain":
    return path
  results = [_result(row) for row in winners]
  if task == "text":
    results = [_translated(row) for row in results]
    _write_outputs(path / "outputs", results)
  if task == "series":
    results = [_of_series(row) for row in results]
  write_json(path / "results.json", {"signatures": SIGNATURES if task == "text" else {}, "rows": results})
  write_json(path / "latency.json", {"device": "cpu: AMD EPYC x2", "batch": 1, "rows": [*map(_latency, winners)]})
  return path


def write_json(path: pathlib.Path, tree) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(tree))


def write_lines(path: pathlib.Path, rows) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rng(*names) -> np.random.Generator:
  return np.random.default_rng([sum(map(ord, str(name))) for name in names])


def _search(arm: str, seed: int, generations: int, population: int) -> list[dict]:
  """Candidates that improve over the generations, dearer ones being better on the whole."""
  rng = _rng(arm, seed)
  skill = {"mixed": 0.012, "softmax": 0.006, "linear": 0.0}[arm]
  price = {"mixed": 0.8, "softmax": 1.0, "linear": 0.65}[arm]
  rows = []
  for generation in range(generations):
    for member in range(population):
      size = rng.uniform(0.15, 1.0)
      flops = int(1e6 * price * size)
      drawback = rng.exponential(0.05 / (1 + 0.5 * generation))
      accuracy = float(np.round((0.90 + skill + 0.06 * size ** 0.5 - drawback) * 360) / 360)
      loss = float(1.05 - accuracy + rng.normal(0, 0.003))
      rows.append({"arm": arm, "seed": seed, "generation": generation, "genes": [generation, member, int(100 * size)],
                   "fitness": -loss, "loss": loss, "accuracy": accuracy, "params": int(flops / 21), "flops": flops,
                   "source": "inherited", "split": "val"})
  return rows


def _winner(trials: list[dict], limits: dict) -> dict:
  best = max(trials, key=lambda row: row["fitness"])
  rng = _rng(best["arm"], best["seed"], 7)
  kinds = ARMS[best["arm"]]
  layers = [{"kind": str(rng.choice(kinds)), "num_heads": int(rng.choice([1, 2, 4])), "head_dim": 8,
             "ffn_dim": int(rng.choice([16, 32, 48, 64]))} for _ in range(rng.integers(3, 6))]
  num = len(trials)
  return {"arm": best["arm"], "seed": best["seed"], "genes": best["genes"],
          "spec": {"embed_dim": int(rng.choice([24, 32, 40])), "layers": layers},
          "params": best["params"], "flops": best["flops"],
          "inherited": {"accuracy": best["accuracy"], "loss": best["loss"]}, "evaluated": num,
          "asked": num + 31 + 57 * len(limits), "duplicates": 31, "rejected": {cost: 57 for cost in limits}}


def _baseline(seed: int) -> dict:
  layer = {"kind": "softmax", "num_heads": 4, "head_dim": 8, "ffn_dim": 64}
  return {"arm": "baseline", "seed": seed, "genes": [0, 0, 0], "spec": {"embed_dim": 32, "layers": [layer] * 4},
          "params": 42_000, "flops": 990_000, "inherited": {"accuracy": 0.925 + 0.004 * seed, "loss": 0.2}}


def _result(row: dict) -> dict:
  rng = _rng(row["arm"], row["seed"], 11)
  val = min(row["inherited"]["accuracy"] + rng.normal(0.012, 0.004), 1.0)
  return {"arm": row["arm"], "seed": row["seed"], "spec": row["spec"], "params": row["params"], "flops": row["flops"],
          "inherited": {"val": row["inherited"]},
          "retrained": {"val": {"accuracy": val, "loss": 0.1},
                        "test": {"accuracy": val - abs(rng.normal(0.006, 0.003)), "loss": 0.12}}}


def _latency(row: dict) -> dict:
  median = 0.15 + row["flops"] / 1.5e6 + 0.004 * row["seed"]
  return {"arm": row["arm"], "seed": row["seed"], "median_ms": median, "p10_ms": 0.93 * median,
          "p90_ms": 1.12 * median, "runs": 300}


def _write_curve(folder: pathlib.Path, seed: int, start: float, num: int) -> None:
  rng = np.random.default_rng(seed)
  write_lines(folder / "metrics.jsonl", [
      {"step": 50 * (i + 1), "loss": float(start * np.exp(-i / 8) + 0.15 + rng.normal(0, 0.03)), "accuracy": 0.5}
      for i in range(num)])


def _of_series(row: dict) -> dict:
  """A result as series have it."""
  row["retrained"]["test"]["matthews"] = row["retrained"]["test"]["accuracy"] - 0.1
  return row | {"flops_by_length": {str(length): row["flops"] * length // 29 for length in (3, 7, 14, 29)}}


def _translation_spec(row: dict) -> dict:
  rng = _rng(row["arm"], row["seed"], 13)
  baseline = row["arm"] == "baseline"
  kinds = ("softmax",) if baseline else ARMS[row["arm"]]

  def layer(decoder):
    heads, cross = (4, 4) if baseline else map(int, rng.choice([2, 4], 2))
    sizes = {"kind": str(rng.choice(kinds)), "num_heads": heads, "head_dim": 64 // heads,
             "ffn_dim": 192 if baseline else int(rng.choice([96, 192, 256]))}
    more = {"cross_kind": str(rng.choice(kinds)), "cross_num_heads": cross, "cross_head_dim": 64 // cross,
            "span": int(rng.integers(1, 3))}
    return sizes | more if decoder else sizes

  return {"encoder_embed_dim": int(rng.choice([64, 96])), "decoder_embed_dim": int(rng.choice([64, 96])),
          "encoder": [layer(False) for _ in range(rng.integers(2, 4))],
          "decoder": [layer(True) for _ in range(rng.integers(1, 4))]}


def _translated(row: dict) -> dict:
  """A result as translation has it; losses and BLEU follow the made-up accuracies."""
  test = row["retrained"]["test"]
  bleu = 100 * (test["accuracy"] - 0.7)
  row["retrained"]["val"]["loss"] = 1.06 - row["retrained"]["val"]["accuracy"]
  test |= {"loss": 1.05 - test["accuracy"], "smoothed_bits": 3.0 - test["accuracy"], "bleu": bleu,
           "chrf": 1.9 * bleu, "bleu_tokenised": bleu + 0.8, "exact_match": bleu / 200, "bleu_low": bleu - 1.1,
           "bleu_high": bleu + 1.2}
  if row["arm"] != "baseline":
    gain = bleu - 23.5
    row["against_baseline"] = {"difference": gain, "low": gain - 0.8, "high": gain + 0.9,
                               "p_value": 0.01 if abs(gain) > 0.8 else 0.4}
  return row | {"flops_by_length": {str(n): row["flops"] * n // 30 + 10 * n * n for n in (10, 30, 100, 300, 1000)}}


def _write_outputs(folder: pathlib.Path, rows: list[dict], num: int = 40) -> None:
  """Sentences of 3 to 12 words, and translations that leave out a word here and there."""
  rng = _rng("captions")
  sources = [list(rng.choice(list(WORDS), rng.integers(3, 13))) for _ in range(num)]
  references = [[WORDS[word] for word in source] for source in sources]
  write_text(folder / "source.txt", sources)
  write_text(folder / "reference.txt", references)
  for row in rows:
    rng = _rng(row["arm"], row["seed"], 17)
    said = [[word for word in line if rng.random() > 0.15] for line in references]
    write_text(folder / row["arm"] / f"seed{row['seed']}.txt", said)


def write_text(path: pathlib.Path, sentences) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes("".join(" ".join(words) + "\n" for words in sentences).encode())


@pytest.fixture(scope="session")
def finished_page(tmp_path_factory):
  """Function (task) -> work directory with its page, for reading only: "images" of three seeds within two limits, "text" of
  one seed."""

  @functools.cache
  def make(task):
    options = {"images": {"seeds": (0, 1, 2), "limits": {"flops": 1e6, "latency_ms": 0.7}}, "text": {}}[task]
    path = make_workdir(tmp_path_factory.mktemp(task), task=task, **options)
    page.write(path)
    return path

  return make


@pytest.fixture
def workdir(tmp_path):
  """Makes work directories: `workdir(seeds=(0, 1), until="search")`."""
  return lambda **options: make_workdir(tmp_path / "run", **options)


@pytest.fixture(params=["images", "series", "text"])
def any_workdir(request, tmp_path):
  """The same, of every sort of task."""
  return lambda **options: make_workdir(tmp_path / "run", task=request.param, **options)
