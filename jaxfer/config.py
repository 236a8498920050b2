"""The configuration of a run or a study: frozen dataclasses, one Python file each, `a.b=value` overrides, JSON.

A config names callables and their keyword arguments and never restates their defaults:

  def get_config() -> RunConfig:
    return RunConfig(
      model=Call("two_stream_conv_rnn", cell="conv_lstm"),
      data=Call("ckplus", num_frames=16),
      recipe=Call("two_stream_conv_rnn", epochs=100),
    )
"""

import ast
import dataclasses
import fnmatch
import json
import pathlib
import runpy
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from jaxfer.errors import UserError, unknown


@dataclasses.dataclass(frozen=True, init=False)
class Call:
  """A callable by its name in a registry, and keyword arguments for it."""

  name: str
  options: Mapping[str, Any]

  def __init__(self, name: str, /, **options: Any):
    object.__setattr__(self, "name", name)
    object.__setattr__(self, "options", {key: _frozen(value) for key, value in options.items()})


SplitKind = Literal["people", "leave_one_out", "per_class", "per_class_people", "distributed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
  """Who trains and who is tested, as masks over the records of `jaxfer.data.folds` and `.per_class`.

  Attributes:
    kind: "people": no subject is on both sides, by `folds` or `test`. "leave_one_out": a fold a subject. "per_class":
      `per_class` records of each class are tested, whoever they show (paper 000). "per_class_people": as many, of
      subjects whom no training saw. "distributed": as the distributor divided the set.
    folds: number of person-independent folds; 0 divides the subjects once, by `test`.
    fold: the fold that is tested; None trains one run a fold.
    test: share of the subjects that is tested where there are no folds.
    per_class: how many records of each class are tested.
    validation: share of the other subjects (with "per_class": records) that is held back to watch the training.
    seed: of the division; None draws it anew for each seed of the run, so that a study's seeds are tested on different
      records. Folds are dealt in the order of the subjects' names and need none.
  """

  kind: SplitKind = "people"
  folds: int = 0
  fold: int | None = None
  test: float = 0.2
  per_class: int = 10
  validation: float = 0.0
  seed: int | None = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
  """How a run is carried out; changes its numbers by rounding alone.

  Attributes:
    backend: "pmap", or "jit" with shardings.
    devices: how many; None takes the largest number at hand that divides the batch.
    driver: "scan" compiles many steps into one program; "steps" calls one step from the host, a third slower on two CPU
      cores for the nets of paper 001.
    steps_per_call: at most so many steps between two looks of the host at metrics, signals and checkpoints.
    checkpoint_seconds: least time between two checkpoints within a stage.
    keep: how many checkpoints stay.
    members: of a study, how the trainings of a row run: "vmap" makes one program of as many as the memory holds,
      "sequential" runs one after another through one program; "auto" takes "sequential" on CPU and "vmap" elsewhere.
    placement: of the data: "resident" on the devices, or "streamed" to them, a study's trainings then "sequential".
      "auto" streams what does not fit into half of a device's free memory, and leaves on disk what does not fit into
      half of the host's.
  """

  backend: Literal["pmap", "jit"] = "pmap"
  devices: int | None = None
  driver: Literal["scan", "steps"] = "scan"
  steps_per_call: int = 32
  checkpoint_seconds: float = 30.0
  keep: int = 2
  members: Literal["auto", "vmap", "sequential"] = "auto"
  placement: Literal["auto", "resident", "streamed"] = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
  """One training and how it is judged.

  Attributes:
    recipe: the system (a key of `jaxfer.experiments.EXPERIMENTS`) and its stages' numbers.
    model: a key of `jaxfer.models.MODELS` and its attributes.
    data: a key of `jaxfer.data.datasets.DATASETS` and its options.
    split: who trains and who is tested.
    batch_size: rows of a training batch, over all devices.
    remainder: "wrap" completes the last batch of an epoch with rows from its start, "drop" leaves the rest out.
    dtype: of the model's computation; parameters are float32.
    seed: of the parameters, the order of the rows, and every other draw.
    init_from: a folder of weights to start from, as `jaxfer convert` or a finished training (its folder `weights`)
      leaves it; the system says what it takes over. None starts from initial values.
    execution: devices, driver, checkpoints.
  """

  recipe: Call
  model: Call
  data: Call
  split: Split = Split()
  batch_size: int = 16
  remainder: Literal["drop", "wrap"] = "wrap"
  dtype: Literal["float32", "bfloat16"] = "float32"
  seed: int = 0
  init_from: str | None = None
  execution: Execution = Execution()


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a study's table: a variant of its base.

  Attributes:
    name: as the table shows it.
    overrides: of the base, such as "model.cell=conv_gru".
    published: the paper's accuracy, 0 to 1; None where it gives none.
    init_from: the name of an earlier row: each training starts from that of its seed and fold there. A folder that the
      base's `init_from` names takes the place of what they share: that row starts from it, and so do these. Or the name
      of one of the study's `sources`: then all trainings start from that one. Of a source itself: a folder of weights
      that takes the place of its training.
    scratch: whether it starts from initial values even where the base's `init_from` names a folder.
  """

  name: str
  overrides: tuple[str, ...] = ()
  published: float | None = None
  init_from: str | None = None
  scratch: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
  """A published table, or one like it: rows x folds x seeds of one training.

  Attributes:
    title: of the table.
    source: of the published accuracies, and what they were measured on.
    base: what the rows are variants of; its split says which folds.
    rows: of the table.
    seeds: of the trainings of each fold; or how many, counted on from the base's.
    compared: pairs of rows (one, other) whose paired difference, one minus other, the table reads.
    sources: trainings that rows start from without standing in the table: each once, with the first seed, before the
      first row that asks for it. `sources.NAME.data.seed=1` overrides a source's config, `sources.NAME=FOLDER` puts
      weights in its place, converted ones or those of another training; NAME may have wildcards, as file names do.
    presets: name -> overrides of `seeds`, of the base and of sources.
    preset: the one that holds where none is asked for.
    note: what a reader must know of the data or the comparison.
  """

  title: str
  source: str
  base: RunConfig
  rows: tuple[Row, ...]
  seeds: int | tuple[int, ...] = 1
  compared: tuple[tuple[str, str], ...] = ()
  sources: tuple[Row, ...] = ()
  presets: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  preset: str = "small"
  note: str = ""

  @property
  def named_seeds(self) -> tuple[int, ...]:
    """The seeds themselves.

    Raises:
      UserError: none, one twice, a negative one; or the base has a seed too, which would mean nothing.
    """
    if isinstance(self.seeds, int):
      named = tuple(range(self.base.seed, self.base.seed + self.seeds))
    elif self.base.seed:
      raise UserError(f"seed={self.base.seed}: this study names its seeds: give seeds=... instead")
    else:
      named = self.seeds
    if not named or len(set(named)) < len(named) or not all(isinstance(s, int) and s >= 0 for s in named):
      raise UserError(
        f"seeds={self.seeds}: a study needs at least one, each once: write how many, or (0, 10, 20)"
      )
    return named


# (field, call) -> the keyword arguments that the callable takes, with their types
OptionsOf = Callable[[str, Call], Mapping[str, Any]]


def read(path: str | pathlib.Path) -> RunConfig | StudyConfig:
  """Returns what `get_config()` of the Python file at `path` returns.

  Raises:
    UserError: no such file, or it does not define `get_config`.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"no config at {path}: `jaxfer list configs` names those of this directory")
  namespace = runpy.run_path(str(path))
  if "get_config" not in namespace:
    raise UserError(f"{path} is no config: it defines no get_config()")
  return namespace["get_config"]()


