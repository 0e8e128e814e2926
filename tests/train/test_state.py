import jax
import jax.numpy as jnp
import numpy as np
import optax

from nasformer.train import state as states


def test_the_average_starts_at_the_weights_in_its_own_memory():
  params = {"w": jnp.arange(3.0)}
  state = states.init(params, optax.adam(1e-3), ema=True)
  np.testing.assert_array_equal(state.ema["w"], params["w"])
  assert state.ema["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()
  assert state.step == 0 and state.step.dtype == jnp.int32


def test_no_average_unless_asked_for_and_all_state_is_arrays():
  state = states.init({"w": jnp.arange(3.0)}, optax.adam(1e-3))
  assert state.ema is None
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
