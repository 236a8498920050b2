"""Paper 004's recipe: learning rates, logits with and without margin, augmentation, labels and pretrained trunks."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.config import Call, RunConfig, Split
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.layers.face_resnet import FaceResNet, unit
from jaxfer.layers.margin import HEADS
from jaxfer.layers.resnet import ResNet
from jaxfer.study.pretrained import load_pretrained
from jaxfer.study.split import split_of
from jaxfer.study.task import task_of
from jaxfer.systems.elderly_transfer import SYSTEM, recipe
from jaxfer.systems.elderly_transfer.model import FaceClassifier
from jaxfer.train import state, step
from jaxfer.train.stage import Context


class Tiny(nn.Module):
  """`FaceClassifier` with a dense layer as its trunk."""

  head: str = "adaface"
  image_size: int = 4
  parts = ("trunk", "head")

  def normalised(self, images):
    return images / 255 - 0.5

  @nn.compact
  def __call__(self, x, label=None, *, train=False, keys=None, axis_name=None):
    del keys
    feature = nn.Dense(5, name="trunk")(x.reshape(len(x), -1))
    head = HEADS[self.head](3, name="head")
    return head(*unit(feature), label, train=train, axis_name=axis_name)


def records(size=4):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (24, size, size, 3)).astype(np.uint8)
  label = np.tile(np.arange(3), 8).astype(np.int32)
  subjects = [f"P{k // 6}" for k in range(24)]
  return Records.from_arrays(
    {"image": image, "label": label}, [f"{k:02d}" for k in range(24)], ["a", "b", "c"], subjects
  )


def one_step(model, **options):
  data = SYSTEM.to_arrays(records())
  (stage,), hparams = SYSTEM.recipe(model, 4, **options)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, 4, 4, 3)))
  before = state.begin(stage, variables)
  plan = {"row": jnp.arange(8), "position": jnp.arange(8)}
  context = Context({name: jnp.float32(value) for name, value in hparams.items()})
  trainable, metrics = jax.jit(
    lambda begun: step.planned_step(stage, begun, data, plan, jnp.asarray(True), jax.random.key(1), context)
  )(before)
  return stage, hparams, variables, trainable, metrics


def test_the_loss_has_the_margin_and_the_accuracy_has_not():
  model = Tiny()
  stage, hparams, variables, trainable, metrics = one_step(
    model, optimizer="sgd", augmentation="none", learning_rate=0.1, select="last"
  )
  assert hparams == {"learning_rate": 0.1}
  assert stage.select == "last"
  batch = SYSTEM.eval_batch(SYSTEM.to_arrays(records()), np.arange(8))
  x = model.normalised(batch["image"])
  (logits, plain), _ = model.apply(variables, x, batch["label"], train=True, mutable=["margin"])
  right = int((plain.argmax(-1) == batch["label"]).sum())
  assert float(metrics["net/accuracy"][0]) == right
  log = jax.nn.log_softmax(logits)
  assert float(metrics["net/loss"][0]) == pytest.approx(
    -float(log[jnp.arange(8), batch["label"]].sum()), rel=1e-4
  )
  assert float(trainable.variables["margin"]["head"]["batch_mean"][0]) != 20.0
  for name in ("trunk", "head"):
    assert (trainable.variables["params"][name]["kernel"] != variables["params"][name]["kernel"]).any()


def test_fine_tuning_trains_the_head_at_ten_times_the_rate():
  stage, hparams, variables, trainable, _ = one_step(Tiny("softmax"), weight_decay=0.0)
  assert stage.select == "best_on_validation"
  assert hparams == {"learning_rate": 1e-4, "head_learning_rate": 1e-3}
  with pytest.raises(
    UserError, match=r"recipe\.milestones=\(3,\) has no effect with recipe\.optimizer=adamw"
  ):
    SYSTEM.recipe(Tiny(), 4, milestones=(3,))
  with pytest.raises(UserError, match=r"head_learning_rate=0\.1 has no effect with recipe\.optimizer=sgd"):
    SYSTEM.recipe(Tiny(), 4, optimizer="sgd", head_learning_rate=0.1)
  moved = {
    name: float(
      jnp.abs(trainable.variables["params"][name]["kernel"] - variables["params"][name]["kernel"]).max()
    )
    for name in ("trunk", "head")
  }
  assert moved == {"trunk": pytest.approx(1e-4, rel=0.02), "head": pytest.approx(1e-3, rel=0.02)}


@pytest.mark.parametrize("kind", ["none", "light", "imagenet", "adaface"])
def test_the_augmentation_of_an_example_depends_only_on_its_own_key(kind):
  keys = jax.random.split(jax.random.key(0), 16)
  images = SYSTEM.eval_batch(SYSTEM.to_arrays(records(8)), np.arange(16))["image"]
  augmented = jax.jit(recipe.augmented, static_argnums=2)
  whole = augmented(images, keys, kind)
  assert whole.shape == images.shape
  assert bool((whole != images).any()) == (kind != "none")
  part = augmented(images[3:4], keys[3:4], kind)
  np.testing.assert_allclose(whole[3:4], part, atol=1e-3)


def test_people_become_the_classes_and_relabelling_twice_changes_nothing():
  whole = records()
  assert SYSTEM.relabel(whole, {}) is whole
  people = SYSTEM.relabel(whole, {"label": "subject"})
  assert people.label_names == ("P0", "P1", "P2", "P3")
  np.testing.assert_array_equal(people.arrays["label"], people.arrays["subject"])
  again = SYSTEM.relabel(people, {"label": "subject"})
  assert again.label_names == people.label_names
  config = RunConfig(
    recipe=Call("elderly_transfer", label="subject"),
    model=Call("face_classifier", head="cosface", width=0.125, image_size=32),
    data=Call("synthetic_faces"),
  )
  task = task_of(config, records(32))
  assert task.model.num_classes == 4
  assert task.records.label_names == people.label_names


def test_a_person_with_too_few_images_stays_in_training_and_an_expression_is_refused():
  """One of three people has a single image."""
  whole, keys = records(), [f"{k:02d}" for k in range(13)]
  arrays = {"image": whole.arrays["image"][:13], "label": np.asarray([0, 1] * 6 + [2], np.int32)}
  some = Records.from_arrays(arrays, keys, ["a", "b", "c"], whole.subjects[:13].tolist())
  config = RunConfig(
    recipe=Call("elderly_transfer"),
    model=Call("face_classifier"),
    data=Call("synthetic_faces"),
    split=Split(kind="per_class", per_class=2),
  )
  split = split_of(config, SYSTEM.relabel(some, {"label": "subject"}))
  assert split.test.sum() == 4
  assert split.train[12]
  with pytest.raises(UserError, match="class 'c' has 1 records, too few"):
    split_of(config, some)


def empty(model, size):
  shapes = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((2, size, size, 3))
  )
  return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def fresh_task(**attributes):
  config = RunConfig(
    recipe=Call("elderly_transfer"),
    model=Call("face_classifier", width=0.125, image_size=32, **attributes),
    data=Call("synthetic_faces"),
  )
  return task_of(config, records(32))


def test_trunks_are_loaded_from_trainings_and_from_converted_weights():
  plain, face = fresh_task(net="resnet18"), fresh_task(net="face_resnet18")
  own = empty(FaceClassifier(num_classes=9, net="resnet18", head="adaface", width=0.125, image_size=32), 32)
  meta = {**plain.model.seen, "label_names": ["somebody"] * 9}
  taken, line = load_pretrained(plain, own, meta, "there")
  assert taken.keys() >= {"params", "batch_stats"}
  assert {name for tree in taken.values() for name in tree} == {"trunk"}
  assert line == "taken over from there: trunk (176,712 parameters); fresh: head (195 parameters)"
  load_pretrained(plain, empty(ResNet(1000, width=0.125), 32), dict(plain.model.seen), "torchvision")
  converted = empty(FaceResNet(width=0.125, image_size=32), 32)
  taken, _ = load_pretrained(face, converted, {**face.model.seen, "label_names": None}, "AdaFace")
  assert taken["params"]["trunk"].keys() == converted["params"].keys()
  with pytest.raises(UserError, match=r"AdaFace was trained with colour_order BGR, this training reads RGB"):
    load_pretrained(
      fresh_task(net="face_resnet18", pictures="insightface"), converted, face.model.seen, "AdaFace"
    )
  other = fresh_task(net="face_resnet18", pictures="insightface")
  converted = empty(FaceResNet(family="insightface", width=0.125, image_size=32), 32)
  taken, _ = load_pretrained(other, converted, {**other.model.seen, "label_names": None}, "InsightFace")
  assert taken["params"]["trunk"].keys() == converted["params"].keys()
  larger = {**plain.model.seen, "input_size": 224}  # A ResNet pools globally, a Face-ResNet does not.
  taken, line = load_pretrained(plain, empty(ResNet(1000, width=0.125), 32), larger, "torchvision")
  assert taken["params"].keys() == {"trunk"}
  assert line.endswith("; warning: it was trained with input_size 224, this training reads 32")
  with pytest.raises(UserError, match=r"std \[1, 1, 1\], this training reads"):
    load_pretrained(plain, own, {**meta, "input_size": 224, "std": [1, 1, 1]}, "there")
  with pytest.raises(UserError, match="input_size 112, this training reads 32"):
    load_pretrained(face, converted, {**face.model.seen, "input_size": 112}, "AdaFace")
  with pytest.raises(UserError, match="hold no trunk of this system"):
    load_pretrained(plain, converted, dict(plain.model.seen), "AdaFace")
  with pytest.raises(UserError, match="'trunk' of there is another net"):
    load_pretrained(face, own, {**meta, **face.model.seen}, "there")


def test_grey_images_are_refused():
  grey = dataclasses.replace(records(), arrays={"image": np.zeros((24, 4, 4, 1), np.uint8)})
  with pytest.raises(UserError, match=r"have image uint8 \(4, 4, 1\): this system reads RGB images"):
    SYSTEM.to_arrays(grey)
