import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nasformer.attention.softmax import Softmax
from nasformer.data.base import Info
from nasformer.data.series import SeriesInfo
from nasformer.nets.encoder import EncoderTransformer
from nasformer.space.encoder import Encoder
from nasformer.tasks.series_classification import SeriesClassification
from nasformer.types import EncoderSpec, LayerSpec, UserError

INFO = SeriesInfo("toy", 2, ("down", "up"), 6, (3, 6), "made up", (0.5, 0.0), (2.0, 1.0))
TASK, SPACE = SeriesClassification(), Encoder(embed_dim=(8,), kinds=("softmax",))
NET = TASK.build(INFO, SPACE, {"softmax": Softmax()})
MODULE = EncoderTransformer(NET, EncoderSpec(8, (LayerSpec("softmax", 2, 4, 16),)))


def test_the_loss_falls():
  """Of a small network on 16 random series, which it can learn by heart."""
  rng = np.random.default_rng(0)
  batch = {"values": jnp.asarray(rng.normal(size=(16, 6, 2)), jnp.float32), "length": jnp.arange(16) % 6 + 1,
           "label": jnp.arange(16) % 2, "mask": jnp.ones(16, bool)}
  optimizer = optax.adam(1e-2)
  loss = lambda params: TASK.loss(MODULE.apply({"params": params}, TASK.inputs(batch)), batch).mean()

  def step(carry, _):
    params, state = carry
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state)
    return (optax.apply_updates(params, updates), state), value

  @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
  def train(key):
    params = MODULE.init(key, TASK.inputs(batch))["params"]
    return jax.lax.scan(step, (params, optimizer.init(params)), None, 60)[1]

  values = train(jax.random.key(0))
  assert values[-1] < 0.75 * values[0]


def test_people_give_series_of_unequal_lengths():
  """Logits do not depend on what a series is given with; a longer one is cut."""
  params = jax.jit(MODULE.init)(jax.random.key(0), TASK.example(NET, 1))["params"]
  apply, rng = TASK.deployed(MODULE, INFO, pathlib.Path()), np.random.default_rng(0)
  series = [rng.normal(size=(count, 2)) for count in (2, 6, 3, 9)]
  logits = apply(params, series)
  assert logits.shape == (4, 2) and apply(params, []).shape == (0, 2)
  for one, want in zip(series, logits):
    np.testing.assert_allclose(apply(params, [one[:6]])[0], want, atol=1e-5)
  with pytest.raises(UserError, match=r"a series of shape \(5,\): this network takes \[steps, 2\]"):
    apply(params, [np.zeros(5)])


def test_data_of_other_tasks_are_refused():
  with pytest.raises(UserError, match="needs series with labels, which the data set 'digits' is not"):
    TASK.build(Info("digits", (8, 8, 1), 10, (), "", (0.0,), (1.0,)), SPACE, {})
