"""What every task must have: a row added to the table is covered at once."""

import re

import pytest

from nasformer import registry, tasks
from nasformer.data.base import Info
from nasformer.data.parallel import TextInfo
from nasformer.space.tiny import Tiny
from nasformer.space.translation import TinyTranslation
from nasformer.tasks import base
from nasformer.types import UserError

PARTS = re.findall(r"^  `(\w+)", base.__doc__, re.MULTILINE)
PICTURES = Info("toy", (4, 4, 1), 3, ("a", "b", "c"), "made up", (0.0,), (255.0,))
TEXT = TextInfo("toy", "en", "de", 50, 50, True, 16, (16,), "made up", "")


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
