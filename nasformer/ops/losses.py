"""Losses of classification, one number per example, computed in float32 whatever the type of the logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def smoothed_cross_entropy(
    logits: Float[Array, "*B C"], labels: Int[Array, "*B"], smoothing: float = 0.0
) -> Float[Array, "*B"]:
  """Cross entropy with smoothed labels: (1 - ε) (-log p_y) + ε/C Σ_c (-log p_c).

  Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", section 7.

  Args:
    logits: unnormalised log-probabilities.
    labels: the true class y.
    smoothing: ε, the probability that is spread evenly over all classes, the true one included.
  """
  logits = logits.astype(jnp.float32)
  chosen = labels[..., None] == jnp.arange(logits.shape[-1])  # a gather would scatter a whole array of gradients
  true = jnp.where(chosen, logits, 0).sum(-1)
  return jax.nn.logsumexp(logits, -1) - (1 - smoothing) * true - smoothing * logits.mean(-1)


def distillation(
    logits: Float[Array, "*B C"], teacher_logits: Float[Array, "*B C"], temperature: float = 1.0
) -> Float[Array, "*B"]:
  """Divergence of the student from its teacher: T² KL(softmax(teacher / T) || softmax(student / T)).

  T² keeps the size of the gradient independent of the temperature. No gradient reaches the teacher.
  Source: Hinton et al. 2015, arXiv 1503.02531, section 2.

  Args:
    logits: of the student.
    teacher_logits: of the teacher, such as the largest member of the supernet.
    temperature: T, above 1 softens both distributions.
  """
  student = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
  teacher = jax.nn.log_softmax(jax.lax.stop_gradient(teacher_logits).astype(jnp.float32) / temperature)
  return temperature**2 * (jnp.exp(teacher) * (teacher - student)).sum(-1)
