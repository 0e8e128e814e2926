import json

from nasformer.types import EncoderSpec, LayerSpec, Limit, UserError, first_line

SPEC = EncoderSpec(32, (LayerSpec("softmax", 2, 16, 64), LayerSpec("cosformer", 4, 16, 32)))


def test_a_spec_survives_json_and_is_hashable():
  assert EncoderSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC
  assert len({SPEC, EncoderSpec.from_json(SPEC.to_json())}) == 1


def test_depth_is_the_number_of_layers():
  assert SPEC.depth == 2
  assert EncoderSpec(32, ()).depth == 0


def test_first_line_is_what_the_list_prints():
  assert first_line(Limit) == 'A hard upper limit on a cost, such as Limit("flops", 2e8).'
  assert first_line(object.__new__) and not first_line(type("Bare", (), {}))


def test_a_user_error_is_a_value_error():
  assert issubclass(UserError, ValueError)
