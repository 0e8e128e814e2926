"""How far the supernet's order of translators is to be believed: image captions, English into German, in a space whose networks
differ much in size. 12 networks spread over budgets and 6 of about 7 MFLOPs are trained alone.

  python -m nasformer.main --config=experiments/translation/multi30k_trust.py --workdir=DIR --data_dir=DATA --stages=train,trust
"""

from nasformer import config
from nasformer.attention.cosformer import CosFormer
from nasformer.data.multi30k import Multi30k
from nasformer.experiment import Experiment, Limits, Search, Training, Trust
from nasformer.nets.translation import Translation
from nasformer.space.translation import Translation as TranslationSpace
from nasformer.tasks.translation import TranslationTask
from nasformer.train.optimizer import Optimizer


def get_config():
  train = Training(steps=2500, batch_size=2240, report_every=50, checkpoint_every=500,
                   optimizer=Optimizer(peak_lr=4e-3, warmup_steps=200, b2=0.98, weight_decay=0.0, clip_norm=1.0))
  return config.open_up(Experiment(
      data=Multi30k(vocab_size=2000, max_length=28, lengths=(28,)),
      space=TranslationSpace(encoder_embed_dim=(32, 96), decoder_embed_dim=(32, 96), encoder_depth=(2, 3),
                             decoder_depth=(1, 2, 3), encoder_ffn_dim=(64, 128, 256), decoder_ffn_dim=(64, 128, 256),
                             encoder_heads=(4,), decoder_heads=(4,), cross_heads=(4,), span=(1, 2), qkv_dim=64),
      task=TranslationTask(net=Translation(norm="pre", count_length=16)),
      kinds={"cosformer": CosFormer(max_length=64)},
      train=train,
      search=Search(limits=Limits(flops=7e6), arms={"mixed": ""}, baseline="*kind=softmax", batch_size=22_400),
      retrain=train,
      trust=Trust(front=0, spread=12, budget=6, steps=500),
  ))
