"""What a task is: a frozen dataclass that binds network, loss and metrics, with these methods.

  `build(info, space, kinds)`            the network family for this data and this space
  `prepare(key, batch)`                  a training batch, augmented
  `inputs(batch)`                        what the network takes of a batch
  `loss(logits, batch)`                  training loss of each example
  `distillation(logits, teacher, batch)` the same where a larger network is the teacher
  `metrics(logits, batch)`               numbers per example that add up, among them "loss", "accuracy" and "count"
  `example(net, batch_size)`             what a network takes, filled with zeros
  `timed(network)`                       what latency is measured on
  `prefill(network)`                     the part of that which reads before it writes word by word; None where none is written
  `judge(network, params, split, info, limit)` what is measured once, in the end, such as BLEU
  `compare(outputs, baseline, split)`    how what two networks made of it differs, where `judge` gives "outputs" (lines of text)
  `facts(net, spec)`                     what is to be told of a network beside its costs
  `signatures(info)`                     how exactly the metrics of `judge` were computed
  `deployed(network, info, workdir)`     what people use: (params, anything) -> anything
  `headline`                             the metric that networks are compared by in the end
"""

from typing import Any, Mapping, Sequence

from nasformer.types import UserError


def check_parts(task: str, info: Any, info_type: type, data: str, space: Any, space_type: type, what: str) -> None:
  """Refuses a data set or a space of another task.

  Args:
    task: name of the task.
    info: of the data set.
    info_type: what it must be.
    data: the same in words.
    space: the space.
    space_type: what it must be.
    what: the same in words.

  Raises:
    UserError: one of them is something else.
  """
  if not isinstance(info, info_type):
    raise UserError(f"the task {task!r} needs {data}, which the data set {info.name!r} is not")
  if not isinstance(space, space_type):
    raise UserError(f"the task {task!r} needs {what}, which {type(space).__name__} is not")


def check_reach(kinds: Mapping[str, Any], names: Sequence[str], module: str, positions: int, what: str) -> None:
  """Refuses attention kinds that cannot take what will come, be it after hours of training.

  Args:
    kinds: all kinds by name.
    names: those of the module.
    module: "encoder", "decoder" or "cross".
    positions: most that will come there.
    what: these positions, in words.

  Raises:
    UserError: one of the kinds has a `max_length` below that.
  """
  for name, kind in kinds.items():
    longest = kind.longest(module) if name in names else None
    if longest is not None and longest < positions:
      raise UserError(f"kinds.{name}.max_length={longest} is shorter than the {positions} positions of {what}: raise it to"
                      f" {positions}")
