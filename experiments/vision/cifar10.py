"""CIFAR-10: softmax only, linear only and mixed attention, and the hand-made network, at one budget.

`full` is the recipe of the mixed CIFAR-10 space (arXiv 2207.13955; OpenNLPLab/mixFormer, supernet-S): 224 x 224 images,
patches of 16, 140,000 updates of 256 images, at most 25 M parameters. Differences: search reads a validation part of the
training images, the encoder is bidirectional, images are shifted and flipped instead of cropped at random scales.
It wants an accelerator.

`small` is for two CPU cores: 15,000 training images of 32 x 32, patches of 4, a narrow space. It took 71 minutes on two
cores that other work used at the same time.

  python -m nasformer.main --config=experiments/vision/cifar10.py:small --workdir=DIR --data_dir=DATA
"""

import dataclasses

from nasformer import config
from nasformer.attention.softmax_relative import SoftmaxRelative
from nasformer.data.augment import Augment
from nasformer.data.cifar10 import Cifar10
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.vision import Vision
from nasformer.search.evolution import Evolution
from nasformer.space.vision import Vision as VisionSpace
from nasformer.tasks.image_classification import ImageClassification
from nasformer.train.optimizer import Optimizer
from nasformer.types import UserError

ARMS = {"mixed": "", "softmax": "layer.*.kind=softmax,softmax_relative", "linear": "layer.*.kind=cosformer"}
KINDS = {"softmax_relative": SoftmaxRelative(axes=False)}  # distances in the order of the patches, as there


def full():
  optimizer = Optimizer(peak_lr=1e-3, init_lr=1e-6, end_lr=1e-6, warmup_steps=976, b2=0.998, weight_decay=0.05)
  train = Training(steps=140_000, batch_size=256, report_every=100, checkpoint_every=2000, optimizer=optimizer)
  net = Vision(patch_size=16, scale_embedding=True, dropout=0.1, stochastic_depth=0.1)
  augment = Augment(crop_padding=16, flip=True, randaugment_ops=2, randaugment_magnitude=9.0, erase_probability=0.25)
  return Experiment(
      data=Cifar10(image_size=224),
      space=VisionSpace(),
      kinds=KINDS,
      task=ImageClassification(net=net, augment=augment),
      train=train,
      search=Search(score="accuracy", arms=ARMS, limits=Limits(params=25e6)),
      retrain=dataclasses.replace(train, optimizer=dataclasses.replace(optimizer, b2=0.999)),
  )


def small():
  optimizer = Optimizer(peak_lr=2e-3, warmup_steps=150, b2=0.998, weight_decay=0.05, clip_norm=1.0)
  train = Training(steps=2400, batch_size=128, report_every=50, checkpoint_every=200, optimizer=optimizer)
  return Experiment(
      data=Cifar10(max_train=15_000, max_val=2_000),
      space=VisionSpace(embed_dim=(64, 96, 128), depth=(4, 5, 6), num_heads=(2, 3, 4), head_dim=32,
                        ffn_dim=(128, 256, 384)),
      kinds=KINDS,
      task=ImageClassification(net=Vision(patch_size=4), augment=Augment(crop_padding=4, flip=True)),
      train=train,
      search=Search(strategy=Evolution(population=40, num_parents=10, num_mutations=10, num_crossovers=10), arms=ARMS,
                    generations=5, limits=Limits(flops=6e7), batch_size=500),
      retrain=dataclasses.replace(train, steps=1200),
  )


def get_config(size="small"):
  sizes = {"small": small, "full": full}
  if size not in sizes:
    raise UserError(f"there is no size {size!r} (sizes: {', '.join(sizes)})")
  return config.open_up(sizes[size]())
