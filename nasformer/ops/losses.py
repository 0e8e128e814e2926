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


@jax.custom_jvp
def pairwise_logistic(
    scores: Float[Array, "E"], targets: Float[Array, "E"], weights: Float[Array, "E"]
) -> Float[Array, ""]:
  """How badly scores order pairs: mean of log(1 + exp(-(s_i - s_j))) over all pairs with y_i > y_j.

  It is the cross entropy of P(i better than j) = sigmoid(s_i - s_j). Pairs that are tied in the targets are left out;
  0 if all are. Source: RankNAS, arXiv 2109.07383 (ranking as binary classification of pairs); RankNet, Burges et al. 2005.
  It has slopes in the scores alone, which cost one tanh for each pair.

  Args:
    scores: of the model.
    targets: larger is better.
    weights: of the rows; a pair weighs their product. Where 0, targets may be NaN and scores anything finite.
  """
  pairs = jnp.where(targets[:, None] > targets, weights[:, None] * weights, 0)
  losses = jax.nn.softplus(scores - scores[:, None])  # [i, j]: -(s_i - s_j)
  return (pairs * losses).sum() / jnp.maximum(pairs.sum(), jnp.finfo(jnp.float32).tiny)


def _pairwise_change(
    change: Float[Array, "E"], loss: Float[Array, ""], scores: Float[Array, "E"], targets: Float[Array, "E"],
    weights: Float[Array, "E"],
) -> Float[Array, ""]:
  """By ∂/∂s_i = ½ w_i Σ_j w_j (|σ_ij| tanh((s_i - s_j) / 2) - σ_ij) / Σ pairs, σ_ij being the sign of y_i - y_j."""
  better = targets[:, None] > targets
  sign = better.astype(scores.dtype) - better.T
  slope = weights * ((jnp.abs(sign) * jnp.tanh((scores[:, None] - scores) / 2) - sign) @ weights)
  return slope @ change / jnp.maximum(weights @ jnp.abs(sign) @ weights, jnp.finfo(jnp.float32).tiny)


pairwise_logistic.defjvps(_pairwise_change, None, None)
