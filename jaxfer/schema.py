"""The dataclasses of a config: of a run, and of a study. `jaxfer.config` reads, changes and checks them."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from jaxfer.errors import UserError
from jaxfer.ranges import Count, CountOrZero, Part, Range, Seconds, Seed, Share, ShareBelowOne, Units
from jaxfer.values import check, frozen


@dataclasses.dataclass(frozen=True, init=False)
class Call:
  """A callable by its name in a registry, and keyword arguments for it."""

  name: str
  options: Mapping[str, Any]

  def __init__(self, name: str, /, **options: Any):
    object.__setattr__(self, "name", name)
    object.__setattr__(self, "options", {key: frozen(value) for key, value in options.items()})


SplitKind = Literal["people", "leave_one_out", "per_class", "per_class_people", "distributed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
  """Who trains and who is tested, as masks over the records of `jaxfer.data.folds` and `.per_class`.

  Attributes:
    kind: "people": no subject is on both sides, by `folds` or `test`. "leave_one_out": a fold a subject. "per_class":
      `per_class` records of each class are tested, whoever they show (paper 000). "per_class_people": as many, of
      subjects whom no training saw. "distributed": as the distributor divided the set.
    folds: number of person-independent folds, 2 or more; 0 divides the subjects once, by `test`.
    fold: the fold that is tested, 0 to folds - 1; None trains one run a fold.
    test: share of the subjects that is tested where there are no folds, above 0 and below 1.
    per_class: how many records of each class are tested.
    validation: share of the other subjects (with "per_class": records) that is held back to watch the training, from
      0 to below 1.
    seed: of the division; None draws it anew for each seed of the run, so that a study's seeds are tested on different
      records. Folds are dealt in the order of the subjects' names and need none.
  """

  kind: SplitKind = "people"
  folds: CountOrZero = 0
  fold: CountOrZero | None = None
  test: Part = 0.2
  per_class: Count = 10
  validation: ShareBelowOne = 0.0
  seed: Seed | None = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
  """How trainings are run. These options change the numbers by rounding only.

  Attributes:
    backend: maps the step of a single training over devices: "pmap", or "jit" of `shard_map`. The folds of a run and
      the trainings of a study always use "jit".
    devices: number of devices. None uses as many as possible: they share the batches of a training, and the trainings
      of a study also run side by side.
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
  driver: Literal["scan", "steps"] = "scan"
  steps_per_call: Count = 32
  checkpoint_seconds: Seconds = 30.0
  keep: Count = 2
  members: Literal["auto", "vmap", "sequential"] = "auto"
  placement: Literal["auto", "resident", "streamed"] = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
  """One training and how it is judged.

  Attributes:
    recipe: the system (a key of `jaxfer.systems.SYSTEMS`) and its stages' numbers.
    model: a key of `jaxfer.systems.MODELS` and its attributes.
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
  batch_size: Units = 16
  remainder: Literal["drop", "wrap"] = "wrap"
  dtype: Literal["float32", "bfloat16"] = "float32"
  seed: Seed = 0
  init_from: str | None = None
  execution: Execution = Execution()


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a study's table: a variant of its base.

  Attributes:
    name: as the table shows it.
    overrides: of the base, key -> value, such as {"model.cell": "conv_gru"}.
    published: the paper's accuracy, 0 to 1; None where it gives none.
    init_from: the name of an earlier row: each training starts from that of its seed and fold there. A folder that the
      base's `init_from` names takes the place of what they share: that row starts from it, and so do these. Or the name
      of one of the study's `sources`: then all trainings start from that one. Of a source itself: a folder of weights
      that takes the place of its training.
    scratch: whether it starts from initial values even where the base's `init_from` names a folder.
  """

  name: str
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  published: Share | None = None
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
    presets: name -> overrides of the base, of `seeds`, of `rows` (the names of those that are kept), and of sources.
    preset: the one that holds where none is asked for.
    note: what a reader must know of the data or the comparison.
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
    """The seeds themselves.

    Raises:
      UserError: there is none, or one twice, or one beyond 32 bits; or the base has a seed too, which would mean
        nothing.
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
