"""Makes the members of a training from configs: one for each fold, and in studies for each seed and variant."""

import dataclasses
import pathlib
import subprocess
from collections.abc import Mapping, Sequence

import jax
import numpy as np

import jaxfer
from jaxfer import config as configuration
from jaxfer.config import RunConfig
from jaxfer.data import folds, records, stream
from jaxfer.study import inputs, pretrained
from jaxfer.study.split import folds_of, split_of
from jaxfer.study.task import Task, options_of, task_of
from jaxfer.train import members, memory, processes, weights
from jaxfer.train.stage import Variables
from jaxfer.train.state import SNAPSHOT

# Number of classes above which nothing is written per class. A confusion matrix of CASIA-WebFace's 10,572 people would
# take a GB.
MANY = 200


@dataclasses.dataclass(frozen=True)
class Run:
  """The trainings of a config: a single one, or one per fold if the config has folds and does not choose one.

  Attributes:
    tasks: name of a training -> its task. A single training has the name "".
    splits: name of a training -> its split of the records.
    training: all trainings, as members of one `Training`.
    notes: log lines that describe the weights that the trainings start from.
  """

  tasks: Mapping[str, Task]
  splits: Mapping[str, folds.Split]
  training: members.Training
  notes: Sequence[str]


def prepare(config: RunConfig, data: records.Records, *, trains: bool = True) -> Run:
  """Builds the model and splits the records. Nothing is compiled yet.

  Args:
    config: config of the run.
    data: records of the config, with the classes that its recipe learns; see `task.relabelled`.
    trains: whether the run will be trained. If so, the weights that it starts from are read.
  """
  return set_up(task_of(config, data), trains=trains)


def set_up(task: Task, *, trains: bool = True) -> Run:
  """Splits the records of a task; `trains` is as in `prepare`."""
  config = task.config
  tasks = {
    name: dataclasses.replace(task, config=fold) for name, fold in fold_configs(config, task.records).items()
  }
  initial, notes = None, []
  if trains and config.init_from:
    given_weights = weights.load_weights(pathlib.Path(config.init_from))
    initial, note = pretrained.load_pretrained(task, *given_weights, config.init_from)
    notes.append(note)
  if trains:
    pretrained.check_pretrained(task, initial)
  training, splits = training_of(tasks, dict.fromkeys(tasks, initial), config.init_from or "")
  # Runs are calibrated on their validation records. Outputs for thousands of classes would not fit into memory twice.
  assert training.evaluation is not None
  if len(task.records.label_names) <= MANY:
    own = dataclasses.replace(training.evaluation, validation=True)
    training = dataclasses.replace(training, evaluation=own)
  return Run(tasks, splits, training, notes)


def training_of(
  tasks: Mapping[str, Task], initial: Mapping[str, Variables | None], origin: str
) -> tuple[members.Training, dict[str, folds.Split]]:
  """Makes one training of tasks that differ only in folds, seeds and numeric hyperparameters.

  If the members have different numbers of steps per epoch, the schedule of the longest one applies to all.

  Args:
    tasks: member name -> task.
    initial: member name -> variables that replace initial ones, or None.
    origin: description of where `initial` comes from.

  Returns:
    (training, splits), where the splits map member names to the members' splits of the records.
  """
  first = next(iter(tasks.values()))
  splits = {name: split_of(one.config, one.records) for name, one in tasks.items()}
  plans = {name: one.plan(np.flatnonzero(splits[name].train)) for name, one in tasks.items()}
  steps = max(plan.steps for plan in plans.values())
  stages, _ = first.stages(steps)
  own = [
    members.Member(
      name,
      one.config.seed,
      plans[name],
      one.hparams(steps, np.flatnonzero(splits[name].train)),
      validation=one.in_order(np.flatnonzero(splits[name].validation)),
      test=one.in_order(np.flatnonzero(splits[name].test)),
      initial=initial[name],
      origin=origin,
    )
    for name, one in tasks.items()
  ]
  evaluation = members.Evaluation(
    first.outputs, first.evaluate, first.test_batch, first.system.batch_dependent
  )
  record = {
    # The initial weights are identified by their digest and not by their folder.
    "config": {
      name: {**configuration.identity(one.config), "init_from": None} for name, one in tasks.items()
    },
    "data": first.records.fingerprint,
  }
  training = members.Training(
    stages, own, first.init, first.data, first.config.execution, evaluation, record, revision()
  )
  return training, splits


def keep(
  folder: pathlib.Path, task: Task, variables: Variables, inference_state: Mapping[str, np.ndarray]
) -> None:
  """Writes a training to a folder of weights, from which other trainings can start and which `jaxfer.load` reads.

  Args:
    folder: the folder of weights.
    task: the task of the training.
    variables: the trained variables. Their snapshot is left out.
    inference_state: the arrays of `System.inference_state`.
  """
  meta = {
    **inputs.description(task),
    "config": configuration.identity(task.config),
    "data": task.records.fingerprint,
    "label_names": list(task.records.label_names),
    **task.system.input_spec(task.model),
    "revision": revision(),
  }
  variables = {name: tree for name, tree in variables.items() if name != SNAPSHOT}
  weights.save_weights(folder, inputs.with_state(jax.device_get(variables), inference_state), meta)


def revision() -> str:
  """Returns the version of jaxfer, followed by the commit if it runs from a Git checkout."""
  root = pathlib.Path(jaxfer.__file__).parent
  try:
    commit = subprocess.run(
      ["git", "-C", root, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return jaxfer.__version__
  return f"{jaxfer.__version__}+{commit}"


def load_data(config: RunConfig, data_dir: pathlib.Path) -> records.Records:
  """Reads the data set of a config. A synthetic data set is generated on first use.

  A data set that is too big for the host's memory, or that the config streams, is only opened.
  """
  options_of("data", config.data)
  host = processes.smallest(stream.host_memory())
  room = None if host is None else int(host * memory.SHARE)
  limit = {"resident": None, "streamed": 0, "auto": room}[config.execution.placement]
  return stream.load(config.data.name, data_dir, config.data.options, limit)


def fold_configs(config: RunConfig, data: records.Records) -> dict[str, RunConfig]:
  """Returns the config of each training of a config, by name.

  If the config has folds and does not choose one, there is one training per fold, named "fold0", "fold1", and so on.
  Otherwise there is a single training with the name "".
  """
  if count := folds_of(config, data):
    return {
      f"fold{k}": dataclasses.replace(config, split=dataclasses.replace(config.split, fold=k))
      for k in range(count)
    }
  return {"": config}
