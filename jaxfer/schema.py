"""The dataclasses of the config of a run and of a study. `jaxfer.config` reads, changes and checks them."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from jaxfer.errors import UserError
from jaxfer.ranges import Count, CountOrZero, Part, Range, Seconds, Seed, Share, ShareBelowOne, Units
from jaxfer.values import check, frozen


@dataclasses.dataclass(frozen=True, init=False)
class Call:
  """The name of a callable in a registry, and keyword arguments for it."""

  name: str
  options: Mapping[str, Any]

  def __init__(self, name: str, /, **options: Any):
    object.__setattr__(self, "name", name)
    object.__setattr__(self, "options", {key: frozen(value) for key, value in options.items()})


SplitKind = Literal[
  "people", "people_per_set", "leave_one_out", "per_class", "per_class_people", "distributed"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
  """How records are split into training, validation and test; see `jaxfer.data.folds` and `jaxfer.data.per_class`.

  Attributes:
    kind: "people" puts each subject on one side only, by `folds` or `test`. "people_per_set" does so with data that are
      composed of several data sets: it tests `test_people` subjects, as equally many of each data set as possible
      (paper 003). "leave_one_out" makes one fold per subject.
      "per_class" tests `per_class` records of each class, whoever they show (paper 000). "per_class_people" also tests
      `per_class` records of each class, but only of subjects who are not in the training records. "distributed" uses
      the split of the distributor.
    folds: number of person-independent folds, at least 2; 0 splits the subjects once, by `test`.
    fold: the fold to test, 0 to folds - 1; None trains one model per fold.
    test: fraction of the subjects to test if there are no folds, above 0 and below 1.
    test_people: number of subjects to test with "people_per_set", of all data sets together.
    per_class: number of test records per class.
    validation: fraction of the remaining subjects (with "per_class": of the remaining records) that is used for
      validation, at least 0 and below 1.
    seed: seed of the split. None draws a new split for each seed of the run, so that the seeds of a study are tested on
      different records. Folds follow the order of the subjects' names and do not depend on the seed.
  """

  kind: SplitKind = "people"
  folds: CountOrZero = 0
  fold: CountOrZero | None = None
  test: Part = 0.2
  test_people: Count = 7
  per_class: Count = 10
  validation: ShareBelowOne = 0.0
  seed: Seed | None = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
  """How trainings are run. These options change the numbers by rounding only.

  Attributes:
    backend: maps the step of a single training over devices: "pmap", or "jit" of `shard_map`. The folds of a run and
      the trainings of a study always use "jit".
    devices: number of devices, of each process if there are several. None uses as many as possible: they share the
      batches of a training, and the trainings of a study also run side by side.
    distributed: whether the command runs as one of several processes that the environment describes, on one or more
      machines; see `cluster`. They use the backend "jit".
    driver: "scan" compiles many steps into one program. "steps" calls a program of one step from the host, which is a
      third slower on two CPU cores for the networks of paper 001.
    steps_per_call: largest number of steps between two checks of metrics, signals and checkpoints by the host.
    checkpoint_seconds: shortest time between two checkpoints within a stage, in seconds.
    keep: number of checkpoints to keep.
    members: how the folds of a run and the trainings of a study's row are run. "vmap" makes one program of as many as
      fit into memory. "sequential" runs one after another with the same program. "auto" means "sequential" on CPU and
      "vmap" elsewhere.
    placement: "resident" keeps the data on the devices. "streamed" sends each batch to them, and then trainings run
      "sequential". "auto" streams data that do not fit into half of a device's free memory, and leaves on disk what
      does not fit into half of the host's.
  """

  backend: Literal["pmap", "jit"] = "pmap"
  devices: Units | None = None
  distributed: bool = False
  driver: Literal["scan", "steps"] = "scan"
  steps_per_call: Count = 32
  checkpoint_seconds: Seconds = 30.0
  keep: Count = 2
  members: Literal["auto", "vmap", "sequential"] = "auto"
  placement: Literal["auto", "resident", "streamed"] = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
  """One training and its evaluation.

  Attributes:
    recipe: the system (a key of `jaxfer.systems.SYSTEMS`) and the options of its stages.
    model: a key of `jaxfer.systems.MODELS`, and attributes of the model.
    data: a key of `jaxfer.data.datasets.DATASETS`, and options of the data set.
    split: how records are split into training, validation and test.
    batch_size: number of examples in a training batch, over all devices.
    remainder: what happens to the last batch of an epoch: "wrap" fills it with examples from the start of the epoch,
      "drop" leaves it out.
    dtype: dtype of the model's computation. Parameters, statistics and losses are float32. "auto" means bfloat16 on
      accelerators and float32 elsewhere, see `study.task.with_dtype`. The work directory records the chosen dtype, and
      a training that is resumed keeps it on every device.
    seed: seed of the initial parameters, the order of the examples, and all other random numbers.
    init_from: folder of weights to start from: the output of `jaxfer convert`, or the folder `weights` of a finished
      training. The system determines which submodules are loaded. None starts from initial values.
    execution: devices, driver, checkpoints.
    figures: options of the figures that the system draws of a training, see `System.figure_options`. They change no
      training: `jaxfer train ... --resume` draws the figures of a finished run again with other options.
  """

  recipe: Call
  model: Call
  data: Call
  split: Split = Split()
  batch_size: Units = 16
  remainder: Literal["drop", "wrap"] = "wrap"
  dtype: Literal["auto", "float32", "bfloat16"] = "auto"
  seed: Seed = 0
  init_from: str | None = None
  execution: Execution = Execution()
  figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a study's table, which is a variant of the study's base.

  Attributes:
    name: name of the row in the table.
    overrides: overrides of the base, key -> value, such as {"model.cell": "conv_gru"}.
    published: accuracy in the paper, 0 to 1; None if the paper gives none.
    init_from: the weights to start from. The name of an earlier row: each training starts from that row's training of
      the same seed and fold. But if the `init_from` of the base names a folder, both rows start from that folder. The
      name of one of the study's `sources`: all trainings start from that pre-training. For a source itself, this is a
      folder of weights to use instead of training it.
    scratch: whether the row starts from initial values even if the `init_from` of the base names a folder.
  """

  name: str
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  published: Share | None = None
  init_from: str | None = None
  scratch: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
  """A study reproduces a published table, or makes a similar one, with rows x folds x seeds trainings.

  Attributes:
    title: title of the table.
    source: source of the published accuracies, and the data on which they were measured.
    base: config from which the rows are derived; its split determines the folds.
    rows: rows of the table.
    seeds: seeds with which each fold is trained; or their number, in which case they count up from the base's seed.
    compared: pairs of rows (one, other) whose paired difference, one minus other, the table reports.
    sources: pre-trainings, from which rows start. They are not rows of the table. Each is trained once, with the first
      seed, before the first row that needs it. `sources.NAME.data.seed=1` overrides the config of a source.
      `sources.NAME=FOLDER` uses the weights in a folder instead, either converted ones or those of another training.
      NAME may contain wildcards, as in file names.
    presets: name -> overrides of the base, of `seeds`, of `rows` (names of the rows to keep), and of sources.
    preset: name of the default preset.
    note: what a reader must know about the data or the comparison.
  """

  title: str
  source: str
  base: RunConfig
  rows: tuple[Row, ...]
  seeds: Annotated[int, Range(1, 10_000)] | tuple[Seed, ...] = 1
  compared: tuple[tuple[str, str], ...] = ()
  sources: tuple[Row, ...] = ()
  presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  preset: str = "small"
  note: str = ""

  @property
  def named_seeds(self) -> tuple[int, ...]:
    """The seeds as a tuple.

    Raises:
      UserError: there are no seeds, a seed occurs twice or needs more than 32 bits, or the base also sets a seed, which
        would have no effect.
    """
    if isinstance(self.seeds, int):
      named = tuple(range(self.base.seed, self.base.seed + self.seeds))
    elif self.base.seed:
      raise UserError(f"seed={self.base.seed}: this study names its seeds: give seeds=... instead")
    else:
      named = self.seeds
    if not named or len(set(named)) < len(named):
      raise UserError(
        f"seeds={self.seeds}: a study needs at least one, each once: write how many, or (0, 10, 20)"
      )
    for seed in named:
      check(seed, Seed, "seeds")
    return named
