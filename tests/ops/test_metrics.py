import jax.numpy as jnp
import numpy as np

from nasformer.ops import metrics


def test_correct_compares_the_largest_logit_with_the_label():
  logits = jnp.array([[0.0, 2.0, 1.0], [3.0, -1.0, 0.0], [0.0, 1.0, 5.0]])
  np.testing.assert_array_equal(metrics.correct(logits, jnp.array([1, 2, 2])), [True, False, True])


def test_a_row_with_nan_is_never_correct():
  logits = jnp.array([[jnp.nan, 2.0], [1.0, 2.0]])
  for label in (0, 1):
    assert not metrics.correct(logits, jnp.full(2, label))[0]


def test_weighted_mean_of_examples_leaves_padding_out_even_if_it_is_nan():
  values = jnp.array([[1.0, 3.0, jnp.nan], [0.0, 1.0, 7.0]])
  np.testing.assert_allclose(metrics.weighted_mean(values, jnp.array([True, True, False])), [2.0, 0.5])


def test_weighted_mean_of_batches_equals_the_mean_of_all_examples():
  correct = np.array([1, 0, 1, 1, 1, 0, 0, 1, 1, 1], bool)
  parts = np.split(correct, [4, 8])
  means, sizes = jnp.array([part.mean() for part in parts]), jnp.array([part.size for part in parts])
  np.testing.assert_allclose(metrics.weighted_mean(means, sizes), 0.7, rtol=1e-6)
  np.testing.assert_allclose(metrics.weighted_mean(jnp.asarray(correct), jnp.ones(10)), 0.7, rtol=1e-6)
