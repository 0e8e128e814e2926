"""Random search draws from the domain and learns nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasformer.search.uniform import Uniform
from nasformer.types import UserError


def test_draws_the_domain_and_forgets_the_scores(toy):
  domain = toy.large
  strategy = Uniform(population=30)
  ask = jax.jit(lambda key, state: strategy.ask(key, state, domain))
  state = strategy.init(jax.random.key(0), domain)
  draw = ask(jax.random.key(1), state)
  assert draw.genes.shape == (30, domain.space.num_genes) and domain.meets(np.asarray(draw.genes)).all()
  told = strategy.tell(state, draw.genes, jnp.arange(30.0)[:, None])
  np.testing.assert_array_equal(ask(jax.random.key(1), told).genes, draw.genes)


def test_an_empty_population_is_refused():
  with pytest.raises(UserError, match="population=0"):
    Uniform(0)
