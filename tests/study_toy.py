"""A study that takes seconds: dense models of two widths on random images.

Run as a script, `study_toy.py WORKDIR CHUNKS`, it kills itself when the given number of chunks is done.
"""

import json
import os
import pathlib
import signal
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxfer import losses
from jaxfer.config import Call, Execution, Row, RunConfig, Split, StudyConfig
from jaxfer.data.records import Records
from jaxfer.study import study, trainings
from jaxfer.systems import MODELS, SYSTEMS
from jaxfer.systems.system import System
from jaxfer.train import optim, placement
from jaxfer.train.stage import LossOut, Stage, Update


class Net(nn.Module):
  """A dense model with one hidden layer."""

  num_classes: int = 3
  width: int = 4
  dtype: str | None = None

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes, name="fc2")(nn.tanh(nn.Dense(self.width, name="fc1")(x)))


class Toy(System):
  """Trains `Net` with cross-entropy and Adam, in a single stage."""

  models = {"toy": Net}
  citation = "nowhere"
  paper_data = "absent"

  def to_arrays(self, records):
    return {name: records.arrays[name] for name in ("image", "label")}

  def inputs(self, model, batch):
    return (batch["x"],)

  def eval_batch(self, data, indices):
    return {
      "x": jnp.asarray(data["image"])[indices].reshape(-1, 4) / 255.0,
      "label": jnp.asarray(data["label"])[indices],
    }

  def recipe(self, model, steps, *, epochs: int = 2, rate: float = 0.05):
    def loss(variables, batch, keys, context):
      del keys, context
      logits = model.apply(variables, batch["x"])
      count = jnp.float32(len(logits))
      correct = (logits.argmax(-1) == batch["label"]).sum(dtype=jnp.float32)
      cross_entropy = losses.cross_entropy(logits, batch["label"])
      return LossOut(loss={"loss": (cross_entropy.sum(), count)}, metrics={"accuracy": (correct, count)})

    optimizer = optim.adam("rate", optim.schedule("cosine", epochs * steps))
    update = Update("net", loss, ("fc1", "fc2"), optimizer)
    sample = lambda data, columns, keys: self.eval_batch(data, columns["row"])  # noqa: E731
    return (Stage("train", (update,), epochs, sample),), {"rate": rate}


SYSTEM = Toy()

STUDY = StudyConfig(
  title="two widths",
  source="nowhere",
  base=RunConfig(
    recipe=Call("toy"),
    model=Call("toy"),
    data=Call("synthetic_sequences"),  # Only the name is used; `records` are read instead.
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
  """Records of seven people, three each. The two folds have 12 and 9 records.

  The first pixel of an image nearly determines the class.
  """
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
  """Registers the toy system and its model, and makes `records` the data; `patch` is a `pytest.MonkeyPatch`."""
  patch.setitem(SYSTEMS, "toy", SYSTEM)
  patch.setitem(MODELS, "toy", Net)
  patch.setattr(trainings, "load_data", lambda config, data_dir: records())


def run_study(workdir, *assignments, config=STUDY, preset=None, **kwargs):
  """Runs a study with overrides such as "recipe.epochs=1", and returns its table."""
  return study.run(config, preset, assignments, workdir, pathlib.Path("nowhere"), **kwargs)


def history(folder):
  """The metrics of a variant's trainings, one mapping per epoch."""
  return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def kill_after(chunks):
  """Makes this process kill itself (SIGKILL) when it starts another chunk after the given number of chunks."""
  remaining, original = [chunks], placement.Placement.trainer

  def trainer(self, stage, driver):
    chunk = original(self, stage, driver)

    def deadly(*args):
      remaining[0] -= 1
      if remaining[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
      return chunk(*args)

    return deadly

  placement.Placement.trainer = trainer


if __name__ == "__main__":
  SYSTEMS["toy"], MODELS["toy"] = SYSTEM, Net
  trainings.load_data = lambda config, data_dir: records()
  kill_after(int(sys.argv[2]))
  run_study(pathlib.Path(sys.argv[1]), "execution.checkpoint_seconds=0.0")
