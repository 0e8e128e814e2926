import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.ops import losses


def _log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture
def logits():
  return jax.random.normal(jax.random.key(0), (6, 5)) * 3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_cross_entropy_is_the_cross_entropy_with_smoothed_labels(logits, smoothing):
  labels = jnp.array([0, 4, 2, 2, 1, 3])
  targets = (1 - smoothing) * np.eye(5)[np.asarray(labels)] + smoothing / 5
  expected = -(targets * _log_softmax(logits)).sum(-1)
  np.testing.assert_allclose(losses.smoothed_cross_entropy(logits, labels, smoothing), expected, rtol=1e-5)


def test_uniform_logits_cost_log_of_the_number_of_classes():
  loss = losses.smoothed_cross_entropy(jnp.zeros((2, 10)), jnp.array([3, 7]), 0.1)
  np.testing.assert_allclose(loss, np.log(10), rtol=1e-6)


def test_losses_are_float32_for_bfloat16_logits(logits):
  half, labels = logits.astype(jnp.bfloat16), jnp.zeros(6, jnp.int32)
  same = half.astype(jnp.float32)
  assert losses.smoothed_cross_entropy(half, labels).dtype == losses.distillation(half, half).dtype == jnp.float32
  loss = losses.smoothed_cross_entropy
  np.testing.assert_array_equal(loss(half, labels), loss(same, labels))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distillation_is_the_scaled_divergence(logits, temperature):
  teacher = logits[::-1] * 0.7
  p, q = _log_softmax(np.asarray(teacher) / temperature), _log_softmax(np.asarray(logits) / temperature)
  expected = temperature**2 * (np.exp(p) * (p - q)).sum(-1)
  np.testing.assert_allclose(losses.distillation(logits, teacher, temperature), expected, rtol=1e-4)


def test_distillation_is_zero_for_the_teacher_itself_and_sends_it_no_gradient(logits):
  np.testing.assert_array_equal(losses.distillation(logits, logits, 2.0), 0)
  to_teacher = jax.grad(lambda teacher: losses.distillation(logits, teacher).sum())(logits * 0.5)
  np.testing.assert_array_equal(to_teacher, 0)


def test_distillation_gradient_does_not_shrink_with_the_temperature(logits):
  """For large T it tends to (z - v) / C, z and v the centred logits of student and teacher (Hinton, section 2.1)."""
  teacher = logits[::-1]
  grad = jax.grad(lambda student: losses.distillation(student, teacher, 1e3).sum())(logits)
  centre = lambda a: a - a.mean(-1, keepdims=True)
  # the remainder of the limit is of the order of logits / T, under 1%
  np.testing.assert_allclose(grad, (centre(logits) - centre(teacher)) / 5, rtol=1e-2, atol=1e-2)
