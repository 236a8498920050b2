"""Reads, overrides and checks the configuration of a run or a study, and converts it to and from JSON.

A configuration is a frozen dataclass that a Python file returns. It names callables and their keyword arguments, and
does not repeat their defaults:

  def get_config() -> RunConfig:
    return RunConfig(
      model=Call("two_stream_conv_rnn", cell="conv_lstm"),
      data=Call("ckplus", num_frames=16),
      recipe=Call("two_stream_conv_rnn", epochs=100),
    )
"""

import dataclasses
import fnmatch
import json
import pathlib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxfer import config_file, files, values
from jaxfer.errors import UserError, unknown
from jaxfer.schema import Call, Execution, Row, RunConfig, Split, SplitKind, StudyConfig

__all__ = ["Call", "Execution", "Row", "RunConfig", "Split", "SplitKind", "StudyConfig"]

# (field, call) -> keyword arguments of the callable, with their types
OptionsOf = Callable[[str, Call], Mapping[str, Any]]


def read(path: str | pathlib.Path) -> RunConfig | StudyConfig:
  """Returns what `get_config()` of the Python file at `path` returns.

  Raises:
    UserError: as `config_file.run`; or the file returns neither a `RunConfig` nor a `StudyConfig`.
  """
  config, where = config_file.run(path)
  if not isinstance(config, RunConfig | StudyConfig):
    hint = ", is there a `return`" if config is None else ""
    raise UserError(
      f"{where}: get_config() returns {values.shown(config)}, no RunConfig or StudyConfig{hint}"
    )
  return config


def load(path: str | pathlib.Path) -> RunConfig:
  """Reads the config of a run; raises `UserError` as `read` does, or if the file describes a study."""
  config = read(path)
  if isinstance(config, StudyConfig):
    raise UserError(f"{path} describes a study: run it by `jaxfer study {path}`")
  return config


def load_study(path: str | pathlib.Path) -> StudyConfig:
  """Reads a study; raises `UserError` as `read` does, or if the file describes a run."""
  study = read(path)
  if isinstance(study, RunConfig):
    raise UserError(f"{path} describes a single run: train it by `jaxfer train {path}`")
  return study


def override(
  config: RunConfig, assignments: Iterable[str] | Mapping[str, Any], options_of: OptionsOf
) -> RunConfig:
  """Returns the config with each override applied.

  Args:
    config: the config to change.
    assignments: either a mapping, as in config files, such as {"batch_size": 8, "model.temporal_gate": False}, where
      the latter is an option of the model; or strings of the command line, such as "batch_size=8", whose values are
      parsed by the type of the field or option. "model.name" changes the model and keeps its options. "data" changes
      the data set and drops its options.
    options_of: returns the options that a `Call` accepts.

  Raises:
    UserError: a name is unknown (the message has the nearest valid one), a value has a wrong type, or "=" is missing.
  """
  for key, value in _pairs(assignments):
    config = _assign(config, key.split("."), value, key, options_of)
  return config