def load(path: str | pathlib.Path) -> RunConfig:
  """Reads a run's config; raises `UserError` as `read` does, and where the file describes a study."""
  config = read(path)
  if isinstance(config, StudyConfig):
    raise UserError(f"{path} describes a study: run it by `jaxfer study {path}`")
  return config


def load_study(path: str | pathlib.Path) -> StudyConfig:
  """Reads a study; raises `UserError` as `read` does, and where the file describes a run."""
  study = read(path)
  if isinstance(study, RunConfig):
    raise UserError(f"{path} describes a single run: train it by `jaxfer train {path}`")
  return study


def override(config: RunConfig, assignments: Iterable[str], options_of: OptionsOf) -> RunConfig:
  """Returns the config with each `a.b=value` applied.

  Args:
    config: to start from.
    assignments: such as "batch_size=8", "split.fold=3", "model.temporal_gate=false" (an option of the model),
      "model.name=..." (another model of the same options), "data=..." (another data set, without options). Values are
      read by the type of what they are given to.
    options_of: says which options a `Call` takes.

  Raises:
    UserError: an unknown name (with the nearest valid one), a value that is not of its type, no "=".
  """
  for assignment in assignments:
    path, equals, text = assignment.partition("=")
    if not equals:
      raise UserError(f"override '{assignment}' has no '=': write name=value, such as batch_size=8")
    config = _assign(config, path.split("."), text, path, options_of)
  return config


