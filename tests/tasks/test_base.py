"""What every task must have: a row added to the table is covered at once."""

import dataclasses
import re

import pytest

from nasformer import registry, tasks
from nasformer.attention.cosformer import CosFormer
from nasformer.attention.mega import Mega
from nasformer.attention.softmax import Softmax
from nasformer.data.base import Info
from nasformer.data.parallel import TextInfo
from nasformer.data.texts import TextsInfo
from nasformer.nets.sequence import Sequence
from nasformer.nets.translation import Translation
from nasformer.nets.vision import Vision
from nasformer.space.tiny import Tiny
from nasformer.space.translation import TinyTranslation
from nasformer.tasks import base
from nasformer.types import UserError

PARTS = re.findall(r"^  `(\w+)", base.__doc__, re.MULTILINE)
PICTURES = Info("toy", (4, 4, 1), 3, ("a", "b", "c"), "made up", (0.0,), (255.0,))
TEXT = TextInfo("toy", "en", "de", 50, 50, True, 16, (16,), "made up", "")
PAIRS = TinyTranslation(encoder_kinds=("softmax",), decoder_kinds=("kind",), cross_kinds=("softmax",), encoder_heads=(2,),
                        decoder_heads=(2,), cross_heads=(2,))


@pytest.mark.parametrize("name", tasks.TABLE)
def test_every_row_of_the_table_is_a_task(name):
  """Only tasks that make text compare it."""
  task = registry.lookup(tasks.TABLE, name)()
  missing = [part for part in PARTS if not hasattr(task, part)]
  assert len(PARTS) > 10 and missing in ([], ["compare"])
  assert isinstance(task.headline, str) and hash(task) == hash(type(task)())


@pytest.mark.parametrize("name, info, space, message", [
    ("image_classification", TEXT, Tiny(), "task 'image_classification' needs images, which the data set 'toy' is not"),
    ("image_classification", PICTURES, TinyTranslation(), "needs an encoder space, which TinyTranslation is not"),
    ("translation", PICTURES, TinyTranslation(), "task 'translation' needs sentence pairs, which the data set"),
    ("translation", TEXT, Tiny(), "needs an encoder-decoder space, which Tiny is not"),
])
def test_data_and_spaces_of_other_tasks_are_refused(name, info, space, message):
  with pytest.raises(UserError, match=message):
    registry.lookup(tasks.TABLE, name)().build(info, space, {})


@pytest.mark.parametrize("kind", [CosFormer(causal=True), Mega()])
@pytest.mark.parametrize("name, info, space, positions, what", [
    ("image_classification", PICTURES, Tiny(kinds=("kind",)), 17, "an image"),
    ("text_classification", TextsInfo("toy", 2, ("a", "b"), "words", 50, 20, (20,), "made up", ""), Tiny(kinds=("kind",)), 20,
     "the longest text"),
    ("translation", TEXT, PAIRS, 34, "the longest translation"),  # 1.5 x 16 + 10 tokens
    ("translation", TEXT, dataclasses.replace(PAIRS, encoder_kinds=("kind",), decoder_kinds=("softmax",)), 16,
     "the longest source"),
])
def test_what_is_too_long_for_a_kind_is_refused_before_training(kind, name, info, space, positions, what):
  """Were it that of the last stage, a translation."""
  nets = {"image_classification": Vision(patch_size=1), "text_classification": Sequence(),
          "translation": Translation(count_length=5)}
  task = registry.lookup(tasks.TABLE, name)(net=nets[name])
  kinds = {"softmax": Softmax(), "kind": dataclasses.replace(kind, max_length=positions)}
  task.build(info, space, kinds)
  kinds["kind"] = dataclasses.replace(kind, max_length=positions - 1)
  with pytest.raises(UserError, match=f"kinds.kind.max_length={positions - 1} is shorter than the {positions} positions of {what}"):
    task.build(info, space, kinds)
