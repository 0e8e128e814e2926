"""What every task must have: a row added to the table is covered at once."""

import re

import pytest

from nasformer import registry, tasks
from nasformer.data.base import Info
from nasformer.data.parallel import TextInfo
from nasformer.space.encoder import Encoder
from nasformer.space.tiny import Tiny
from nasformer.space.translation import TinyTranslation, Translation
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


@pytest.mark.parametrize("info, info_type, space, space_type, message", [
    (TEXT, Info, Tiny(), Encoder, "the task 'it' needs pictures, which the data set 'toy' is not"),
    (PICTURES, Info, TinyTranslation(), Encoder, "the task 'it' needs some space, which TinyTranslation is not"),
    (PICTURES, TextInfo, TinyTranslation(), Translation, "the task 'it' needs pictures, which the data set 'toy' is not"),
    (TEXT, TextInfo, Tiny(), Translation, "the task 'it' needs some space, which Tiny is not"),
])
def test_data_and_spaces_of_other_tasks_are_refused(info, info_type, space, space_type, message):
  with pytest.raises(UserError, match=message):
    base.check_parts("it", info, info_type, "pictures", space, space_type, "some space")
  base.check_parts("it", PICTURES, Info, "pictures", Tiny(), Encoder, "some space")
