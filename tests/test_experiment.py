import dataclasses
import json

import jaxtyping
import pytest

from nasformer import attention, config
from nasformer.attention.cosformer import CosFormer
from nasformer.experiment import Experiment, Limits, Search, Training
from nasformer.registry import lookup
from nasformer.score import TABLE as SCORES
from nasformer.space.tiny import Tiny
from nasformer.space.translation import TinyTranslation
from nasformer.train.optimizer import Optimizer
from nasformer.types import UserError


def close(**fields):
  return config.close(Experiment, config.open_up(Experiment(**fields)))


def test_defaults_are_complete():
  """Every name becomes its component, and the kinds of the space get their settings."""
  experiment = close()
  assert isinstance(experiment.space, Tiny)
  assert experiment.kinds == {name: lookup(attention.TABLE, name)() for name in experiment.space.kinds}
  again = {field.name: getattr(experiment, field.name) for field in dataclasses.fields(experiment)}
  assert close(**again) == experiment


def test_json_and_back():
  experiment = close(seeds=(3, 5), search=Search(limits=Limits(flops=1e6), arms={"a-1": "depth=2"}),
                     train=Training(optimizer=Optimizer(peak_lr=0.5)))
  tree = json.loads(json.dumps(config.to_json(experiment)))
  assert config.from_json(Experiment, tree) == experiment
  assert tree["search"]["limits"] == {"params": None, "flops": 1e6, "latency_ms": None, "memory_mb": None,
                                      "training_memory_mb": None, "attention_ms": None}


def test_kinds_keep_their_settings_and_the_order_of_the_space():
  experiment = close(space=Tiny(kinds=("linear", "cosformer")), kinds={"cosformer": CosFormer(causal=True)})
  assert list(experiment.kinds) == ["linear", "cosformer"] and experiment.kinds["cosformer"].causal


@pytest.mark.parametrize("module, kind, why", [
    ("encoder", "couplformer", "the patches of an image"), ("cross", "vicinity", "the patches of an image"),
    ("decoder", "eit", "the heads of 'eit' cannot divide a fixed width"),
    ("decoder", "sofmax", "unknown attention kind 'sofmax': did you mean 'softmax'")])
def test_kinds_that_cannot_be_in_a_space_are_refused_before_anything_is_read(module, kind, why):
  space = TinyTranslation(**{f"{module}_kinds": (kind,)})
  with pytest.raises(UserError, match=why):
    Experiment(space=space, task="translation", data="numbers")


TRAINING = {
    "steps": ({"steps": 0}, "steps=0: it must be at least 1"),
    "accumulate": ({"batch_size": 10, "accumulate": 3}, "accumulate=3 must divide batch_size=10"),
    "checkpoints": ({"report_every": 20, "checkpoint_every": 50},
                    "checkpoint_every=50 must be a multiple of report_every=20"),
    "average": ({"ema_decay": 1.0}, "ema_decay=1.0: it must be at least 0 and below 1"),
    "warm-up": ({"steps": 10, "optimizer": Optimizer(warmup_steps=10)},
                "warmup_steps=10 must be less than the 10 steps"),
}


@pytest.mark.parametrize("case", TRAINING)
def test_trainings_that_cannot_be(case):
  fields, message = TRAINING[case]
  with pytest.raises(UserError, match=message):
    Training(**fields)


SEARCH = {
    "generations": ({"generations": 0}, "generations=0"),
    "chunk": ({"chunk": -1}, "chunk=-1"),
    "margin": ({"margin": -0.5}, "margin=-0.5"),
    "no arm": ({"arms": {}}, "give at least one"),
    "name of the hand-made": ({"arms": {"baseline": ""}}, "none named 'baseline'"),
    "name that is a path": ({"arms": {"../x": ""}}, "letters, digits"),
}


@pytest.mark.parametrize("case", SEARCH)
def test_searches_that_cannot_be(case):
  fields, message = SEARCH[case]
  with pytest.raises(UserError, match=message):
    Search(**fields)


@pytest.mark.parametrize("name", SCORES)
def test_a_score_leads_a_search_and_a_cost_does_not(name):
  if name == "bleu":
    with pytest.raises(UserError, match="search.score='bleu' needs a task that makes text"):
      close(search=Search(score=name))
  elif hasattr(lookup(SCORES, name), "value"):
    assert close(search=Search(score=name)).search.score == lookup(SCORES, name)()
  else:
    with pytest.raises(UserError, match="only 'accuracy', 'loss' and 'bleu' can lead a search; costs are given as"):
      close(search=Search(score=name))


def test_objectives_as_a_flag_has_them():
  assert Search(minimise=("flops,latency_ms", "params")).minimise == ("flops", "latency_ms", "params")


def test_limits():
  assert Limits(params=1e6, latency_ms=2.0).counted() == {"params": 1e6}
  with pytest.raises(UserError, match="flops=0.0: a limit must be above 0; leave it out for none"):
    Limits(flops=0.0)


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_seeds_that_cannot_be(seeds):
  with pytest.raises(UserError, match="give one or more different numbers from 0"):
    close(seeds=seeds)


def test_projections_are_shared_in_known_ways():
  """The annotation may come first."""
  with pytest.raises((UserError, jaxtyping.TypeCheckError), match="'values'"):
    close(share_projections="queries")
