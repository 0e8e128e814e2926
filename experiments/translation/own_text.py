"""Your own sentence pairs: two text files, plain or .gz, in which the same line belongs together. A small Transformer, softmax
or cosFormer in every attention module, for tens of thousands of short sentences; larger data wants HatIwslt and more steps.

  python -m nasformer.main --config=experiments/translation/own_text.py --workdir=DIR \\
      --config.data.source=train.en.gz --config.data.target=train.de.gz

Validation and test parts are carved out unless they are named too (data.val_source, data.val_target, data.test_source,
data.test_target).
"""

import dataclasses

from nasformer import config
from nasformer.attention.cosformer import CosFormer
from nasformer.data.text_files import TextFiles
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.translation import Translation
from nasformer.search.evolution import Evolution
from nasformer.space.translation import Translation as TranslationSpace
from nasformer.tasks.translation import TranslationTask
from nasformer.train.optimizer import Optimizer


def get_config():
  train = Training(steps=4000, batch_size=4096, report_every=50, checkpoint_every=500,
                   optimizer=Optimizer(peak_lr=3e-3, warmup_steps=400, b2=0.98, weight_decay=0.0, clip_norm=1.0))
  return config.open_up(Experiment(
      data=TextFiles(vocab_size=4000, max_length=64, lengths=(16, 32, 64)),
      space=TranslationSpace(encoder_embed_dim=(128, 192, 256), decoder_embed_dim=(128, 192, 256),
                             encoder_depth=(3, 4), decoder_depth=(1, 2, 3, 4), encoder_ffn_dim=(256, 512, 768),
                             decoder_ffn_dim=(256, 512, 768), encoder_heads=(4, 8), decoder_heads=(4, 8),
                             cross_heads=(4, 8), span=(1, 2), qkv_dim=256),
      task=TranslationTask(net=Translation(norm="pre", dropout=0.2)),
      kinds={"cosformer": CosFormer(max_length=128)},
      train=train,
      search=Search(strategy=Evolution(population=40, num_parents=10, num_mutations=15, num_crossovers=15), generations=8,
                    arms={"mixed": "", "softmax": "*kind=softmax", "linear": "*kind=cosformer"},
                    limits=Limits(flops=2e8), baseline="*kind=softmax", batch_size=4096),
      retrain=dataclasses.replace(train, keep_best=True),
  ))
