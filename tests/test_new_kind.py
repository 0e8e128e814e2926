"""The README's example of a new attention kind: its file and its row are enough to train, slice, search, count and decode."""

import dataclasses
import io
import re
import runpy
import sys

import jax
import numpy as np
import pytest
import rich.console

from nasformer import attention, config, experiment, stages, workdir
from nasformer.nets import decoding
from nasformer.nets.translation import EOS, PAD, Pair, Sliced
from nasformer.space.translation import Translation
from nasformer.store.checkpoint import Checkpoints

HEADER = """\"\"\"A kind.\"\"\"
import dataclasses
import jax
from nasformer.attention.kernel import KernelCore

"""


@pytest.fixture
def kind(tmp_path, monkeypatch):
  """The name of the new row."""
  example, = re.findall(r"```python\n(@dataclasses\.dataclass\(frozen=True\)\nclass ReluLinear.*?)```",
                        open("README.md", encoding="utf-8").read(), re.DOTALL)
  (tmp_path / "relu_linear.py").write_text(HEADER + example)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(attention.TABLE, "relu_linear", "relu_linear:ReluLinear")
  yield "relu_linear"
  sys.modules.pop("relu_linear", None)


def test_one_file_and_one_row(kind, tmp_path, count_products):
  micro = runpy.run_path("tests/micro_text.py")
  kinds = {f"{module}_kinds": ("softmax", kind) for module in ("encoder", "decoder", "cross")}
  whole = config.close(experiment.Experiment, micro["get_config"]())
  short = dataclasses.replace(whole.train, steps=2, average_last=0, stability_networks=0)
  search = dataclasses.replace(whole.search, generations=1, arms={"new": f"*kind={kind}"}, limits=experiment.Limits())
  space = Translation(**micro["SMALL"] | {"encoder_embed_dim": (8,)} | kinds)
  task = dataclasses.replace(whole.task, net=dataclasses.replace(whole.task.net, count_vocabulary=True))
  mine = dataclasses.replace(whole, space=space, kinds={}, task=task, train=short, search=search)
  run = workdir.Run(mine, tmp_path / "run", console=rich.console.Console(file=io.StringIO()))
  run.begin()
  for stage in (stages.train, stages.search, stages.derive):  # the last proves that the slice equals the supernet
    stage(run)

  row = run.winners("test")[0]
  spec = mine.space.decode(np.array(row["genes"]))
  assert all(layer.kind == kind for layer in (*spec.encoder, *spec.decoder)) and spec.decoder[0].cross_kind == kind
  network, pair = run.supernet.module(spec), mine.task.example(run.supernet.net, 1)
  shapes = jax.eval_shape(network.init, jax.random.key(0), pair)
  assert row["flops"] == 2 * count_products(network.apply, shapes, pair)

  params = Checkpoints(run.model_dir("derived", "new", 0)).restore(shapes["params"])
  sliced, source = Sliced(run.supernet.net, spec), np.array([[7, 9, EOS, PAD], [11, 8, 12, EOS]], np.int32)
  tokens = jax.jit(decoding.generate, static_argnums=(0, 3))(sliced, params, source, 5)
  logits = jax.jit(network.apply)({"params": params}, Pair(jax.numpy.asarray(source), tokens))
  chosen = np.take_along_axis(np.asarray(logits), np.asarray(tokens)[..., None], -1)[..., 0]
  np.testing.assert_allclose(chosen, np.asarray(logits).max(-1), atol=1e-4)  # word by word, what all at once would say
