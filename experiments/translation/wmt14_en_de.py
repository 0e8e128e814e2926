"""WMT'14 English-German at full size: HAT's space0 with a choice of attention in every module, trained, searched and retrained
as HAT does (Wang et al. 2020; mit-han-lab/hardware-aware-transformers): 40,000 updates of 524,288 tokens. It wants a pod.

The data set is prepared once, where TensorFlow Datasets can download, as ArrayRecord (see nasformer.data.tfds_translation).

  python -m nasformer.main --config=experiments/translation/wmt14_en_de.py --workdir=DIR --data_dir=DATA
"""

import dataclasses

from nasformer import config
from nasformer.attention.cosformer import CosFormer
from nasformer.data.tfds_translation import TfdsTranslation
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.decoding import Decoding
from nasformer.nets.translation import Translation
from nasformer.search.evolution import Evolution
from nasformer.space.translation import HatWmt
from nasformer.tasks.translation import TranslationTask
from nasformer.train.optimizer import Optimizer


def recipe(language, vocab_size):
  """English into this language.

  Differences from HAT: subwords are sentencepiece's, validation is the official one of the data set, non-finite losses stop
  the run, and the rates of dropout are those of the width everywhere.
  """
  optimizer = Optimizer(name="adam", schedule="cosine", peak_lr=1e-3, init_lr=1e-7, end_lr=1e-7, warmup_steps=10_000,
                        b2=0.98, weight_decay=0.0)
  train = Training(steps=40_000, batch_size=524_288, accumulate=16, report_every=100, checkpoint_every=1000,
                   optimizer=optimizer)
  return Experiment(
      data=TfdsTranslation(builder=f"wmt14_translate/{language}-en", source_language="en", target_language=language,
                           vocab_size=vocab_size, max_length=256, lengths=(32, 64, 128, 256)),
      space=HatWmt(),
      task=TranslationTask(net=Translation(dropout=0.3, attention_dropout=0.1),
                           decoding=Decoding(beam=4, penalty="fairseq", alpha=0.6)),
      kinds={"cosformer": CosFormer(max_length=512)},
      train=train,
      search=Search(strategy=Evolution(population=125, num_parents=25, num_mutations=50, num_crossovers=50), generations=30,
                    arms={"mixed": "", "softmax": "*kind=softmax", "linear": "*kind=cosformer"},
                    limits=Limits(flops=2.7e9), baseline="*kind=softmax; *_embed_dim=512", batch_size=65_536),
      retrain=dataclasses.replace(train, keep_best=True, optimizer=dataclasses.replace(optimizer, warmup_steps=4000)),
  )


def get_config():
  return config.open_up(recipe("de", 32_768))