def _pairs(assignments: Iterable[str] | Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
  """Yields the key and value of each override."""
  if isinstance(assignments, Mapping):
    yield from assignments.items()
    return
  for assignment in assignments:
    key, equals, text = assignment.partition("=")
    if not equals:
      raise UserError(
        f"override {values.shown(assignment)} has no '=': write name=value, such as batch_size=8"
      )
    yield key, values.Text(text)


def resolve(
  study: StudyConfig, preset: str | None, assignments: Iterable[str], options_of: OptionsOf
) -> tuple[StudyConfig, dict[str, RunConfig]]:
  """Applies a preset and then overrides to a study.

  Args:
    study: the study, as read from its file.
    preset: one of its presets, or None for its default.
    assignments: overrides from the command line. They may name keys of the base, as for `override`; "seeds=3" or
      "seeds=(0, 10, 20)"; "rows=('one', 'another')" to keep only some rows; and keys of sources, see `StudyConfig`.
    options_of: as for `override`.

  Returns:
    The study, with the overrides applied, without presets, and with only the sources that its rows need; and the config
    of each row by the row's name.

  Raises:
    UserError: the preset is unknown, an override changes a key that a row sets, two rows or sources have the same name,
      or a source is more than one training; also as `override`, `check` and `StudyConfig.named_seeds`.
  """
  _check_study(study)
  preset = study.preset if preset is None else preset
  if preset not in study.presets:
    raise unknown("preset", preset, study.presets)
  given = [*study.presets[preset].items(), *_pairs(assignments)]
  for key, value in given:
    if key == "rows":
      study = _some_rows(study, values.read(value, tuple[str, ...], key))
  owners = {key: row.name for row in study.rows for key in row.overrides}
  seeds, base = study.seeds, study.base
  for key, value in given:
    if key == "rows":
      continue
    if key.startswith("sources."):
      study = _assign_sources(study, key.removeprefix("sources."), value)
      continue
    if key in owners:
      raise UserError(
        f"{key} differs from row to row of this study (row '{owners[key]}' sets it): leave it out"
      )
    if key == "seeds":
      seeds = values.read(value, typing.get_type_hints(StudyConfig, include_extras=True)["seeds"], key)
    else:
      base = override(base, {key: value}, options_of)
  rows = {row.name: _variant(base, row, options_of) for row in study.rows}
  if not rows or len(rows) < len(study.rows):
    raise UserError(
      f"rows: {len(study.rows)}, names: {len(rows)}; a study needs rows, and each needs a different name"
    )
  if strangers := [name for pair in study.compared for name in pair if name not in rows]:
    raise unknown("row", strangers[0], rows)
  for k, row in enumerate(study.rows):
    earlier = [other.name for other in (*study.sources, *study.rows[:k])]
    if row.init_from is not None and row.init_from not in earlier:
      raise unknown(f"row before '{row.name}' to start it from", row.init_from, earlier)
    if row.init_from is not None and row.scratch:
      raise UserError(f"row '{row.name}' is from scratch and starts from '{row.init_from}': leave one out")
  asked = {row.init_from for row in study.rows}
  study = dataclasses.replace(
    study,
    seeds=seeds,
    base=base,
    presets={},
    preset=preset,
    sources=tuple(source for source in study.sources if source.name in asked),
  )
  _ = study.named_seeds
  sources_of(study, options_of)
  return study, rows


def sources_of(study: StudyConfig, options_of: OptionsOf) -> dict[str, RunConfig]:
  """Returns the config of each source of a resolved study by name.

  Raises:
    UserError: the name of a source is not unique, a source is more than one training, or the base has `init_from`; also
      as `override` and `check`.
  """
  names = [each.name for each in (*study.sources, *study.rows)]
  if repeated := [source.name for source in study.sources if names.count(source.name) > 1]:
    raise UserError(f"source '{repeated[0]}': another source or row has this name, give it another name")
  if study.sources and study.base.init_from:
    raise UserError(
      f"init_from={study.base.init_from}: the rows of this study start from its sources: give weights for one of them, "
      f"such as 'sources.{study.sources[0].name}={study.base.init_from}'"
    )
  configs = {}
  for source in study.sources:
    config = _variant(study.base, source, options_of)
    if config.split.fold is None and (config.split.folds or config.split.kind == "leave_one_out"):
      raise UserError(
        f"source '{source.name}' would be one training per fold: set split.folds=0, or choose a fold with split.fold"
      )
    configs[source.name] = config
  return configs


def _variant(base: RunConfig, row: Row, options_of: OptionsOf) -> RunConfig:
  """Returns the config of a row or source of a study; raises as `override` and `check`."""
  return check(override(base, row.overrides, options_of), options_of)


def _assign_sources(study: StudyConfig, pattern: str, value: Any) -> StudyConfig:
  """Adds an override to every source that matches a pattern, or replaces these sources by a folder of weights.

  Args:
    study: the study.
    pattern: name pattern and key, such as "faces*.data.seed"; or only the name pattern, to set a folder.
    value: value of the key, or the folder.

  Raises:
    UserError: no source matches, or the folder is not a string.
  """
  name, _, key = pattern.partition(".")
  if not any(fnmatch.fnmatchcase(source.name, name) for source in study.sources):
    raise unknown("source", name, [source.name for source in study.sources])

  def given(source: Row) -> Row:
    if not fnmatch.fnmatchcase(source.name, name):
      return source
    if not key:
      return dataclasses.replace(source, init_from=values.read(value, str, f"sources.{name}"))
    # Options for the previous data set do not apply to a new one.
    kept = {each: old for each, old in source.overrides.items() if not each.startswith(f"{key}.")}
    return dataclasses.replace(source, overrides={**kept, key: value})

  return dataclasses.replace(study, sources=tuple(map(given, study.sources)))


def _some_rows(study: StudyConfig, names: Sequence[str]) -> StudyConfig:
  """Returns the study with only the named rows, and the comparisons between them.

  Raises:
    UserError: a row does not exist, or starts from a row that is left out.
  """
  every = {row.name: row for row in study.rows}
  for name in names:
    if name not in every:
      raise unknown("row", name, every)
    start = every[name].init_from
    if start is not None and start not in (*names, *(source.name for source in study.sources)):
      raise UserError(f"rows={tuple(names)}: '{name}' starts from '{start}': name that too")
  rows = tuple(row for row in study.rows if row.name in names)
  compared = tuple(pair for pair in study.compared if set(pair) <= set(names))
  return dataclasses.replace(study, rows=rows, compared=compared)


def check(config: RunConfig, options_of: OptionsOf) -> RunConfig:
  """Checks a config and returns it.

  Raises:
    UserError: a value has a wrong type or is outside its range, a call has an option that its callable does not accept,
      or the split sets an option that its kind does not use.
  """
  values.check(config, RunConfig, "")
  _check_split(config.split)
  for field in dataclasses.fields(config):
    call = getattr(config, field.name)
    if isinstance(call, Call):
      _check_options(field.name, call, call.options, options_of)
  _check_options("figures", config.recipe, config.figures, options_of)
  return config


def _check_options(field: str, call: Call, options: Mapping[str, Any], options_of: OptionsOf) -> None:
  valid = options_of(field, call) if options else {}
  for name, value in options.items():
    if name not in valid:
      raise unknown(f"option of {field} '{call.name}'", name, valid)
    values.check(value, valid[name], f"{field}.{name}")


def _check_split(split: Split) -> None:
  if split.folds == 1:
    raise UserError("split.folds=1: give 2 or more, or 0 to divide the people once, by split.test")
  if split.folds and split.kind != "people":
    raise UserError(
      f"split.folds={split.folds} means nothing to split.kind={split.kind}: leave one of them out"
    )
  if split.fold is not None and not split.folds and split.kind != "leave_one_out":
    raise UserError(f"split.fold={split.fold} without folds: give split.folds, or leave it out")
  if split.fold is not None and split.folds and split.fold >= split.folds:
    raise UserError(f"split.fold={split.fold} of split.folds={split.folds}: give 0 to {split.folds - 1}")


def _check_study(study: StudyConfig) -> None:
  """Checks types and ranges of the fields. The base is checked as part of each row's config."""
  for name, kind in typing.get_type_hints(StudyConfig, include_extras=True).items():
    if name != "base":
      values.check(getattr(study, name), kind, name)
  if not isinstance(study.base, RunConfig):
    raise UserError(f"base={values.shown(study.base)}: give a RunConfig(...)")


def _assign(node, path, given, whole, options_of):
  name, *rest = path
  hints = typing.get_type_hints(type(node), include_extras=True)
  if name not in hints:
    valid = _keys(node, whole.removesuffix(".".join(path)))
    raise unknown("config key", whole, valid + _owners(node, name, options_of))
  value = getattr(node, name)
  if name == "figures":
    call = _assign_option(name, Call(node.recipe.name, **value), ".".join(rest), given, whole, options_of)
    return dataclasses.replace(node, figures=call.options)
  if isinstance(value, Call):
    if not rest:
      call = Call(values.read(given, str, whole))
      options_of(name, call)  # Raises an error for an unknown name.
      return dataclasses.replace(node, **{name: call})
    return dataclasses.replace(
      node, **{name: _assign_option(name, value, ".".join(rest), given, whole, options_of)}
    )
  if dataclasses.is_dataclass(value):
    if not rest:
      raise unknown("config key", whole, _keys(value, f"{whole}."))
    return dataclasses.replace(node, **{name: _assign(value, rest, given, whole, options_of)})
  if rest:
    raise unknown("config key", whole, _keys(node, whole.removesuffix(".".join(path))))
  return dataclasses.replace(node, **{name: values.read(given, hints[name], whole)})


def _assign_option(
  field: str, call: Call, option: str, given: Any, whole: str, options_of: OptionsOf
) -> Call:
  if option == "name" and field != "figures":
    return Call(values.read(given, str, whole), **call.options)
  valid = options_of(field, call)
  if option not in valid:
    names = valid if field == "figures" else ("name", *valid)
    raise unknown("config key", whole, [f"{field}.{name}" for name in names])
  return Call(call.name, **{**call.options, option: values.read(given, valid[option], whole)})


def _owners(node, option: str, options_of: OptionsOf) -> list[str]:
  """Returns the full keys of an option that was given without its prefix, such as "recipe."."""
  calls = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
  return [
    f"{name}.{option}"
    for name, call in calls.items()
    if isinstance(call, Call) and option in options_of(name, call)
  ]


def _keys(node, prefix: str) -> list[str]:
  return [f"{prefix}{field.name}" for field in dataclasses.fields(node)]


def to_json(config: RunConfig) -> str:
  """Returns a config as JSON text."""
  return files.to_json(dataclasses.asdict(config))


def from_json(text: str) -> RunConfig:
  """Reads a config from `to_json`; raises ValueError for text that this version of jaxfer did not write."""
  return from_tree(json.loads(text))


def from_tree(tree: Any) -> RunConfig:
  """Makes a config from parsed JSON; raises ValueError if a key is missing or unknown, or a part has a wrong form."""

  def build(kind, tree, where):
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(tree, dict):
      raise ValueError(f"'{where}' is not an object")
    if odd := [name for name in (*names, *tree) if (name in names) != (name in tree)]:
      raise ValueError(f"{where} {'lacks' if odd[0] in names else 'has an unknown'} {values.shown(odd[0])}")
    if kind is Call:
      if not isinstance(tree["name"], str) or not isinstance(tree["options"], dict):
        raise ValueError(f"{where} is not a call with a name and options")
      return Call(tree["name"], **tree["options"])
    hints = typing.get_type_hints(kind)
    return kind(**{
      name: build(hints[name], value, name) if dataclasses.is_dataclass(hints[name]) else value
      for name, value in tree.items()
    })  # fmt: skip

  return build(RunConfig, tree, "the configuration")


def identity(config: RunConfig) -> dict[str, Any]:
  """Returns the part of a config that determines its numbers, as parsed JSON: all but `execution` and `figures`."""
  tree = json.loads(to_json(config))
  del tree["execution"], tree["figures"]
  return tree


def differences(one: RunConfig, other: RunConfig) -> list[str]:
  """Returns the keys in which two configs differ, without those of `execution` and `figures`."""
  return tree_differences(identity(one), identity(other))


def tree_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
  """Returns the keys in which two trees of JSON differ, in the form of overrides.

  Different folders in `init_from` do not count as a difference, because `study.given` compares the weights in them.
  """

  def flat(tree):
    leaves = {}

    def walk(prefix, node):
      for key, value in node.items():
        if isinstance(value, dict):
          walk(f"{prefix}{key}." if key != "options" else prefix, value)
        else:
          leaves[prefix + key] = value

    walk("", tree)
    return leaves

  a, b = flat(one), flat(other)
  given = {key for key in {*a} & {*b} if key.split(".")[-1] == "init_from" and a[key] and b[key]}
  return [key for key in sorted({*a, *b} - given) if a.get(key) != b.get(key)]
