"""The whole pipeline in seconds: few images, a space of small networks, short trainings and searches."""

from nasformer import config
from nasformer.data.digits import Digits
from nasformer.experiment import Experiment, Limits, Search, Training, Trust
from nasformer.nets.vision import Vision
from nasformer.score.latency import Latency
from nasformer.search.evolution import Evolution
from nasformer.space.tiny import Tiny
from nasformer.tasks.image_classification import ImageClassification
from nasformer.train.optimizer import Optimizer


def get_config(data="digits"):
  training = Training(steps=30, batch_size=16, ema_decay=0.5, report_every=5, checkpoint_every=10,
                      optimizer=Optimizer(peak_lr=3e-3))
  return config.open_up(Experiment(
      data=Digits(max_train=200, max_val=64) if data == "digits" else data,
      space=Tiny(embed_dim=(8, 12), depth=(1, 2), num_heads=(1, 2), head_dim=4, ffn_dim=(8, 16),
                 kinds=("softmax", "linear")),
      task=ImageClassification(net=Vision(patch_size=4)),
      train=training,
      search=Search(strategy=Evolution(population=8, num_parents=4, num_mutations=4, num_crossovers=4), generations=4,
                    limits=Limits(flops=1.5e4), arms={"mixed": "", "linear": "layer.*.kind=linear"}, batch_size=64),
      retrain=training,
      latency=Latency(warmup=1, runs=3),
      trust=Trust(front=1, spread=2, budget=2, band=0.1, steps=10),
  ))
