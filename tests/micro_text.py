"""The whole translation pipeline in seconds: a few written numbers, a space of small networks, short trainings and searches."""

from nasformer import config
from nasformer.attention.cosformer import CosFormer
from nasformer.data.numbers import Numbers
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.decoding import Decoding
from nasformer.nets.translation import Translation
from nasformer.score.latency import Latency
from nasformer.search.evolution import Evolution
from nasformer.space.translation import Translation as TranslationSpace
from nasformer.tasks.translation import TranslationTask
from nasformer.train.optimizer import Optimizer

SMALL = {"encoder_embed_dim": (4, 8), "decoder_embed_dim": (8,), "encoder_depth": (1,), "decoder_depth": (1,),
         "encoder_ffn_dim": (4, 8), "decoder_ffn_dim": (8,), "encoder_heads": (2,), "decoder_heads": (2,),
         "cross_heads": (1,), "span": (1,), "qkv_dim": 4}


def get_config(data=None):
  training = {"batch_size": 256, "report_every": 5, "checkpoint_every": 10, "optimizer": Optimizer(peak_lr=3e-3)}
  return config.open_up(Experiment(
      data=Numbers(train_size=200, val_size=24, test_size=24, vocab_size=330, max_length=32, lengths=(32,)) if data is None
      else data,
      space=TranslationSpace(**SMALL, cross_kinds=("softmax",)),
      task=TranslationTask(net=Translation(count_length=8), decoding=Decoding(beam=2)),
      kinds={"cosformer": CosFormer(max_length=64)},
      train=Training(steps=30, average_last=2, stability_networks=3, stability_threshold=2.0, **training),
      search=Search(strategy=Evolution(population=8, num_parents=4, num_mutations=4, num_crossovers=4), generations=3,
                    arms={"mixed": ""}, baseline="*kind=softmax", batch_size=1024,
                    limits=Limits(flops=3e4)),
      retrain=Training(steps=20, keep_best=True, **training),
      latency=Latency(warmup=1, runs=3),
  ))
