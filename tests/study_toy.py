"""A study of seconds: dense nets of two widths on random pictures; run as a script it can kill itself."""

import json
import os
import pathlib
import signal
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxfer import losses, study
from jaxfer.config import Call, Execution, Row, RunConfig, Split, StudyConfig
from jaxfer.data.records import Records
from jaxfer.experiments import EXPERIMENTS, run
from jaxfer.experiments.experiment import Experiment
from jaxfer.models import MODELS
from jaxfer.train import optim, stacked
from jaxfer.train.stage import LossOut, Stage, Update


class Net(nn.Module):
  """One hidden layer."""

  num_classes: int = 3
  width: int = 4
  dtype: str | None = None

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes, name="fc2")(nn.tanh(nn.Dense(self.width, name="fc1")(x)))


def example(data, rows):
  return {
    "x": jnp.asarray(data["image"])[rows].reshape(-1, 4) / 255.0,
    "label": jnp.asarray(data["label"])[rows],
  }


def recipe(model, steps, *, epochs: int = 2, rate: float = 0.05):
  def loss(variables, batch, keys, context):
    del keys, context
    logits = model.apply(variables, batch["x"])
    count = jnp.float32(len(logits))
    correct = (logits.argmax(-1) == batch["label"]).sum(dtype=jnp.float32)
    cross_entropy = losses.cross_entropy(logits, batch["label"])
    return LossOut(loss={"loss": (cross_entropy.sum(), count)}, metrics={"accuracy": (correct, count)})

  optimizer = optim.adam("rate", optim.schedule("cosine", epochs * steps))
  update = Update("net", loss, ("fc1", "fc2"), optimizer)
  sample = lambda data, columns, keys: example(data, columns["row"])  # noqa: E731
  return (Stage("train", (update,), epochs, sample),), {"rate": rate}


EXPERIMENT = Experiment(
  recipe=recipe,
  resident=lambda data: {name: data.arrays[name] for name in ("image", "label")},
  example=example,
  inputs=lambda model, batch: (batch["x"],),
  published=(),
  source="nowhere",
  paper_data="absent",
)

STUDY = StudyConfig(
  title="two widths",
  source="nowhere",
  base=RunConfig(
    recipe=Call("toy"),
    model=Call("toy"),
    data=Call("synthetic_sequences"),  # By name alone: `records` below are what is read.
    split=Split(folds=2),
    batch_size=4,
    execution=Execution(devices=1, steps_per_call=2),
  ),
  rows=(Row("narrow", {}, 0.5), Row("wide", {"model.width": 8})),
  seeds=2,
  compared=(("wide", "narrow"),),
  presets={"small": {}, "short": {"recipe.epochs": 1}},
)


def records(seed=0):
  """Seven people, three records each, of which the first pixel nearly tells the class; folds of 12 and 9 records."""
  rng = np.random.default_rng(seed)
  label = np.tile(np.arange(3), 7).astype(np.int32)
  image = rng.integers(0, 120, (21, 2, 2, 1))
  image[:, 0, 0, 0] += 60 * label
  subjects = [f"P{k // 3}" for k in range(21)]
  keys = [f"{subject}_{k % 3}" for k, subject in enumerate(subjects)]
  return Records.from_arrays(
    {"image": image.astype(np.uint8), "label": label}, keys, ["a", "b", "c"], subjects
  )


def install(patch):
  """Makes the toy known: `patch` is a `pytest.MonkeyPatch`."""
  patch.setitem(EXPERIMENTS, "toy", EXPERIMENT)
  patch.setitem(MODELS, "toy", Net)
  patch.setattr(run, "load_data", lambda config, data_dir: records())


def run_study(workdir, *assignments, config=STUDY, preset=None, **kwargs):
  return study.run(config, preset, assignments, workdir, pathlib.Path("nowhere"), **kwargs)


def history(folder):
  """Rows of metrics of a row's trainings."""
  return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def kill_after(chunks):
  """Kills this process in place of the chunk after so many."""
  left, original = [chunks], stacked.Stacked.trainer

  def trainer(self, stage, driver):
    chunk = original(self, stage, driver)

    def deadly(*args):
      left[0] -= 1
      if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
      return chunk(*args)

    return deadly

  stacked.Stacked.trainer = trainer


if __name__ == "__main__":
  EXPERIMENTS["toy"], MODELS["toy"] = EXPERIMENT, Net
  run.load_data = lambda config, data_dir: records()
  kill_after(int(sys.argv[2]))
  run_study(pathlib.Path(sys.argv[1]), "execution.checkpoint_seconds=0.0")
