"""Compares margin heads with PyTorch's in float64, with numbers by hand, and with each other in limiting cases."""

import functools

import face_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from jaxfer.layers.face_resnet import unit
from jaxfer.layers.margin import HEADS, AdaFace, ArcFace, CosFace, Softmax
from jaxfer.losses import cross_entropy


def start(head):
  """Returns the head's variables with the golden's kernel and averages."""
  own = face_cases.drawn_head()
  variables = {"params": {"kernel": own["kernel"]}}
  if isinstance(head, AdaFace):
    variables["margin"] = dict(zip(("batch_mean", "batch_std"), own["averages"].reshape(2, 1), strict=True))
  return variables


def step(head, variables, features, labels, axis_name=None):
  """Returns (mean loss, (logits, new averages)), and gradients of kernel and features."""
  fixed = {key: tree for key, tree in variables.items() if key != "params"}

  def loss(params, features):
    (logits, _), new = head.apply(
      {**fixed, "params": params},
      *unit(features),
      labels,
      train=True,
      axis_name=axis_name,
      mutable=["margin"],
    )
    return cross_entropy(logits, labels).mean(), (logits, new)

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], features)


@pytest.mark.golden
@pytest.mark.parametrize("name", face_cases.HEADS)
def test_two_batches_equal_pytorch(name):
  own, want, head = face_cases.drawn_head(), face_cases.golden(), face_cases.HEADS[name](face_cases.CLASSES)
  tolerance = tolerances.here().layer
  # Logits are scaled by 64, and near the ends of the arc cosine float32 loses more than elsewhere.
  close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=10 * tolerance)
  variables, run = start(head), jax.jit(lambda *arguments: step(head, *arguments))
  for batch in (0, 1):
    features, labels = own["features"][batch], own["labels"][batch]
    (loss, (logits, new)), (d_params, d_features) = run(variables, features, labels)
    assert logits.dtype == jnp.float32
    close(logits, want[f"{name}/{batch}/logits"])
    close(loss, want[f"{name}/{batch}/loss"])
    close(d_params["kernel"], want[f"{name}/{batch}/kernel"])
    # Short features have large gradients.
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    close(d_features * lengths, want[f"{name}/{batch}/features"] * lengths)
    variables = {**variables, **new}
    if name == "adaface":
      got = np.concatenate([new["margin"]["batch_mean"], new["margin"]["batch_std"]])
      averages = want[f"{name}/{batch}/averages"]
      np.testing.assert_allclose(got, averages, rtol=tolerances.here("highest").layer / 10)


# A target at 60 degrees in two dimensions, and another person at a right angle to the feature.
UNIT = jnp.array([[1.0, 0.0], [1.0, 0.0]])
KERNEL = jnp.array([[0.5, 0.0], [3**0.5 / 2, -2.0]])
LABELS = jnp.array([0, 0])


def logits(head, norm, averages=(20.0, 100.0), labels=LABELS, **arguments):
  variables = {"params": {"kernel": KERNEL}}
  if isinstance(head, AdaFace):
    mean, std = (jnp.full((1,), value) for value in averages)
    variables["margin"] = {"batch_mean": mean, "batch_std": std}
  return _apply(head, variables, jnp.asarray(norm), labels, **arguments)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def _apply(head, variables, norm, labels, train=False):
  (trained, _), new = head.apply(variables, UNIT, norm, labels, train=train, mutable=["margin"])
  return trained, new


def test_numbers_of_the_specification():
  got, new = logits(AdaFace(2), [10.0, 30.0], train=True)
  np.testing.assert_allclose(got, [[6.512332946672757, 0], [6.281890977946972, 0]], atol=1e-4)
  np.testing.assert_allclose(new["margin"]["batch_mean"], [20], rtol=1e-6)
  np.testing.assert_allclose(new["margin"]["batch_std"], [99.14142135623732], rtol=1e-6)
  for head, norm, want in (
    (CosFace(2), 10.0, 6.4),
    (ArcFace(2), 10.0, 1.5101814586182138),
    (AdaFace(2, h=1e6), 30.0, -0.142292855),
    (AdaFace(2, h=1e6), 10.0, 7.890196471),
  ):
    np.testing.assert_allclose(logits(head, [norm, norm])[0][:, 0], [want, want], atol=1e-4)


def test_adaface_becomes_cosface_and_arcface():
  for averages, other in (((30.0, 5.0), CosFace(2)), ((1e9, 1e-6), ArcFace(2, margin=0.4))):
    np.testing.assert_allclose(
      logits(AdaFace(2), [30.0, 30.0], averages)[0], logits(other, [30.0] * 2)[0], atol=1e-4
    )


