"""IMDb reviews byte by byte, 2,048 bytes each: mixed attention, softmax only and linear only, and the hand-made network, at one
budget of FLOPs. It is the text task of Long Range Arena (Tay et al. 2021) and of "Wide Attention" (arXiv 2210.00640).

`full` has the sizes and the 20,000 updates of 32 texts of Long Range Arena, and a budget of attention heads that layers share
in any way; it wants an accelerator.

`medium` is for one GPU: 4,000 updates, mixed attention and softmax only.

`small` is cut down for two CPU cores: mixed attention and softmax only, and less than one pass over the texts.

  python -m nasformer.main --config=experiments/text/imdb.py:medium --workdir=DIR --data_dir=DATA
"""

import dataclasses

from nasformer import config
from nasformer.attention.favor import Favor
from nasformer.attention.luna import Luna
from nasformer.attention.mega import Mega
from nasformer.data.imdb import Imdb
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.sequence import Sequence
from nasformer.score.latency import Latency
from nasformer.search.evolution import Evolution
from nasformer.space.encoder import Encoder
from nasformer.space.wide import Wide
from nasformer.tasks.text_classification import TextClassification
from nasformer.train.optimizer import Optimizer
from nasformer.types import UserError


def full():
  kinds = ("softmax", "linear", "cosformer", "favor_64", "favor_16", "luna_64", "luna_16", "mega")
  train = Training(steps=20_000, batch_size=32, report_every=100, checkpoint_every=1000,
                   optimizer=Optimizer(peak_lr=1e-3, warmup_steps=2000, weight_decay=0.05, clip_norm=1.0))
  return Experiment(
      data=Imdb(),
      space=Wide(kinds=kinds),
      task=TextClassification(net=Sequence(dropout=0.1)),
      kinds={"favor_64": Favor(4), "favor_16": Favor(1), "luna_64": Luna(64), "luna_16": Luna(16), "mega": Mega(chunk_size=128)},
      train=train,
      search=Search(score="accuracy", batch_size=32, limits=Limits(flops=1.6e10),
                    arms={"mixed": "", "softmax": "layer.*.kind=softmax", "linear": "layer.*.kind=linear"}),
      retrain=train,
  )


def medium():
  train = Training(steps=4000, batch_size=32, report_every=200, checkpoint_every=2000,
                   optimizer=Optimizer(peak_lr=1e-3, warmup_steps=400, weight_decay=0.01, clip_norm=1.0))
  return Experiment(
      data=Imdb(lengths=(2048,), max_val=1024),
      space=Encoder(embed_dim=(64, 128), depth=(1, 2, 3), num_heads=(2, 4), head_dim=32, ffn_dim=(128, 256),
                    kinds=("softmax", "linear", "cosformer")),
      task=TextClassification(),
      train=train,
      search=Search(strategy=Evolution(population=30, num_parents=10, num_mutations=10, num_crossovers=10), batch_size=64,
                    generations=6, limits=Limits(flops=3e9), arms={"mixed": "", "softmax": "layer.*.kind=softmax"}),
      retrain=train,
  )


def small():
  train = Training(steps=600, batch_size=16, report_every=25, checkpoint_every=300,
                   optimizer=Optimizer(peak_lr=2e-3, warmup_steps=100, weight_decay=0.01, clip_norm=1.0))
  return Experiment(
      data=Imdb(lengths=(1024, 2048), max_val=512),
      space=Encoder(embed_dim=(32, 64), depth=(1, 2), num_heads=(1, 2), head_dim=16, ffn_dim=(64, 128),
                    kinds=("softmax", "linear", "cosformer")),
      task=TextClassification(),
      train=train,
      search=Search(strategy=Evolution(population=12, num_parents=4, num_mutations=4, num_crossovers=4), batch_size=32,
                    generations=3, limits=Limits(flops=4e8), arms={"mixed": "", "softmax": "layer.*.kind=softmax"}),
      retrain=dataclasses.replace(train, steps=1200, checkpoint_every=600),
      latency=Latency(runs=30),
  )


def get_config(size="small"):
  sizes = {"small": small, "medium": medium, "full": full}
  if size not in sizes:
    raise UserError(f"there is no size {size!r} (sizes: {', '.join(sizes)})")
  return config.open_up(sizes[size]())
