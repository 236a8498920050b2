"""Tests `jaxfer explain` on photographs and videos, with untrained models of all systems and a simulated detector."""

import dataclasses
import functools
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer import cli
from jaxfer.data import detect
from jaxfer.data import flow as optical_flow
from jaxfer.errors import UserError
from jaxfer.explain import effective_pixels, gates, grad_cam
from jaxfer.inference import explaining
from jaxfer.inference.converted import Converted
from jaxfer.inference.drawing import Thinned
from jaxfer.inference.pictures import Face, Picture
from jaxfer.inference.predictor import InputSpec
from jaxfer.report import cams, grids, swaps
from jaxfer.study import trainings
from jaxfer.systems.explanation import ClassMaps
from jaxfer.systems.identity_expression_vae import code_metrics
from jaxfer.systems.landmark_fusion import figures
from tests import small_systems
from tests.halves import Detector, film, photograph

pytest.importorskip("av")


@pytest.fixture(scope="module", autouse=True)
def _small():
  with small_systems.installed():
    yield


@pytest.fixture(autouse=True)
def _parts(monkeypatch):
  monkeypatch.setattr(detect, "default", Detector)
  monkeypatch.setattr(cli, "_cache_compilations", lambda: None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  """(name, overrides) -> folder of an untrained model, each made once."""
  made = {}

  def of(name, *overrides):
    if (name, overrides) not in made:
      folder = made[name, overrides] = tmp_path_factory.mktemp("kept")
      task = small_systems.made(name, *overrides)
      variables = jax.device_get(jax.jit(task.init)(jax.random.key(3)))
      trainings.keep(folder, task, variables, {})
    return made[name, overrides]

  return of


@pytest.fixture
def drawn(monkeypatch):
  """Records the arguments of the drawing functions in a list, and writes empty files."""
  calls = []

  def record(module, name, path):
    def draw(*arguments):
      calls.append((name, arguments))
      arguments[path].write_bytes(b"")

    monkeypatch.setattr(module, name, draw)

  record(cams, "faces_png", 1)
  record(grids, "over_face_png", 3)
  record(grids, "gate_streams_png", 3)
  record(swaps, "swap_grid_png", 3)
  record(swaps, "interpolation_png", 3)
  return calls


def explain(folder, tmp_path, *given):
  """Runs the command on files of `tmp_path`; returns its exit code."""
  return cli.main(["explain", str(folder), *map(str, given), "--out", str(tmp_path / "out")])


def test_maps_are_those_of_grad_cam_for_every_face(kept, tmp_path, capsys, drawn):
  folder = kept("classifier")
  photograph(tmp_path / "in/a.png", 255, 51)
  photograph(tmp_path / "in/deep/a.jpg", 90, 160)
  photograph(tmp_path / "in/dark.png", 12, 16)
  (tmp_path / "in/broken.jpg").write_bytes(b"x")
  film(tmp_path / "in/film.mp4", [30 + 15 * k for k in range(12)])
  assert explain(folder, tmp_path, tmp_path / "in") == 0
  said = capsys.readouterr()
  out = tmp_path / "out"
  assert said.out.splitlines() == [
    f"written: {out / 'a.png'}  (2 faces)",
    f"{tmp_path / 'in/dark.png'}  no face found",
    f"written: {out / 'a-2.png'}  (2 faces)",
    f"written: {out / 'film.png'}  (6 of 12 faces)",
    "16 faces in 4 files, 1 picture without a face, 1 file unreadable",
  ]
  assert "broken.jpg: not an image" in said.err
  assert sorted(os.listdir(out)) == ["a-2.png", "a.png", "film.png"]

  faces = [face for _, (page, _, _) in drawn for face in page]
  model = jaxfer.load(folder)
  crops = np.stack([face.picture for face in faces])
  probabilities = model.predict_proba(crops)
  net, variables = model.task.model, {name: tree["net"] for name, tree in model.variables.items()}

  def logits_of(x):
    return net.apply(variables, x, train=False)

  x = crops.astype(np.float32) / 127.5 - 1
  found = grad_cam.class_activations(logits_of, (x,), ("BatchNorm_0",), probabilities.argmax(1))
  want = grad_cam.over_picture(grad_cam.grad_cam_plus_plus(*found), 8, 8)
  for face, map_, row in zip(faces, want, probabilities, strict=True):
    np.testing.assert_allclose(face.map, map_, rtol=0, atol=1e-4)
    assert [name for name, _ in face.probabilities] == [model.label_names[k] for k in np.argsort(-row)]
    np.testing.assert_allclose([p for _, p in face.probabilities], np.sort(row)[::-1], rtol=0, atol=1e-5)
  assert np.abs(faces[0].map - faces[2].map).max() > 0.1  # The map depends on the face.
  # As shown in inference/README.md.
  own, direct = model.explanation().compute(model.eval_batch({"image": crops}))
  np.testing.assert_allclose(own, probabilities, rtol=0, atol=1e-5)
  np.testing.assert_allclose(direct, want, rtol=0, atol=1e-4)
  assert [face.name for face in faces[-6:]] == [f"face 0 at {0.2 * k:.1f} s" for k in range(6)]
  assert drawn[0][1][2] == "a.png\nGrad-CAM++ of the predicted class\nBatchNorm_0, 8 x 8 cells"


class Halves(nn.Module):
  """The logits of two classes are the means of the left and of the right half of a map."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(1, (1, 1), kernel_init=nn.initializers.ones, name="conv")(x))
    left, right = jnp.split(x, 2, 2)
    return jnp.stack([left.mean((1, 2, 3)), right.mean((1, 2, 3))], -1)


def test_the_predicted_class_is_explained():
  x = np.zeros((2, 4, 4, 3), np.float32)
  x[0, 1, 0], x[1, 2, 3] = 1, 1  # The brightest pixel is on the left, then on the right.
  variables = Halves().init(jax.random.key(0), x)
  maps = ClassMaps(lambda batch: Halves().apply(variables, batch["image"]), ("left", "right"))
  probabilities, found = maps.compute({"image": x})
  assert np.argmax(probabilities, 1).tolist() == [0, 1]
  assert [np.unravel_index(np.argmax(map_), (4, 4)) for map_ in np.asarray(found)] == [(1, 0), (2, 3)]
  assert np.asarray(found).sum() == 2


def test_a_layer_can_be_named(kept, tmp_path, capsys, drawn):
  photograph(tmp_path / "a.png", 255, 51)
  assert explain(kept("classifier"), tmp_path, tmp_path / "a.png", "--layer", "Conv_0") == 0
  assert explain(kept("classifier"), tmp_path, tmp_path / "a.png", "--layer", "Conv_1") == 2
  assert (
    "unknown layer 'Conv_1': did you mean 'Conv_0'? valid are BatchNorm_0, Conv_0" in capsys.readouterr().err
  )
  ((_, (faces, _, title)),) = drawn
  assert title.endswith("Conv_0, 8 x 8 cells")
  assert len(faces) == 2


def test_a_transferred_net_shows_its_trunk(kept, tmp_path, drawn):
  """Its images are resized to 64 pixels, which gives maps of 2 x 2."""
  model = jaxfer.load(kept("elderly_transfer", "model.image_size=64"))
  photograph(tmp_path / "a.png", 255, 51)
  explaining.run(model, [str(tmp_path / "a.png")], tmp_path, log=lambda line: None)
  ((_, (faces, _, title)),) = drawn
  assert title.endswith("trunk, 2 x 2 cells")
  found = model.predict_proba(np.stack([face.picture for face in faces]))
  np.testing.assert_allclose([face.probabilities[0][1] for face in faces], found.max(1), rtol=0, atol=1e-5)


def test_landmark_fusion_shows_its_rgb_net(kept, tmp_path, capsys, drawn):
  folder = kept("landmark_fusion")
  photograph(tmp_path / "a.png", 255, 51)
  assert explain(folder, tmp_path, tmp_path / "a.png") == 0
  assert "shown is its RGB net alone" in capsys.readouterr().err
  ((_, (faces, _, _)),) = drawn
  model = jaxfer.load(folder)
  crops = np.stack([face.picture for face in faces])
  landmarks = np.full((2, 37, 2), np.nan, np.float32)
  task = model.task
  prepare = jax.jit(lambda batch: task.system.inputs(task.model, batch))
  image, heatmap = prepare({"image": jnp.float32(crops), "landmarks": landmarks})
  outputs = jax.jit(task.model.apply)(model.variables, image, heatmap)
  named = [max(face.probabilities, key=lambda pair: pair[1])[0] for face in faces]
  assert named == [model.label_names[k] for k in np.argmax(outputs.rgb, 1)]
  want = figures._cam(task.model, "rgb", model.variables, image, heatmap, outputs.rgb.argmax(1))
  for face, map_ in zip(faces, want, strict=True):
    np.testing.assert_allclose(jax.image.resize(face.map, map_.shape, "linear"), map_, rtol=0, atol=1e-4)
  with pytest.raises(UserError, match=r"valid are rgb/arm/bn, rgb/arm/de_albino, rgb/trunk,"):
    explaining.run(model, [str(tmp_path / "a.png")], tmp_path, layer="landmark/conv1")


def test_a_landmark_net_is_refused(kept):
  with pytest.raises(UserError, match=r"answers with its landmark net.*train with model.answer=fused or rgb"):
    jaxfer.load(kept("landmark_fusion", "model.answer=landmark")).explanation()


def test_effective_pixels_lie_over_the_mean_face(kept, tmp_path, capsys, drawn):
  folder = kept("stacked_autoencoder", "model.sizes=(60, 50)")
  photograph(tmp_path / "a.png", 200, 100)
  photograph(tmp_path / "b.png", 50, 30)
  assert explain(folder, tmp_path, tmp_path / "a.png", tmp_path / "b.png") == 0
  assert capsys.readouterr().out.splitlines()[0].endswith("out/effective_pixels.png  (4 faces)")
  ((_, (face, paths, names, _, title)),) = drawn
  np.testing.assert_allclose(face, np.full((32, 32), 95), atol=6)
  params = jaxfer.load(folder).variables["params"]
  weights = [params[name]["kernel"] for name in ("encoder1", "encoder2", "classifier")]
  limits = effective_pixels.thresholds(weights, percentile=97.7, by_unit=True)
  want = effective_pixels.effective_pixels(weights, limits)[1]
  assert want.max() > 1
  np.testing.assert_array_equal(paths, want.reshape(4, 32, 32))
  assert names == list(small_systems.CLASSES)
  assert title.endswith("over the mean of 4 faces")


def test_gates_of_both_streams_over_time(kept, tmp_path, capsys, drawn):
  folder = kept("two_stream_conv_rnn")
  film(tmp_path / "a.mp4", [20 + 7 * k for k in range(30)])
  assert explain(folder, tmp_path, tmp_path / "a.mp4", "--window", "0.6") == 0
  assert capsys.readouterr().out.splitlines()[0].endswith("out/a.png  (4 of 10 faces)")
  ((_, (frames, maps, names, _, title)),) = drawn
  model = jaxfer.load(folder)
  flow = np.stack([optical_flow.quantize(optical_flow.farneback(clip)) for clip in frames])
  inputs = frames.astype(np.float32) / 127.5 - 1, flow.astype(np.float32) / 32767
  assert list(maps) == ["rgb gate", "flow gate"]
  for stream, found in zip(("rgb", "flow"), maps.values(), strict=True):
    gate_maps = functools.partial(gates.gate_maps, model.task.model, stream=stream)
    want = jax.jit(gate_maps)(model.variables, *inputs)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)
  assert np.ptp(maps["rgb gate"][:, 0].mean((1, 2))) > 1e-4  # The map depends on the frames.
  assert names == [f"face 0 at {second:.1f} s" for second in (0, 0.6, 1.8, 2.4)]
  assert title == "a.mp4\ntemporal gates of layer1"
  with pytest.raises(UserError, match="unknown layer 'layer2': did you mean 'layer1'"):
    model.explanation("layer2")


def test_swaps_need_two_faces(kept, tmp_path, capsys, drawn):
  folder = kept("identity_expression_vae")
  photograph(tmp_path / "a.png", 255, 51)
  assert explain(folder, tmp_path, tmp_path / "a.png") == 0
  assert capsys.readouterr().out.splitlines() == [
    f"written: {tmp_path / 'out/swaps.png'}  (2 faces)",
    f"written: {tmp_path / 'out/interpolation.png'}  (2 faces)",
    "2 faces in 1 file",
  ]
  assert [name for name, _ in drawn] == ["swap_grid_png", "interpolation_png"]
  identities, expressions, swapped = drawn[0][1][:3]
  np.testing.assert_array_equal(identities, expressions)
  model = jaxfer.load(folder)
  encode = jax.jit(functools.partial(code_metrics.codes, model.task.model))
  codes = np.asarray(encode(model.variables, identities / np.float32(255), None))
  crossed = code_metrics.swapped(
    model.task.model, codes, codes[::-1]
  )  # Identities 0 and 1, expressions 1 and 0.
  want = 255 * code_metrics.decode(model.task.model, model.variables, np.concatenate([codes, crossed]))
  found = swapped["expression of"][[0, 1, 1, 0], [0, 1, 0, 1]]
  np.testing.assert_allclose(found, want, rtol=0, atol=1)
  source, target, between = drawn[1][1][:3]
  np.testing.assert_array_equal([source, target], identities)
  np.testing.assert_array_equal(between["decoded"][-1], swapped["expression of"][1, 0])

  film(tmp_path / "dark.mp4", [0])
  assert explain(folder, tmp_path, tmp_path / "dark.mp4") == 2
  assert "0 faces found, but 2 or more are needed: give more photographs" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("name", "overrides", "layer", "match"),
  [
    ("vae", (), None, "VAE has one code for identity and expression.*only identity_expression_vae"),
    ("two_stream_conv_rnn", ("model.temporal_gate=false",), None, "train with model.temporal_gate=true"),
    ("stacked_autoencoder", (), "encoder1", "layer 'encoder1': this model is explained by effective pixels"),
    ("identity_expression_vae", (), "encoder", "explained by swapping its two codes; leave the layer out"),
  ],
)
def test_what_cannot_be_explained(kept, name, overrides, layer, match):
  with pytest.raises(UserError, match=match):
    jaxfer.load(kept(name, *overrides)).explanation(layer)


def test_a_classifier_of_clips_is_refused(kept, tmp_path):
  model = jaxfer.load(kept("classifier"))
  model = dataclasses.replace(model, input_spec=InputSpec("sequence", (3, 4, 4, 3)))
  with pytest.raises(
    UserError, match="reads clips: of such models, only a two_stream_conv_rnn with a temporal"
  ):
    explaining.run(model, ["a.mp4"], tmp_path)


def test_a_net_without_maps(kept, tmp_path, capsys):
  photograph(tmp_path / "a.png", 255, 51)
  folder = kept("classifier", "model=tests.cnn:Plain")
  assert explain(folder, tmp_path, tmp_path / "a.png") == 2
  assert "has no submodule whose output is a map" in capsys.readouterr().err


def test_nothing_that_can_be_read(kept, tmp_path, capsys):
  (tmp_path / "a.jpg").write_bytes(b"x")
  assert explain(kept("stacked_autoencoder"), tmp_path, tmp_path / "a.jpg") == 2
  assert "of 1 file, none can be read" in capsys.readouterr().err


class Net(nn.Module):
  """A small converted classifier."""

  num_classes: int = 2

  @nn.compact
  def __call__(self, x, *, train):
    del train
    x = nn.relu(nn.Conv(2, (2, 2), (2, 2), name="conv")(x))
    return nn.Dense(self.num_classes)(x.mean((1, 2)))


def test_converted_weights(tmp_path, drawn):
  meta = {"model": "Net", "mean": [0.2, 0.4, 0.6], "std": [0.5, 0.25, 0.125], "input_size": 8}
  meta |= {"colour_order": "RGB", "output": "logits"}
  variables = Net().init(jax.random.key(0), np.zeros((1, 8, 8, 3)), train=False)
  model = Converted(Net(), variables, None, meta)
  photograph(tmp_path / "a.png", 255, 51)
  explaining.run(model, [str(tmp_path / "a.png")], tmp_path, log=lambda line: None)
  ((_, (faces, _, title)),) = drawn
  assert title.endswith("conv, 4 x 4 cells")
  found = model.predict_proba(np.stack([face.picture for face in faces]))
  np.testing.assert_allclose([dict(face.probabilities)["1"] for face in faces], found[:, 1], atol=1e-5)


def test_the_faces_that_are_drawn():
  def picture(frame, count):
    return Picture("a", None, [Face((0, 0, 1, 1), 0.5, np.zeros(1))] * count, frame=frame)

  def chosen(pictures, most):
    return [(pictures.index(of), number) for of, number, _ in explaining._chosen(pictures, most)]

  assert chosen([picture(None, 5)], 3) == [(0, 0), (0, 1), (0, 2)]
  assert chosen([picture(0, 2), picture(1, 1)], 3) == [(0, 0), (0, 1), (1, 0)]
  assert chosen([picture(k, 2) for k in range(5)], 3) == [(0, 0), (2, 0), (4, 0)]
  thinned = Thinned(4)
  for k in range(13):
    thinned.add(k)
  assert thinned.items == [0, 4, 8, 12]
