"""Measures the time of the quickstart's training on this machine, and checks that it learns.

The training is that of configs/quickstart.py, with the same data, split, net, engine and epochs, and its accuracy is
measured on unseen people. The data are drawn directly into memory, without the file format of `jaxfer train`, so that
neither TensorFlow Datasets nor Grain is needed. The time is that of one training including compilation, without drawing
and evaluation. `agreement.error` is the share of wrong test records.
"""

import dataclasses
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import harness, machine
from benchmarks import records as results
from jaxfer import config as configuration
from jaxfer.config import Call, RunConfig
from jaxfer.data import records
from jaxfer.data.synthetic import LABELS, generate_sequences
from jaxfer.study import task, trainings
from jaxfer.train import trainer

# Smaller data than in the config, and one epoch.
QUICK = {"num_subjects": 12, "num_frames": 2, "image_size": 16}
# .ci/run requires the same of the quickstart.
_TIMES_CHANCE = 3


def draw(**options: Any) -> records.Records:
  """Returns the embedded sequences for these options, equal to those in the data set `synthetic_sequences`."""
  arrays = generate_sequences(**options)
  subjects = [f"S{subject:03d}" for subject in arrays.pop("subject")]
  keys = [f"{subject}_{take:03d}" for subject, take in zip(subjects, arrays.pop("take"), strict=True)]
  return records.Records.from_arrays(arrays, keys, LABELS, subjects)


def config_of(quick: bool) -> RunConfig:
  """Returns the config of the quickstart."""
  config = configuration.load(machine.ROOT / "configs" / "quickstart.py")
  if not quick:
    return config
  recipe = Call(config.recipe.name, **{**config.recipe.options, "epochs": 1})
  return dataclasses.replace(config, recipe=recipe, data=Call(config.data.name, **QUICK))


def measure(session: harness.Session, config: RunConfig) -> None:
  """Measures one training."""
  data = draw(**config.data.options)
  made = trainings.set_up(task.assemble(config, data))
  training, ((_, own),) = made.training, made.tasks.items()
  (stage,), (member,) = training.stages, training.members
  rows = member.test
  chance = 1 / len(np.unique(data.arrays["label"][rows]))
  options = {
    **config.data.options,
    **config.model.options,
    "epochs": stage.epochs,
    "batch": config.batch_size,
  }
  case = harness.Case(
    name=f"training/epochs{stage.epochs}/{own.config.dtype}",
    settings=options,
    work={"samples": stage.epochs * member.plan.steps * config.batch_size},
    tolerance=1.0 if session.quick else 1 - _TIMES_CHANCE * chance,
    dtype=own.config.dtype,
  )
  if session.recorded(case.name, ["jaxfer"]) is not None:
    return
  with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    (result,) = trainer.Trainer(training, pathlib.Path(folder) / "run").fit()
    seconds = time.perf_counter() - start
  assert result.outputs is not None
  reading = next(iter(own.predictions(result.outputs, rows).values()))
  error = 1 - float(reading.correct.mean())
  record = session.blank(case, "jaxfer")
  record["agreement"] = {"reference": "labels of people never seen", "arrays": ["predicted"], "error": error,
                         "tolerance": case.tolerance}  # fmt: skip
  if error <= case.tolerance:
    record.update(status="ok", seconds=results.statistics([seconds]))
    session.derive(record, case)
  else:
    reason = f"accuracy {1 - error:.3f} is under {_TIMES_CHANCE} times chance, {chance:.3f}"
    record.update(status="mismatch", reason=reason)
  session.keep([record])
  print(f"  trained in {seconds:.1f} s, accuracy {1 - error:.3f} on {len(rows)} records, chance {chance:.3f}")


def main() -> None:
  session = harness.session("quickstart", harness.parser(__doc__).parse_args())
  measure(session, config_of(session.quick))
  harness.finish(session)


if __name__ == "__main__":
  main()
