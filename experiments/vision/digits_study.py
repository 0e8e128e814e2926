"""Three-way study on handwritten digits: softmax only, linear only and mixed attention, and the hand-made network, at one
budget of FLOPs, the whole pipeline repeated for three seeds. No download.

Claim under test (arXiv 2207.13955): mixing keeps the accuracy of softmax attention at a lower cost than softmax alone.

  python -m nasformer.main --config=experiments/vision/digits_study.py --workdir=DIR
"""

import dataclasses

from nasformer import config
from nasformer.data.augment import Augment
from nasformer.data.digits import Digits
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.vision import Vision
from nasformer.search.evolution import Evolution
from nasformer.space.tiny import Tiny
from nasformer.tasks.image_classification import ImageClassification
from nasformer.train.optimizer import Optimizer


def get_config():
  train = Training(steps=3000, batch_size=64, report_every=50, checkpoint_every=500,
                   optimizer=Optimizer(peak_lr=4e-3, warmup_steps=200, clip_norm=1.0))
  return config.open_up(Experiment(
      seeds=(0, 1, 2),
      data=Digits(),
      space=Tiny(kinds=("softmax", "cosformer")),
      task=ImageClassification(net=Vision(patch_size=2), augment=Augment(crop_padding=1)),
      train=train,
      search=Search(strategy=Evolution(population=64, num_parents=16, num_mutations=24, num_crossovers=24),
                    arms={"mixed": "", "softmax": "layer.*.kind=softmax", "linear": "layer.*.kind=cosformer"},
                    generations=12, limits=Limits(flops=1.4e6)),
      retrain=dataclasses.replace(train, steps=4000),
  ))
