"""CoLA, linguistic acceptability, in subwords: mixed attention beside softmax only and linear only, and the hand-made network,
at one budget, with the Matthews correlation. For two CPU cores.

  python -m nasformer.main --config=experiments/text/cola.py --workdir=DIR --data_dir=DATA
"""

import dataclasses

from nasformer import config
from nasformer.data.cola import Cola
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.sequence import Sequence
from nasformer.search.evolution import Evolution
from nasformer.space.encoder import Encoder
from nasformer.tasks.text_classification import TextClassification
from nasformer.train.optimizer import Optimizer


def get_config():
  train = Training(steps=1500, batch_size=32, report_every=50, checkpoint_every=250,
                   optimizer=Optimizer(peak_lr=1e-3, warmup_steps=100, weight_decay=0.05, clip_norm=1.0))
  return config.open_up(Experiment(
      data=Cola(vocabulary="unigram", vocab_size=4000, max_length=64, lengths=(16, 32, 64)),
      space=Encoder(embed_dim=(64, 96, 128), depth=(1, 2, 3), num_heads=(1, 2, 4), head_dim=32, ffn_dim=(128, 256),
                    kinds=("softmax", "linear", "luna")),
      task=TextClassification(net=Sequence(dropout=0.2), matthews=True),
      train=train,
      search=Search(strategy=Evolution(population=32, num_parents=8, num_mutations=12, num_crossovers=12), generations=6,
                    limits=Limits(flops=3e7), batch_size=64),
      retrain=dataclasses.replace(train, steps=1000),  # the checkpoint of the lowest loss would be one that accepts every sentence
  ))
