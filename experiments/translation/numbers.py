"""Translation quickstart: numbers, dates and amounts of money written out in English into German (no download), the whole
pipeline in a few minutes on two cores. The argument is the other language: de, fr or cs.

  python -m nasformer.main --config=experiments/translation/numbers.py --workdir=DIR
"""

import dataclasses

from nasformer import config
from nasformer.attention.cosformer import CosFormer
from nasformer.data.numbers import Numbers
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.decoding import Decoding
from nasformer.nets.translation import Translation
from nasformer.search.evolution import Evolution
from nasformer.space.translation import TinyTranslation
from nasformer.tasks.translation import TranslationTask
from nasformer.train.optimizer import Optimizer


def get_config(language="de"):
  train = Training(steps=1000, batch_size=2048, checkpoint_every=500, report_every=50,
                   optimizer=Optimizer(peak_lr=4e-3, warmup_steps=200, b2=0.98, clip_norm=1.0, weight_decay=0.0))
  return config.open_up(Experiment(
      data=Numbers(target_language=language, train_size=20_000, max_length=32, lengths=(32,)),
      space=TinyTranslation(),
      task=TranslationTask(net=Translation(dropout=0.0), decoding=Decoding(beam=1)),
      kinds={"cosformer": CosFormer(max_length=128)},
      train=train,
      search=Search(strategy=Evolution(population=32, num_parents=8, num_mutations=12, num_crossovers=12),
                    arms={"mixed": "", "softmax": "*kind=softmax", "linear": "*kind=cosformer"}, baseline="*kind=softmax",
                    generations=6, limits=Limits(flops=1.2e7), batch_size=8192),
      retrain=dataclasses.replace(train, steps=800),
  ))
