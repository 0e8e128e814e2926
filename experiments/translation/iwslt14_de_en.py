"""IWSLT'14 German-English at full size, as HAT trains it on its space1 (`hat`) and as RankNAS does on its large space (`ranknas`:
pre-norm, relative positions in self-attention, a supernet stopped when the order of 100 networks is stable, a ranker of 1,000
labels), with a choice of attention in every module. One GPU; 160,000 pairs, given as text files.

  python -m nasformer.main --config=experiments/translation/iwslt14_de_en.py:hat --workdir=DIR \\
      --config.data.source=train.de --config.data.target=train.en \\
      --config.data.val_source=valid.de --config.data.val_target=valid.en \\
      --config.data.test_source=test.de --config.data.test_target=test.en
"""

import dataclasses

from nasformer import config
from nasformer.attention.cosformer import CosFormer
from nasformer.data.text_files import TextFiles
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.decoding import Decoding
from nasformer.nets.translation import Translation
from nasformer.search.evolution import Evolution
from nasformer.search.ranknas import RankNas
from nasformer.space.translation import HatIwslt, RankNasIwslt
from nasformer.tasks.translation import TranslationTask
from nasformer.train.optimizer import Optimizer

SOFTMAX = "*.kind=softmax_relative; *.cross_kind=softmax"


def hat():
  """Differences from HAT: subwords are sentencepiece's, one vocabulary for each language, and text keeps its capitals unless the
  files have none."""
  optimizer = Optimizer(name="adam", schedule="inverse_sqrt", peak_lr=5e-4, init_lr=1e-7, warmup_steps=10_000, b2=0.98,
                        weight_decay=1e-4)
  train = Training(steps=50_000, batch_size=4096, report_every=100, checkpoint_every=1000, optimizer=optimizer)
  return Experiment(
      data=TextFiles(source_language="de", target_language="en", vocab_size=8000, joint=False, max_length=128,
                     lengths=(32, 64, 128)),
      space=HatIwslt(),
      task=TranslationTask(net=Translation(embeddings="separate", dropout=0.375, count_length=23),
                           decoding=Decoding(beam=5, penalty="fairseq", alpha=1.0)),
      kinds={"cosformer": CosFormer(max_length=256)},
      train=train,
      search=Search(strategy=Evolution(population=125, num_parents=25, num_mutations=50, num_crossovers=50), generations=30,
                    arms={"mixed": "", "softmax": "*kind=softmax", "linear": "*kind=cosformer"},
                    limits=Limits(flops=1.13e9), baseline="*kind=softmax; *_embed_dim=512", batch_size=16_384),
      retrain=dataclasses.replace(train, average_last=10, optimizer=dataclasses.replace(optimizer, warmup_steps=4000)),
  )


def ranknas():
  """The release trains for 30 epochs, and winners for 51, of about 900 updates each."""
  this = hat()
  optimizer = Optimizer(name="adam", schedule="inverse_sqrt", peak_lr=1.5e-3, init_lr=1e-7, warmup_steps=8000, b2=0.98,
                        weight_decay=1e-4)
  train = Training(steps=27_000, batch_size=4096, report_every=100, checkpoint_every=900, optimizer=optimizer)
  return dataclasses.replace(
      this,
      space=RankNasIwslt(),
      task=dataclasses.replace(this.task, net=dataclasses.replace(this.task.net, norm="pre", dropout=0.3, attention_dropout=0.1,
                                                                  activation_dropout=0.1)),
      train=dataclasses.replace(train, stability_networks=100, stability_patience=5),
      search=Search(strategy=RankNas(labels=1000, memory=2048, batch=25, keep=5), generations=10,
                    arms={"mixed": "", "softmax": SOFTMAX, "linear": "*kind=cosformer"}, limits=Limits(flops=1.13e9),
                    baseline=f"{SOFTMAX}; *_embed_dim=512", batch_size=16_384),
      retrain=dataclasses.replace(train, steps=45_900, average_last=10),
  )


def get_config(recipe="hat"):
  return config.open_up({"hat": hat, "ranknas": ranknas}[recipe]())
