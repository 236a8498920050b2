"""Tests that a step of every study's last row can be traced on blank records, and which published numbers apply."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import config
from jaxfer.config import Call, RunConfig
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.study import pretrained, trainings
from jaxfer.study.task import Task, options_of
from jaxfer.systems import SYSTEMS, create_model
from jaxfer.systems.two_stream_conv_rnn import SYSTEM
from jaxfer.train import state, step
from jaxfer.train.stage import Context
from tests.blank import blank_records

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").rglob("*.py"))


def configured():
  """Returns the last, most enhanced row of each study in `configs/`, in its smallest preset.

  tests/invariants_test.py traces the configs of a single run, and the bases of studies.
  """
  for path in CONFIGS:
    described = config.read(path)
    if isinstance(described, config.StudyConfig):
      *_, last = config.resolve(described, "smoke", (), options_of)[1].values()
      yield pytest.param(last, id=path.stem)


@pytest.mark.parametrize("configured", list(configured()))
def test_one_step_of_every_studys_last_row_traces(configured, monkeypatch):
  # The weights from which a row starts do not exist here.
  monkeypatch.setattr(pretrained, "check_pretrained", lambda task, initial: None)
  made = trainings.prepare(configured, blank_records(configured.data))
  training, (name, task) = made.training, next(iter(made.tasks.items()))
  split = made.splits[name]
  assert not set(task.records.subjects[split.train]) & set(task.records.subjects[split.test])

  def one(key, plan, stage):
    begun = state.begin(stage, training.init(key))
    data = {name: jnp.zeros(a.shape, a.dtype) for name, a in training.data.items()}
    context = Context({name: jnp.float32(value) for name, value in training.members[0].hparams.items()})
    return step.planned_step(stage, begun, data, plan, jnp.asarray(True), key, context)

  rows = jnp.zeros(configured.batch_size, jnp.int32)
  for stage in training.stages:
    plan = dict.fromkeys((*stage.columns, "position"), rows)
    trainable, metrics = jax.eval_shape(functools.partial(one, stage=stage), jax.random.key(0), plan)
    assert set(trainable.variables["params"]) == set(stage.trainable)
    assert metrics


def test_the_published_accuracies_are_whole_counts_of_327():
  for _, _, accuracy in SYSTEMS["two_stream_conv_rnn"].published:
    assert (accuracy * 327) == pytest.approx(round(accuracy * 327), abs=1e-9)
  printed = [f"{100 * accuracy:.2f}" for _, _, accuracy in SYSTEMS["two_stream_conv_rnn"].published]
  assert printed == ["86.54", "85.93", "88.99", "90.52"]


def test_examples_are_scaled_as_the_models_read_them():
  data = {
    "frames": np.asarray([0, 255], np.uint8).reshape(2, 1, 1, 1, 1),
    "flow": np.asarray([32767, -16384], np.int16).reshape(2, 1, 1, 1, 1),
    "label": np.asarray([4, 5]),
  }
  batch = SYSTEM.eval_batch(data, jnp.asarray([1, 0]))
  np.testing.assert_allclose(batch["frames"].ravel(), [1, -1])
  np.testing.assert_allclose(batch["flow"].ravel(), [-0.5, 1], atol=1e-4)  # -10 and 20 pixels.
  np.testing.assert_array_equal(batch["label"], [5, 4])


def test_augmentation_moves_frames_and_flow_as_one():
  """If the flow of a clip points along the gradient of its frames, it does so after any transform."""
  _y, x = np.meshgrid(np.arange(16), np.arange(16), indexing="ij")
  frames = np.repeat((8 * x)[None, None, :, :, None], 3, -1).astype(np.uint8)
  flow = np.stack([np.full((16, 16), 3000), np.zeros((16, 16))], -1)[None, None].astype(np.int16)
  data = {"frames": frames, "flow": flow, "label": np.zeros(1, np.int32)}
  model = create_model("two_stream_conv_rnn")
  stages, _ = SYSTEM.recipe(model, 1, rotation=30.0)
  keys = jax.random.split(jax.random.key(0), 8)
  batch = stages[0].sample(data, {"row": jnp.zeros(8, jnp.int32)}, keys)
  brightness, vector = np.asarray(batch["frames"])[:, 0, 5:11, 5:11, 0], np.asarray(batch["flow"])[:, 0, 8, 8]
  rise = np.stack([np.diff(brightness, axis=2).mean((1, 2)), np.diff(brightness, axis=1).mean((1, 2))], -1)
  cosine = (rise * vector).sum(-1) / np.linalg.norm(rise, axis=-1) / np.linalg.norm(vector, axis=-1)
  np.testing.assert_allclose(cosine, 1, atol=1e-3)
  assert (vector[:, 0] < 0).any()
  assert (vector[:, 0] > 0).any()


def published(system, data, init_from=None, **recipe):
  """Returns the names of the published rows with which a config of a system's first published model is compared."""
  model = {
    "elderly_transfer": Call("face_classifier"),
    "landmark_fusion": Call("landmark_fusion", answer="rgb"),
    "stacked_autoencoder": Call("stacked_autoencoder"),
    "two_stream_conv_rnn": Call("two_stream_conv_rnn"),
  }[system]
  configured = RunConfig(recipe=Call(system, **recipe), model=model, data=data, init_from=init_from)
  made = create_model(model.name, **({"num_classes": 7} | dict(model.options)))
  task = Task(configured, SYSTEMS[system], made, {}, None, "")
  return list(task.published())


