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


def test_pairwise_logistic_by_definition_and_its_slope():
  """Slope per item: -Σ over worse j of sigmoid(s_j - s_i) + Σ over better j of sigmoid(s_i - s_j), over the pairs."""
  rng = np.random.default_rng(0)
  scores, targets = rng.normal(size=9).astype(np.float32), rng.integers(0, 5, 9).astype(np.float32)
  loss, slope = jax.value_and_grad(losses.pairwise_logistic)(jnp.asarray(scores), jnp.asarray(targets), jnp.ones(9))
  total, pairs, wanted = 0.0, 0, np.zeros(9)
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  for i in range(9):
    for j in range(9):
      if targets[i] > targets[j]:
        total, pairs = total + np.log1p(np.exp(scores[j] - scores[i])), pairs + 1
        wanted[i] -= sigmoid(scores[j] - scores[i])
      elif targets[i] < targets[j]:
        wanted[i] += sigmoid(scores[i] - scores[j])
  np.testing.assert_allclose(loss, total / pairs, rtol=1e-5)
  np.testing.assert_allclose(slope, wanted / pairs, rtol=1e-4, atol=1e-6)


def test_pairwise_logistic_of_equal_scores_is_log_2():
  np.testing.assert_allclose(losses.pairwise_logistic(jnp.zeros(6), jnp.arange(6.0), jnp.ones(6)), np.log(2), rtol=1e-6)


def test_pairwise_logistic_without_rows_of_weight_0():
  scores, targets = jnp.array([1.0, 0.0, 5.0, 2.0]), jnp.array([1.0, 2.0, jnp.nan, 3.0])
  one = losses.pairwise_logistic(scores, targets, jnp.array([1.0, 1.0, 0.0, 1.0]))
  np.testing.assert_allclose(one, losses.pairwise_logistic(scores[jnp.array([0, 1, 3])], targets[jnp.array([0, 1, 3])],
                                                           jnp.ones(3)), rtol=1e-6)
  assert losses.pairwise_logistic(scores, jnp.ones(4), jnp.ones(4)) == 0
