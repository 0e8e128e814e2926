"""WMT'14 English-Czech at full size, with the recipe of wmt14_en_de.py.

  python -m nasformer.main --config=experiments/translation/wmt14_en_cs.py --workdir=DIR --data_dir=DATA
"""

from nasformer import config

from wmt14_en_de import recipe


def get_config():
  return config.open_up(recipe("cs", 40_000))
