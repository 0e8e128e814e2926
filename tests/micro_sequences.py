"""The whole pipeline of texts or series in seconds: few of them, small networks, short trainings and searches."""

import pathlib

import numpy as np

from nasformer import config
from nasformer.data.labelled_text import LabelledText
from nasformer.data.series_files import SeriesFiles
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.sequence import Sequence
from nasformer.search.evolution import Evolution
from nasformer.space.encoder import Encoder
from nasformer.tasks.series_classification import SeriesClassification
from nasformer.tasks.text_classification import TextClassification
from nasformer.train.optimizer import Optimizer

LENGTHS = {"max_length": 16, "lengths": (8, 16)}  # batches of two shapes


def write(folder: pathlib.Path) -> None:
  """Files of 120 texts and of 120 series, of 3 to 16 letters or steps: does a letter come twice, or is the mean positive?"""
  rng = np.random.default_rng(0)
  texts = {"".join(rng.choice(list("abcdefghijklmnop"), length)) for length in rng.integers(3, 17, 200)}
  lines = [f"{'again' if len(set(text)) < len(text) else 'once'}\t{text}" for text in sorted(texts)[:120]]
  (folder / "texts.tsv").write_text("\n".join(["label\ttext", *lines, ""]))
  series = [rng.normal(size=length).round(3) for length in rng.integers(3, 17, 120)]
  lines = [",".join(["up" if row.mean() > 0 else "down", *map(str, row)]) for row in series]
  (folder / "series.csv").write_text("\n".join([*lines, ""]))


def get_config(what="texts"):
  texts = LabelledText(train="texts.tsv", val_fraction=0.2, test_fraction=0.2, **LENGTHS)
  series = SeriesFiles(train="series.csv", **LENGTHS)
  data, task = {"texts": (texts, TextClassification), "series": (series, SeriesClassification)}[what]
  training = Training(steps=20, batch_size=8, report_every=5, checkpoint_every=10, optimizer=Optimizer(peak_lr=3e-3))
  return config.open_up(Experiment(
      data=data,
      space=Encoder(embed_dim=(8,), depth=(1, 2), num_heads=(1, 2), head_dim=4, ffn_dim=(8, 16),
                    kinds=("softmax", "evolving")),
      task=task(net=Sequence(dropout=0.1)),
      train=training,
      search=Search(strategy=Evolution(population=8, num_parents=4, num_mutations=4, num_crossovers=4), generations=3,
                    limits=Limits(flops=3e4), arms={"mixed": ""}, batch_size=32),
      retrain=training,
  ))
