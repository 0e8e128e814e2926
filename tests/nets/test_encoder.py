import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.attention.softmax import Softmax
from nasformer.nets import encoder
from nasformer.nets.sequence import Channels, Sequence, SequenceNet
from nasformer.types import EncoderSpec, LayerSpec, UserError

NET = SequenceNet(Sequence(), Channels((0.0,), (1.0,)), 4, 2, (("softmax", Softmax()),), 4)


def test_what_is_masked_is_not_attended_to():
  rng, layer = np.random.default_rng(0), LayerSpec("softmax", 2, 2, 3)
  params = {name: jnp.asarray(rng.normal(size=tensor.shape), jnp.float32)
            for name, tensor in NET.attention_tensors(4, layer).items()}
  x, mask = jnp.asarray(rng.normal(size=(1, 4, 4)), jnp.float32), jnp.array([[True, True, True, False]])
  got, _ = NET.attention("softmax", params, x, mask=mask)
  want, _ = NET.attention("softmax", params, x[:, :3])
  np.testing.assert_allclose(got[:, :3], want, atol=1e-6)
  np.testing.assert_array_equal(got[:, 3], x[:, 3])


def test_a_network_costs_what_its_parts_cost():
  spec = EncoderSpec(4, (LayerSpec("softmax", 2, 2, 3), LayerSpec("softmax", 1, 2, 5)))
  parts = [NET.count("ends", embed_dim=4), NET.count("mlp", embed_dim=4, ffn_dim=3), NET.count("mlp", embed_dim=4, ffn_dim=5)]
  parts += [NET.count("attention", embed_dim=4, kind="softmax", num_heads=heads, head_dim=2) for heads in (2, 1)]
  assert NET.count_spec(spec) == tuple(map(sum, zip(*parts)))


@pytest.mark.parametrize("config, message", [
    ({"activation": "tanh"}, "net.activation='tanh': it must be one of relu, gelu"),
    ({"dtype": "int8"}, "net.dtype='int8'"), ({"dropout": 1.0}, "net.dropout=1.0: it must lie between 0 and 0.99"),
])
def test_mistakes_are_told(config, message):
  with pytest.raises(UserError, match=message):
    encoder.check(Sequence(**config))