@pytest.mark.parametrize(
  ("system", "own", "embedded", "name"),
  [
    ("elderly_transfer", Call("nagoya"), Call("synthetic_faces"), "resnet18 from scratch"),
    ("landmark_fusion", Call("raf_db"), Call("synthetic_faces", aligned=True), "baseline (RGB net)"),
    ("stacked_autoencoder", Call("paper000"), Call("synthetic_faces"), "stacked denoising autoencoders"),
    ("two_stream_conv_rnn", Call("ckplus"), Call("synthetic_sequences"), "ConvLSTM"),
  ],
)
def test_published_numbers_are_shown_beside_the_papers_data_and_embedded_ones_alone(
  system, own, embedded, name
):
  own_system = SYSTEMS[system]
  assert published(system, own) == published(system, embedded) == [name]
  assert own_system.on_papers_data(own)
  assert not own_system.on_papers_data(embedded)
  for other in ("image_folder", "manifest", "fer2013", "mug"):
    assert published(system, Call(other)) == []
    assert not own_system.comparable(Call(other))


def test_other_options_than_the_papers_make_other_data():
  for system, data in (
    ("landmark_fusion", Call("raf_db", subset="compound")),
    ("stacked_autoencoder", Call("paper000", jaffe_labels="posed")),
    ("identity_expression_vae", Call("paper003", use="recognition")),
  ):
    assert not SYSTEMS[system].comparable(data)
    assert SYSTEMS[system].comparable(Call(data.name))


def test_another_configuration_than_the_papers_row_has_no_published_number():
  faces = Call("synthetic_faces")
  assert published("elderly_transfer", faces, init_from="weights") == []
  assert published("elderly_transfer", faces, label="subject") == []
  for changed in ({"pretrain": False}, {"noise_layers": ()}, {"noise_rate": 0.0}):
    assert published("stacked_autoencoder", faces, **changed) == []
  assert published("stacked_autoencoder", faces, noise_rate=0.1) != []


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (("happy",), "data set 'image_folder' has one class, 'happy', and a training needs at least two"),
    (("happy", "sad"), "data set 'image_folder': all 5 records to train on are of class 'happy'"),
  ],
)
def test_data_of_one_class_are_refused_before_anything_is_trained(names, message):
  people = [f"P{k}" for k in range(6)]
  arrays = {"image": np.zeros((6, 2, 2, 1), np.uint8), "label": np.zeros(6, np.int32)}
  data = Records.from_arrays(arrays, people, names, people)
  configured = RunConfig(
    recipe=Call("stacked_autoencoder"), model=Call("stacked_autoencoder"), data=Call("image_folder")
  )
  with pytest.raises(UserError) as error:
    trainings.prepare(configured, data)
  assert str(error.value).startswith(message)


def test_a_number_of_classes_that_the_data_do_not_have_is_refused():
  label = np.tile(np.arange(3, dtype=np.int32), 2)
  names = [f"P{k}" for k in range(6)]
  data = Records.from_arrays(
    {"image": np.zeros((6, 2, 2, 1), np.uint8), "label": label}, names, ("a", "b", "c"), names
  )
  for asked, fits in ((2, False), (3, True), (4, False)):
    model = Call("stacked_autoencoder", num_classes=asked)
    configured = RunConfig(recipe=Call("stacked_autoencoder"), model=model, data=Call("image_folder"))
    if fits:
      (task,) = trainings.prepare(configured, data).tasks.values()
      assert task.model.num_classes == 3
      continue
    with pytest.raises(
      UserError, match=rf"^model\.num_classes={asked}: data set 'image_folder' has 3 classes; give 3"
    ):
      trainings.prepare(configured, data)
