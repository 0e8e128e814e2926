"""WMT'14 English-German as RankNAS does it (Hu et al. 2021; the code released with arXiv 2207.13955): its large space, pre-norm,
relative positions in self-attention, RAdam, the supernet stopped when the order of 200 random networks is stable, and a ranker
that learns from 2,000 labels. It wants a pod.

  python -m nasformer.main --config=experiments/translation/wmt14_en_de_ranknas.py --workdir=DIR --data_dir=DATA
"""

import dataclasses

from nasformer import config
from nasformer.experiment import Limits, Search, Training
from nasformer.nets.translation import Translation
from nasformer.search.ranknas import RankNas
from nasformer.space.translation import RankNasWmt
from nasformer.train.optimizer import Optimizer
from wmt14_en_de import recipe

SOFTMAX = "*.kind=softmax_relative; *.cross_kind=softmax"


def get_config():
  """Differences from the release: those of `wmt14_en_de`; its learning on cut-off words is left out."""
  hat = recipe("de", 32_768)
  optimizer = Optimizer(name="radam", schedule="inverse_sqrt", peak_lr=1e-3, init_lr=1e-7, warmup_steps=8000, b2=0.98,
                        weight_decay=0.0)
  train = Training(steps=50_000, batch_size=524_288, accumulate=16, report_every=100, checkpoint_every=500,
                   optimizer=optimizer)
  return config.open_up(dataclasses.replace(
      hat,
      space=RankNasWmt(decoder_depth=(4, 5, 6)),
      task=dataclasses.replace(hat.task, net=Translation(norm="pre", dropout=0.3, attention_dropout=0.1,
                                                         activation_dropout=0.1)),
      train=dataclasses.replace(train, stability_networks=200, stability_patience=10),
      search=Search(strategy=RankNas(labels=2000, memory=4096, batch=25, keep=5), generations=10,
                    arms={"mixed": "", "softmax": SOFTMAX, "linear": "*kind=cosformer"}, limits=Limits(flops=6e9),
                    baseline=f"{SOFTMAX}; *_embed_dim=640", batch_size=65_536),
      retrain=dataclasses.replace(train, average_last=10),
  ))
