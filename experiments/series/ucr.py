"""Time-series classification: sets of the UCR/UEA archive by name, softmax, linear and dilated evolving attention (EA-DC, arXiv
2212.08330) mixed, beside softmax only and linear only, and the hand-made network, at one budget, for three seeds.

The sets are small: a difference of a few test cases means nothing. JapaneseVowels took 28 minutes on
two cores that other work used at the same time (97.7 ± 0.4 % mixed, 97.5 ± 0.6 % softmax, 97.6 ± 0.5 % linear, 97.7 ± 0.7 %
hand-made).

  python -m nasformer.main --config=experiments/series/ucr.py:JapaneseVowels --workdir=DIR --data_dir=DATA
"""

from nasformer import config
from nasformer.attention.evolving import Evolving
from nasformer.data.ts_classification import TsClassification
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.nets.sequence import Sequence
from nasformer.search.evolution import Evolution
from nasformer.space.encoder import Encoder
from nasformer.tasks.series_classification import SeriesClassification
from nasformer.train.optimizer import Optimizer
from nasformer.types import UserError

SETS = {"ACSF1": (1460, 10), "ArrowHead": (251, 2), "BasicMotions": (100, 1), "GunPoint": (150, 1),
        "ItalyPowerDemand": (24, 1), "JapaneseVowels": (29, 1)}  # longest series, and neighbouring steps that are put together


def get_config(set="JapaneseVowels"):
  if set not in SETS:
    raise UserError(f"there is no set {set!r} (sets: {', '.join(SETS)})")
  longest, patch = SETS[set]
  train = Training(steps=1000, batch_size=16, report_every=50, checkpoint_every=250,
                   optimizer=Optimizer(peak_lr=3e-3, warmup_steps=100, weight_decay=0.05, clip_norm=1.0))
  return config.open_up(Experiment(
      seeds=(0, 1, 2),
      data=TsClassification(set=set, max_length=longest),
      space=Encoder(embed_dim=(16, 32), depth=(1, 2), num_heads=(2, 4), head_dim=8, ffn_dim=(32, 64),
                    kinds=("softmax", "linear", "evolving")),
      task=SeriesClassification(net=Sequence(patch_size=patch, dropout=0.1)),
      kinds={"evolving": Evolving(dilated=True)},
      train=train,
      search=Search(strategy=Evolution(population=32, num_parents=8, num_mutations=12, num_crossovers=12), generations=6,
                    limits=Limits(flops=20_000 * longest / patch), batch_size=64,
                    arms={"mixed": "", "softmax": "layer.*.kind=softmax", "linear": "layer.*.kind=linear"}),
      retrain=train,
  ))
