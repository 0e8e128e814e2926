"""Image captions, English into German (or French or Czech: the argument): softmax only, linear only and mixed attention at 70 %
of the FLOPs of the hand-made Transformer, a small one as suits 29,000 captions.

Claim under test: a searched network with mixed attention translates as well as the hand-made one and costs less. FLOPs are
counted at 16 tokens, about the mean length here. For two CPU cores.

  python -m nasformer.main --config=experiments/translation/multi30k_study.py:de --workdir=DIR --data_dir=DATA

Three seeds: --config.seeds='(0,1,2)'. Only some of the searches: multi30k_study.py:de:mixed,softmax.
"""

import dataclasses

from nasformer import config
from nasformer.attention.cosformer import CosFormer
from nasformer.data.multi30k import Multi30k
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.translation import Translation
from nasformer.search.evolution import Evolution
from nasformer.space.translation import Translation as TranslationSpace
from nasformer.tasks.translation import TranslationTask
from nasformer.train.optimizer import Optimizer
from nasformer.types import UserError

HAND_MADE = "*kind=softmax; *_embed_dim=128; encoder_depth=4; decoder_depth=4; *.ffn_dim=256; *num_heads=4; *.span=1"
ARMS = {"mixed": "", "softmax": "*kind=softmax", "linear": "*kind=cosformer"}


def get_config(argument="de"):
  language, _, chosen = argument.partition(":")
  arms = chosen.split(",") if chosen else list(ARMS)
  unknown = [arm for arm in arms if arm not in ARMS]
  if unknown:
    raise UserError(f"there is no arm {unknown[0]!r} (arms: {', '.join(ARMS)})")
  train = Training(steps=2000, batch_size=4096, report_every=50, checkpoint_every=250,
                   optimizer=Optimizer(peak_lr=4e-3, warmup_steps=300, b2=0.98, weight_decay=0.0, clip_norm=1.0))
  return config.open_up(Experiment(
      data=Multi30k(target_language=language, vocab_size=4000, max_length=40, lengths=(16, 24, 40)),
      space=TranslationSpace(encoder_embed_dim=(96, 128), decoder_embed_dim=(96, 128), encoder_depth=(2, 3, 4),
                             decoder_depth=(1, 2, 3, 4), encoder_ffn_dim=(128, 256, 384), decoder_ffn_dim=(128, 256, 384),
                             encoder_heads=(2, 4), decoder_heads=(2, 4), cross_heads=(2, 4), span=(1, 2), qkv_dim=128),
      task=TranslationTask(net=Translation(norm="pre", dropout=0.15, count_length=16)),
      kinds={"cosformer": CosFormer(max_length=128)},
      train=train,
      search=Search(strategy=Evolution(population=40, num_parents=10, num_mutations=15, num_crossovers=15), generations=8,
                    arms={arm: ARMS[arm] for arm in arms}, limits=Limits(flops=3.05e7), baseline=HAND_MADE,
                    baseline_flops=4.4e7, batch_size=4096),
      retrain=dataclasses.replace(train, steps=4000, keep_best=True),
  ))
