"""Loads weights of another training, from which a training starts: selects submodules and checks that they fit."""

from collections.abc import Mapping
from typing import Any

import jax

from jaxfer.errors import UserError
from jaxfer.study.task import Task
from jaxfer.train.stage import Variables


def load_pretrained(
  task: Task, given: Variables, meta: Mapping[str, Any], source: str
) -> tuple[Variables, str]:
  """Selects the variables of another training from which a training starts.

  Args:
    task: the task that starts from them.
    given: variables of another training, or converted ones.
    meta: the metadata stored with them. Their input specification must be that of this model, except for the
      "input_size" of a model that takes any size (`System.takes_any_size`). If a submodule is selected that depends on
      the classes, their `label_names` must be those of the data.
    source: description of where the variables come from.

  Returns:
    (variables, line), where the line describes for the log what was selected, and warns of another "input_size".

  Raises:
    UserError: the variables do not fit this model.
  """
  taken, names = task.system.load_pretrained(task.model, given), meta.get("label_names")
  modules = _modules(task, taken["params"])
  bound = [name for name in modules if name not in task.system.label_free]
  if bound and names is not None and tuple(names) != task.records.label_names:
    raise UserError(
      f"init_from: {source} names its classes {', '.join(names)}, the data {', '.join(task.records.label_names)}: "
      "give data of the same classes in the same order"
    )
  warning = _check_images(task, meta, source)
  fresh = jax.eval_shape(task.init, jax.random.key(0))
  for name in taken["params"]:
    if name not in fresh["params"]:
      raise UserError(f"init_from: {source} gives '{name}', which {task.config.model.name} does not have")
  for name in modules:
    want, have = ({c: _at(tree, name) for c, tree in v.items()} for v in (fresh, taken))
    paths = [
      {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
      for tree in (want, have)
    ]
    if differing := sorted(k for k in {*paths[0], *paths[1]} if paths[0].get(k) != paths[1].get(k)):
      raise UserError(
        f"init_from: '{name}' of {source} is another net ({len(differing)} arrays differ, such as {differing[0]}: "
        f"{paths[1].get(differing[0])} for {paths[0].get(differing[0])}): give the same model options"
      )
  left = {name: tree for name, tree in fresh["params"].items() if name not in taken["params"]}
  for name in (name.partition("/")[0] for name in modules if "/" in name):
    rest = {f"{name}/{part}": tree for part, tree in fresh["params"][name].items()}
    left |= {part: tree for part, tree in rest.items() if part not in modules}
  line = f"taken over from {source}: {_named({name: _at(taken['params'], name) for name in modules})}"
  return taken, line + (f"; fresh: {_named(left)}" if left else "") + warning


def _modules(task: Task, taken: Mapping[str, Any]) -> list[str]:
  """Returns the names of the submodules that are taken over.

  A submodule whose parts may be taken over separately is replaced by the names of these parts, such as "rgb/trunk".
  """
  modules: list[str] = []
  for name, tree in taken.items():
    parts = [f"{name}/{part}" for part in tree]
    modules += parts if set(parts) <= set(task.system.label_free) else [name]
  return modules


def check_pretrained(task: Task, initial: Variables | None) -> None:
  """Checks that every submodule that needs trained weights is given completely; see `System.required_weights`.

  Args:
    task: the task.
    initial: the variables that the training starts from, or None.

  Raises:
    UserError: a submodule is missing or incomplete. The message names it, and the option of the recipe.
  """
  given = {} if initial is None else initial["params"]
  for name, option in task.system.required_weights(task.config.recipe.options).items():
    if name not in _modules(task, given):
      raise UserError(
        f"{option} does not train '{name}', and no trained '{name}' is given: name its folder of weights by init_from"
      )


def _check_images(task: Task, meta: Mapping[str, Any], source: str) -> str:
  """Returns a warning if weights were trained on images of another size than this model's, and it takes any size.

  Returns "" if they were trained on the same inputs.

  Raises:
    UserError: they were trained on other inputs, or do not specify their inputs.
  """
  warning = ""
  for name, want in task.system.input_spec(task.model).items():
    if name not in meta:
      raise UserError(
        f"init_from: {source} does not record its {name}: convert or train it again with this version"
      )
    have = meta[name]
    if (list(have) if isinstance(have, list | tuple) else have) != want:
      if name == "input_size" and task.system.takes_any_size(task.model):
        warning = f"; warning: it was trained with {name} {have}, this training reads {want}"
        continue
      raise UserError(
        f"init_from: {source} was trained with {name} {have}, this training reads {want}: set model.pictures or "
        "model.image_size as in that training"
      )
  return warning


def _at(tree: Any, path: str) -> Any:
  """Returns the part of a tree at a path such as "rgb/trunk", or None if there is none."""
  for name in path.split("/"):
    tree = None if tree is None else tree.get(name)
  return tree


def _named(params: Mapping[str, Any]) -> str:
  """Returns the names of submodules and their total number of parameters, in words."""
  return f"{', '.join(params)} ({sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters)"
