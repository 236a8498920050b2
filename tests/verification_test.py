"""Tests the verification of pairs of faces by LFW's protocol; the oracle uses plain loops over thresholds and parts."""

import pathlib
import pickle

import jax
import numpy as np
import pytest

from jaxfer import cli, inference, verification
from jaxfer.convert.importers import convert
from jaxfer.data import synthetic
from jaxfer.data.encode import png
from jaxfer.errors import UserError
from jaxfer.systems.elderly_transfer.model import FaceClassifier
from jaxfer.train.weights import save_weights

FIXTURES = pathlib.Path(__file__).parent / "convert/fixtures"


def embeddings(n, noise, rng):
  """Returns n pairs, of which every other one shows the same person."""
  same = np.arange(n) % 2 == 0
  first = rng.normal(size=(n, 8))
  second = np.where(same[:, None], first + noise * rng.normal(size=(n, 8)), rng.normal(size=(n, 8)))
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
  return *unit, same


def oracle(first, second, same, folds):
  """Returns accuracy and threshold of each part, computed pair by pair."""
  n, found = len(same), []
  starts = [0]
  for k in range(folds):
    starts.append(starts[-1] + n // folds + (k < n % folds))
  distance = [
    sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for x, y in zip(first, second, strict=True)
  ]
  for k in range(folds):
    part = range(starts[k], starts[k + 1])
    best, chosen = -1, None
    for step in range(400):
      threshold = step * 0.01
      right = sum((distance[i] < threshold) == same[i] for i in range(n) if i not in part)
      if right > best:
        best, chosen = right, threshold
    found.append((sum((distance[i] < chosen) == same[i] for i in part) / len(part), chosen))
  return found


@pytest.mark.parametrize(("n", "folds"), [(60, 10), (47, 5)])
def test_accuracy_is_that_of_the_protocol(n, folds):
  first, second, same = embeddings(n, 0.9, np.random.default_rng(n))
  got = verification.judge(first, second, same, folds)
  parts, thresholds = zip(*oracle(first, second, same, folds), strict=True)
  np.testing.assert_allclose(got.parts, parts)
  np.testing.assert_allclose(got.thresholds, thresholds)
  assert got.accuracy == pytest.approx(np.mean(parts))
  assert got.std == pytest.approx(np.std(parts))
  assert got.std > 0


def test_a_part_does_not_influence_its_threshold():
  """The only part with distant faces is evaluated with the threshold of the others."""
  first, second = np.zeros((2, 40, 2))
  same = np.arange(40) % 2 == 0
  second[:, 0] = np.where(same, 0.5, 1.5)
  second[:4, 0] = np.where(same[:4], 1.6, 1.9)
  got = verification.judge(first, second, same)
  assert got.parts == (0.5, *[1.0] * 9)
  assert got.thresholds[0] == pytest.approx(0.26)  # The lowest threshold that separates 0.25 from 2.25.


def test_roc():
  first, second, same = embeddings(2000, 0.9, np.random.default_rng(0))
  got = verification.judge(first, second, same)
  distance = ((first - second) ** 2).sum(1)
  near, far = distance[same], distance[~same]
  assert got.auc == pytest.approx((near[:, None] < far).mean())
  limit = sorted(far)[10]
  assert (far < limit).mean() == 0.01
  assert got.tar == pytest.approx({0.01: (near < limit).mean(), 0.001: (near < sorted(far)[1]).mean()})
  equal = verification.judge(np.zeros((20, 2)), np.zeros((20, 2)), np.arange(20) % 2 == 0)
  assert equal.auc == 0.5
  assert equal.tar == {}
  assert str(got).startswith(f"accuracy {got.accuracy:.4f} +- {got.std:.4f} over 10 parts of 200 pairs")
  uneven = verification.judge(first[:23], second[:23], same[:23])
  assert "over 7 parts of 2 and 3 parts of 3 pairs" in str(uneven)


@pytest.mark.parametrize(
  ("n", "kinds", "folds", "message"),
  [
    (4, (True, False), 10, "4 pairs in 10 parts"),
    (4, (True, False), 1, "4 pairs in 1 parts"),
    (20, (True,), 10, "20 of 20 pairs show one person: both kinds"),
    (20, (False,), 10, "0 of 20 pairs show one person"),
  ],
)
def test_pairs_that_cannot_be_evaluated(n, kinds, folds, message):
  with pytest.raises(UserError, match=message):
    verification.judge(np.zeros((n, 2)), np.ones((n, 2)), np.resize(kinds, n), folds)


def test_mirror_images_are_weighted_by_the_length_of_their_features():
  images = np.zeros((2, 1, 2, 3), np.uint8)
  images[:, :, 0], images[0, :, 1] = 4, 3
  got = verification.embed(lambda x: x[:, 0, :, 0] * [[1.0, 2.0]], images)
  # (4, 6) + (3, 8) and (4, 0) + (0, 8), not sums of their directions.
  np.testing.assert_allclose(got, [[7 / 245**0.5, 14 / 245**0.5], [1 / 5**0.5, 2 / 5**0.5]])
  assert not verification.embed(lambda x: np.zeros((2, 3)), images).any()
  with pytest.raises(UserError, match="features of 1 of 2 images are not finite"):
    verification.embed(lambda x: np.array([[1.0, 2.0], [np.nan, 0.0]]), images)


def test_pairs_are_balanced_unlike_and_equally_likely():
  subjects = np.array(["b", "a", "c", "a", "b", "a"])
  drawn = verification.pairs(subjects, np.random.default_rng(0), 8)
  assert drawn.same.tolist() == [True, False] * 4
  assert ((subjects[drawn.first] == subjects[drawn.second]) == drawn.same).all()
  every = [tuple(sorted(pair)) for pair in zip(drawn.first, drawn.second, strict=True)]
  assert len(set(every)) == 8
  # All four pictures of one person, and those of eleven others equally often.
  assert set(every[::2]) == {(1, 3), (1, 5), (3, 5), (0, 4)}
  rng, counts = np.random.default_rng(1), {}
  for _ in range(600):
    draw = verification.pairs(subjects, rng, 3)
    pair = tuple(sorted((int(draw.first[1]), int(draw.second[1]))))
    counts[pair] = counts.get(pair, 0) + 1
  assert len(counts) == 11
  assert min(counts.values()) > 30
  again = [verification.pairs(subjects, np.random.default_rng(5), 6).first.tolist() for _ in range(2)]
  assert again[0] == again[1]


@pytest.mark.parametrize(
  ("subjects", "count", "message"),
  [
    ("aab", 4, "4 pairs need 2 of one person, but there are 1: ask for fewer"),
    ("aaaa", 4, "4 pairs need 2 of two people, but there are 0"),
    ("", 2, "2 pairs need 1 of one person, but there are 0"),
    ("aab", 1, "1 pairs: give at least 2"),
  ],
)
def test_too_few_pictures(subjects, count, message):
  with pytest.raises(UserError, match=message):
    verification.pairs(list(subjects), np.random.default_rng(0), count)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  out = tmp_path_factory.mktemp("faces") / "adaface"
  convert("adaface", FIXTURES / "adaface.ckpt", out)
  return out


def write(path, same, size=112):
  rng, images = np.random.default_rng(0), []
  for pair in same:
    picture = rng.integers(0, 256, (size, size, 3), np.uint8)
    other = picture if pair else rng.integers(0, 256, (size, size, 3), np.uint8)
    for pixels in (picture, other):
      images.append(png(pixels))
  path.write_bytes(pickle.dumps((images, list(same)), protocol=2))
  return images


def test_a_verification_set_through_converted_weights(weights, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
  monkeypatch.setattr(verification, "_CHUNK", 6)
  write(tmp_path / "lfw.bin", [True, False, True, False])
  assert cli.main(["verify", str(weights), str(tmp_path / "lfw.bin"), "--folds", "2"]) == 0
  said = capsys.readouterr().out
  assert said.startswith(
    "accuracy 1.0000 +- 0.0000 over 2 parts of 2 pairs; the threshold of each part is chosen on the others, "
  )
  assert "4 pairs, 2 of one person\narea under the ROC curve 1.0000\n" in said


def test_files_that_are_no_verification_set(weights, tmp_path, capsys):
  path = tmp_path / "x.bin"

  def complaint(*more):
    assert cli.main(["verify", str(weights), str(path), *more]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said

  assert "x.bin is not a verification set: [Errno 2]" in complaint()
  write(path, [True, False], size=96)
  assert "picture 0 of pair 0 has 96 x 96 pixels: the model reads faces aligned to 112 x 112" in complaint()
  images = write(path, [True, False])
  path.write_bytes(pickle.dumps((images[:3], [True, False]), protocol=2))
  assert "3 pictures for 2 pairs: expected two each" in complaint()
  path.write_bytes(pickle.dumps(([*images[:3], b"GIF"], [True, False]), protocol=2))
  assert "picture 3 of pair 1: not an image" in complaint()


def test_classifiers_have_no_say(tmp_path, capsys):
  convert("arm", FIXTURES / "arm.pth", tmp_path / "arm")
  assert cli.main(["verify", str(tmp_path / "arm"), "lfw.bin"]) == 2
  assert "is a classifier: verification needs" in capsys.readouterr().err


def trained(folder, **attributes):
  """Returns the results of a training with random weights (`trainings.keep`): net, variables, folder."""
  options = {"width": 1 / 32, "image_size": 16, **attributes}
  model = FaceClassifier(num_classes=3, **options)
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
  rng = np.random.default_rng(0)

  def draw(leaf):
    """Draws kernels around 0, so that pictures stay distinct, and positive scales and variances of norms."""
    kernel = rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
    return (kernel if leaf.ndim > 1 else rng.uniform(0.2, 1, leaf.shape)).astype(np.float32)

  variables = jax.tree.map(draw, shapes)
  meta = {
    "config": {"model": {"name": "face_classifier", "options": options}, "seed": 0},
    "label_names": ["a", "b", "c"],
    **model.seen,
  }
  save_weights(folder, variables, meta)
  return model, variables, meta


@pytest.mark.parametrize(
  ("attributes", "features"),
  [
    ({"net": "face_resnet18", "head": "softmax"}, 16),
    ({"net": "resnet18"}, 16),
    ({"net": "resnet18", "head": "softmax", "pictures": "adaface"}, 16),
  ],
)
def test_the_weights_of_a_training_give_what_its_head_reads(attributes, features, tmp_path):
  """The stored head maps them to the net's logits, for pictures with the stored colour order and normalisation."""
  model, variables, _ = trained(tmp_path / "net", **attributes)
  images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
  got = inference.load_face_net(tmp_path / "net").outputs(images)
  assert got.shape == (3, features)
  head = variables["params"]["head"]
  _, logits = jax.jit(lambda v, x: model.apply(v, model.normalised(x)))(variables, images.astype(np.float32))
  want = got @ head["kernel"] + head["bias"]
  assert np.ptp(want, 0).min() > 1e-3 * np.abs(want).max()
  np.testing.assert_allclose(want, logits, rtol=2e-4, atol=1e-5)
  with pytest.raises(
    UserError, match="images are of 24 x 24 pixels: face_classifier takes faces aligned to 16"
  ):
    inference.load_face_net(tmp_path / "net").outputs(np.zeros((1, 24, 24, 3), np.uint8))


def test_a_training_is_evaluated_on_drawn_people(tmp_path, capsys, monkeypatch):
  trained(tmp_path / "net", net="face_resnet18")
  asked = {}

  def generate_stills(**options):
    """Returns the same picture of a person every time."""
    asked.update(options)
    who = np.repeat(np.arange(options["num_subjects"]), options["images_per_subject"])
    faces = np.random.default_rng(0).integers(0, 256, (options["num_subjects"], 16, 16, 3), np.uint8)
    return {"image": faces[who], "subject": who}

  monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
  monkeypatch.setattr(synthetic, "generate_stills", generate_stills)
  monkeypatch.setitem(verification._DRAWN, "num_subjects", 30)
  assert cli.main(["verify", str(tmp_path / "net"), "embedded"]) == 0
  assert asked == {
    "num_subjects": 30,
    "images_per_subject": 8,
    "image_size": 16,
    "seed": 4242,
    "aligned": True,
  }
  said = capsys.readouterr().out.splitlines()
  assert said[1:3] == ["600 pairs, 300 of one person", "area under the ROC curve 1.0000"]
  assert said[-1].startswith(
    "pairs of 50 drawn young people that no study uses, 8 images each (synthetic_faces"
  )


def test_weights_that_cannot_be_evaluated(tmp_path, capsys):
  _, variables, meta = trained(tmp_path / "net", net="face_resnet18")

  def complaint(**changes):
    save_weights(tmp_path / "other", variables, {**meta, **changes})
    assert cli.main(["verify", str(tmp_path / "other"), "embedded"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said

  assert "gives colour_order None: convert the weights again" in complaint(colour_order=None)
  assert "holds weights of 'vae': converted weights are of" in complaint(
    config={"model": {"name": "vae", "options": {}}}
  )
  assert "holds weights of None" in complaint(config={})
