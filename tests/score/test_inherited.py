import numpy as np
import pytest

from nasformer.score.inherited import Accuracy, Loss

MEANS = {"accuracy": np.array([0.1, 0.7, np.nan]), "loss": np.array([2.3, 0.9, np.nan])}


@pytest.mark.parametrize("score, want, unit", [(Accuracy(), [0.1, 0.7, np.nan], "fraction"),
                                               (Loss(), [-2.3, -0.9, np.nan], "nats")])
def test_larger_is_better_and_nan_stays(score, want, unit):
  np.testing.assert_array_equal(score.value(MEANS), want)
  assert np.nanargmax(score.value(MEANS)) == 1 and score.unit == unit