def test_a_column_of_zeros_stays_finite():
  def loss(kernel):
    got, _ = CosFace(2).apply({"params": {"kernel": kernel}}, UNIT, jnp.ones(2), LABELS)
    return cross_entropy(got, LABELS).mean()

  assert np.isfinite(jax.jit(jax.grad(loss))(KERNEL.at[:, 1].set(0))).all()


def test_without_labels_there_is_no_margin():
  for name, head in HEADS.items():
    if name != "softmax":
      got, _ = logits(head(2), [10.0, 30.0], labels=None)
      np.testing.assert_allclose(got, [[32, 0], [32, 0]], atol=1e-4)
      two = head(2)
      variables = jax.jit(functools.partial(two.init, jax.random.key(0)))(UNIT, jnp.ones(2))
      assert ("margin" in variables) == (name == "adaface")
      trained, plain = two.apply(variables, UNIT, jnp.ones(2), LABELS)
      same, again = two.apply(variables, UNIT, jnp.ones(2))
      np.testing.assert_array_equal(plain, same)
      np.testing.assert_array_equal(plain, again)
      assert (trained != plain).any(1).all()


def test_softmax_reads_the_feature_as_it_is():
  variables = {"params": {"kernel": KERNEL, "bias": jnp.array([1.0, -1.0])}}
  for labels in (None, LABELS):
    for got in Softmax(2).apply(variables, UNIT, jnp.array([10.0, 30.0]), labels, train=True):
      np.testing.assert_allclose(got, [[6, -1], [16, -1]], rtol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_a_label_that_is_no_class_turns_its_row_to_nan(name):
  head = HEADS[name](2)
  variables = jax.jit(lambda: head.init(jax.random.key(0), UNIT, jnp.ones(2), LABELS))()
  for label in (2, -1):
    got, plain = head.apply(variables, UNIT, jnp.ones(2), jnp.array([0, label]))
    assert np.isfinite(plain).all()
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()


def test_no_gradient_goes_through_the_length():
  def loss(norm, head):
    return cross_entropy(logits(head, norm, train=True)[0], LABELS).mean()

  for name, head in HEADS.items():
    if name != "softmax":
      assert not jax.grad(loss)(jnp.array([10.0, 30.0]), head(2)).any(), name
  moved = logits(AdaFace(2), [11.0, 30.0], train=True)[0] - logits(AdaFace(2), [10.0, 30.0], train=True)[0]
  assert np.abs(moved).max() > 1e-3


def test_averages_stay_in_evaluation_and_for_a_batch_of_one():
  head = AdaFace(2)
  _, still = logits(head, [10.0, 30.0])
  np.testing.assert_array_equal(still["margin"]["batch_std"], [100])
  variables = jax.jit(lambda: head.init(jax.random.key(0), UNIT, jnp.ones(2), LABELS, train=True))()
  np.testing.assert_array_equal(variables["margin"]["batch_mean"], [20])
  (got, _), new = head.apply(variables, UNIT[:1], jnp.ones(1), LABELS[:1], train=True, mutable=["margin"])
  assert np.isfinite(got).all()
  np.testing.assert_array_equal(new["margin"]["batch_mean"], [20])


@pytest.mark.optimized
def test_statistics_are_those_of_all_devices():
  """Compares eight features in one batch with the same features on two and on eight devices."""
  own, head = face_cases.drawn_head(), AdaFace(face_cases.CLASSES)
  features = np.concatenate([own["features"][1], own["features"][0, :1]])
  labels, variables = np.append(own["labels"][1], own["labels"][0, 0]), start(AdaFace(1))
  (_, (want, averages)), _ = jax.jit(lambda *batch: step(head, variables, *batch))(features, labels)
  for devices in (2, 8):

    def share(features, labels):
      return step(head, variables, features, labels, "data")[0][1]

    got, new = jax.jit(jax.vmap(share, axis_name="data"))(
      features.reshape(devices, -1, face_cases.FEATURES), labels.reshape(devices, -1)
    )
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-5, atol=1e-5)
    for name, value in averages["margin"].items():
      np.testing.assert_allclose(new["margin"][name], np.tile(value, (devices, 1)), rtol=1e-6)


def test_first_kernels():
  first = jax.jit(lambda: CosFace(50).init(jax.random.key(0), jnp.ones((2, 8)), jnp.ones(2), LABELS))
  kernel = first()["params"]["kernel"]
  assert kernel.shape == (8, 50)
  np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-6)
  for head, size in ((AdaFace(10_572), 5_412_864), (Softmax(10_572), 5_423_436)):
    made = jax.eval_shape(
      lambda head=head: head.init(jax.random.key(0), jnp.ones((2, 512)), jnp.ones(2), LABELS)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(made["params"])) == size
