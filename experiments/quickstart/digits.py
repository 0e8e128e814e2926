"""Quickstart: handwritten digits (1,797 images of 8 x 8, no download), the whole pipeline in a few minutes on two cores.

  python -m nasformer.main --config=experiments/quickstart/digits.py --workdir=DIR
"""

import dataclasses

from nasformer import config
from nasformer.data.augment import Augment
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.vision import Vision
from nasformer.search.evolution import Evolution
from nasformer.space.tiny import Tiny
from nasformer.tasks.image_classification import ImageClassification
from nasformer.train.optimizer import Optimizer


def get_config():
  train = Training(steps=3000, batch_size=64, checkpoint_every=500, report_every=50,
                   optimizer=Optimizer(peak_lr=4e-3, warmup_steps=200, clip_norm=1.0))
  return config.open_up(Experiment(
      data="digits",
      space=Tiny(kinds=("softmax", "linear")),
      task=ImageClassification(net=Vision(patch_size=2), augment=Augment(crop_padding=1)),
      train=train,
      search=Search(strategy=Evolution(population=64, num_parents=16, num_mutations=24, num_crossovers=24),
                    generations=12, limits=Limits(flops=1.4e6)),
      retrain=dataclasses.replace(train, steps=4000),
  ))