def resolve(
  study: StudyConfig, preset: str | None, assignments: Iterable[str], options_of: OptionsOf
) -> tuple[StudyConfig, dict[str, RunConfig]]:
  """Applies a preset, then overrides, to a study's base and to `seeds`.

  Args:
    study: as its file describes it.
    preset: one of its presets, or None for its own choice.
    assignments: as for `override`, "seeds=3" or "seeds=(0, 10, 20)", "rows=('one', 'another')" for some rows alone, and
      those of sources, see `StudyConfig`.
    options_of: as for `override`.

  Returns:
    The study, without further presets and with the sources that its rows need, which hold what was assigned to them;
    and each row's config by the row's name.

  Raises:
    UserError: no such preset; as `override`, `check` and `StudyConfig.named_seeds`; an override of what a row sets;
      rows or sources of one name, or a source that is no single training.
  """
  preset = study.preset if preset is None else preset
  if preset not in study.presets:
    raise unknown("preset", preset, study.presets)
  given = (*study.presets[preset], *assignments)
  for assignment in given:
    key, equals, text = assignment.partition("=")
    if key == "rows" and equals:
      study = _some_rows(study, parse(text, tuple[str, ...], key))
  owners = {key.partition("=")[0]: row.name for row in study.rows for key in row.overrides}
  seeds, base = study.seeds, study.base
  for assignment in given:
    key, equals, text = assignment.partition("=")
    if key == "rows" and equals:
      continue
    if key.startswith("sources.") and equals:
      study = _assign_sources(study, key.removeprefix("sources."), text)
      continue
    if key in owners:
      raise UserError(
        f"{key} differs from row to row of this study (row '{owners[key]}' sets it): leave it out"
      )
    if key == "seeds" and equals:
      seeds = parse(text, int | tuple[int, ...], key)
    else:
      base = override(base, [assignment], options_of)
  rows = {row.name: check(override(base, row.overrides, options_of), options_of) for row in study.rows}
  if not rows or len(rows) < len(study.rows):
    raise UserError(
      f"{len(study.rows)} rows of {len(rows)} names: a study needs rows, each of a name of its own"
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
  """The config of each source of a resolved study, by its name.

  Raises:
    UserError: as `override` and `check`; a name that is not its own, more than one training, a base with `init_from`.
  """
  names = [each.name for each in (*study.sources, *study.rows)]
  if repeated := [source.name for source in study.sources if names.count(source.name) > 1]:
    raise UserError(f"source '{repeated[0]}': another source or row has this name, give it one of its own")
  if study.sources and study.base.init_from:
    raise UserError(
      f"init_from={study.base.init_from}: this study's rows start from sources of their own: put weights in the place "
      f"of one, such as 'sources.{study.sources[0].name}={study.base.init_from}'"
    )
  configs = {}
  for source in study.sources:
    config = check(override(study.base, source.overrides, options_of), options_of)
    if config.split.fold is None and (config.split.folds or config.split.kind == "leave_one_out"):
      raise UserError(f"source '{source.name}' would be a training a fold: give it split.folds=0, or a fold")
    configs[source.name] = config
  return configs


def _assign_sources(study: StudyConfig, pattern: str, text: str) -> StudyConfig:
  """Gives every source whose name matches an override more, or a folder of weights in its place.

  Args:
    study: whose sources.
    pattern: name and key ("faces*.data.seed"), or the name alone.
    text: the value.

  Raises:
    UserError: no source matches.
  """
  name, _, key = pattern.partition(".")
  if not any(fnmatch.fnmatchcase(source.name, name) for source in study.sources):
    raise unknown("source", name, [source.name for source in study.sources])

  def given(source: Row) -> Row:
    if not fnmatch.fnmatchcase(source.name, name):
      return source
    if not key:
      return dataclasses.replace(source, init_from=text)
    return dataclasses.replace(source, overrides=(*source.overrides, f"{key}={text}"))

  return dataclasses.replace(study, sources=tuple(map(given, study.sources)))


def _some_rows(study: StudyConfig, names: Sequence[str]) -> StudyConfig:
  """The study with these of its rows, and the comparisons among them.

  Raises:
    UserError: no such row, or one that starts from a row that is left out.
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
  """Returns the config.

  Raises:
    UserError: a call names an option that its callable does not take, or the split a number that its kind does not.
  """
  _check_split(config.split)
  for field in dataclasses.fields(config):
    call = getattr(config, field.name)
    if isinstance(call, Call):
      for name in call.options:
        if name not in (valid := options_of(field.name, call)):
          raise unknown(f"option of {field.name} '{call.name}'", name, valid)
  return config


def _check_split(split: Split) -> None:
  if split.kind not in typing.get_args(SplitKind):
    raise unknown("value of split.kind", split.kind, typing.get_args(SplitKind))
  if split.folds and split.kind != "people":
    raise UserError(
      f"split.folds={split.folds} means nothing to split.kind={split.kind}: leave one of them out"
    )
  if split.fold is not None and not split.folds and split.kind != "leave_one_out":
    raise UserError(f"split.fold={split.fold} without folds: give split.folds, or leave it out")


def _assign(node, path, text, whole, options_of):
  name, *rest = path
  hints = typing.get_type_hints(type(node))
  if name not in hints:
    raise unknown("config key", whole, _keys(node, whole.removesuffix(".".join(path)), options_of))
  value = getattr(node, name)
  if isinstance(value, Call):
    if not rest:
      options_of(name, Call(text))  # Refuses an unknown one.
      return dataclasses.replace(node, **{name: Call(text)})
    return dataclasses.replace(
      node, **{name: _assign_option(name, value, ".".join(rest), text, whole, options_of)}
    )
  if dataclasses.is_dataclass(value):
    if not rest:
      raise unknown("config key", whole, _keys(value, f"{whole}.", options_of))
    return dataclasses.replace(node, **{name: _assign(value, rest, text, whole, options_of)})
  if rest:
    raise unknown("config key", whole, _keys(node, whole.removesuffix(".".join(path)), options_of))
  return dataclasses.replace(node, **{name: parse(text, hints[name], whole)})


def _assign_option(field: str, call: Call, option: str, text: str, whole: str, options_of: OptionsOf) -> Call:
  if option == "name":
    return Call(text, **call.options)
  valid = options_of(field, call)
  if option not in valid:
    raise unknown("config key", whole, [f"{field}.{name}" for name in ("name", *valid)])
  return Call(call.name, **{**call.options, option: parse(text, valid[option], whole)})


def _keys(node, prefix: str, options_of: OptionsOf) -> list[str]:
  return [f"{prefix}{field.name}" for field in dataclasses.fields(node)]


def parse(text: str, kind: Any, name: str) -> Any:
  """Reads `text` as a value of the type `kind`, for the key `name`.

  Raises:
    UserError: it is not of that type.
  """
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType):
    if type(None) in args and text.lower() == "none":
      return None
    errors = []
    for each in (a for a in args if a is not type(None)):
      try:
        return parse(text, each, name)
      except UserError as error:
        errors.append(error)
    raise errors[0]
  if origin is Literal:
    if text not in args:
      raise unknown(f"value of {name}", text, args)
    return text
  if kind is bool:
    if text.lower() not in ("true", "false"):
      raise UserError(f"{name}={text}: write true or false")
    return text.lower() == "true"
  if kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      raise UserError(f"{name}={text}: not {'a whole number' if kind is int else 'a number'}") from None
  if kind is str:
    return text
  try:
    value = _frozen(ast.literal_eval(text))
  except (ValueError, SyntaxError):
    value = text
  if origin is tuple and not isinstance(value, tuple):
    raise UserError(f"{name}={text}: write a tuple, such as (3, 3)")
  return value


def _frozen(value: Any) -> Any:
  """Lists as tuples, all the way down, so that a config equals itself after a trip through JSON."""
  return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def to_json(config: RunConfig) -> str:
  """The config as JSON text."""
  return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> RunConfig:
  """The config that `to_json` wrote."""

  def build(kind, tree):
    if kind is Call:
      return Call(tree["name"], **tree["options"])
    hints = typing.get_type_hints(kind)
    return kind(**{
      name: build(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
      for name, value in tree.items()
    })  # fmt: skip

  return build(RunConfig, json.loads(text))


def identity(config: RunConfig) -> dict[str, Any]:
  """What a run's numbers follow from, as JSON: all but `execution`."""
  tree = json.loads(to_json(config))
  del tree["execution"]
  return tree


def differences(one: RunConfig, other: RunConfig) -> list[str]:
  """Keys in which two configs differ, `execution` aside."""
  return tree_differences(identity(one), identity(other))


def tree_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
  """Keys in which two trees of JSON differ, as overrides name them.

  Two folders that `init_from` names are no difference: `experiments.given` compares the weights in them.
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
