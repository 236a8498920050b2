"""Tests that each importer puts every tensor in its place, and reports everything that does not fit."""

import errno
import functools
import json
import pathlib

import chex
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from jaxfer import cli
from jaxfer.convert import checkpoint, importers
from jaxfer.errors import UserError
from jaxfer.train.weights import load_weights
from tests.convert import written

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
# Names in the published state dicts of each kind, and their shapes at 1/64 of the widths.
SAMPLES = {
  "adaface": {
    "model.input_layer.0.weight": (1, 3, 3, 3),
    "model.input_layer.1.running_var": (1,),
    "model.input_layer.2.weight": (1,),
    "model.body.0.res_layer.0.bias": (1,),
    "model.body.2.shortcut_layer.0.weight": (2, 1, 1, 1),
    "model.body.6.shortcut_layer.1.running_mean": (8,),
    "model.body.7.res_layer.1.weight": (8, 8, 3, 3),
    "model.body.7.res_layer.3.weight": (8,),
    "model.body.4.res_layer.4.weight": (4, 4, 3, 3),
    "model.body.3.res_layer.5.running_var": (2,),
    "model.output_layer.0.weight": (8,),
    "model.output_layer.3.weight": (8, 392),
    "model.output_layer.3.bias": (8,),
    "model.output_layer.4.running_mean": (8,),
  },
  "insightface": {
    "conv1.weight": (1, 3, 3, 3),
    "prelu.weight": (1,),
    "layer1.0.downsample.0.weight": (1, 1, 1, 1),
    "layer3.1.prelu.weight": (4,),
    "layer4.0.bn3.running_var": (8,),
    "bn2.bias": (8,),
    "fc.weight": (8, 392),
    "features.bias": (8,),
  },
  "arm": {
    "features.0.weight": (1, 3, 7, 7),
    "features.1.running_mean": (1,),
    "features.4.1.conv2.weight": (1, 1, 3, 3),
    "features.7.0.downsample.0.weight": (8, 4, 1, 1),
    "features.7.0.downsample.1.running_var": (8,),
    "features.5.1.bn2.bias": (2,),
    "arm.de_albino.weight": (1, 1, 4, 4),
    "arm.bn.weight": (2,),
    "arm.alpha": (1,),
    "fc.weight": (7, 9),
    "fc.bias": (7,),
  },
  "torchvision_resnet18": {
    "conv1.weight": (1, 3, 7, 7),
    "layer2.0.downsample.0.weight": (2, 1, 1, 1),
    "layer4.1.bn2.running_var": (8,),
    "fc.weight": (5, 8),
  },
  "torchvision_resnet50": {
    "bn1.weight": (1,),
    "layer1.0.downsample.1.bias": (4,),
    "layer3.5.conv3.weight": (16, 4, 1, 1),
    "layer4.2.conv2.weight": (8, 8, 3, 3),
    "fc.weight": (5, 32),
  },
}
NARROW = {
  "adaface": {"depth": 18, "family": "adaface", "width": 1 / 64, "image_size": 112},
  "insightface": {"depth": 18, "family": "insightface", "width": 1 / 64, "image_size": 112},
  "arm": {"num_classes": 7, "width": 1 / 64, "block": 2},
  "torchvision_resnet18": {"num_classes": 5, "depth": 18, "width": 1 / 64},
  "torchvision_resnet50": {"num_classes": 5, "depth": 50, "width": 1 / 64},
}
PREFIX = {"adaface": "model."}  # Lightning's prefix.
# Number of learned parameters at full size (IResNet's last scale is not learned).
PARAMETERS = {
  "adaface": 24_020_352,
  "arm": 11_178_395,
  "insightface": 24_025_600 - 512,
  "torchvision_resnet18": 11_689_512,
  "torchvision_resnet50": 25_557_032,
}


@functools.cache
def template(name, size=96, **attributes):
  """Returns the shapes of our variables by path."""
  model = importers.MODELS[importers.IMPORTERS[name].model](**attributes)
  size = attributes.get("image_size", size)
  image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
  made = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
  return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(made, sep="/").items()}


def to_torch(array):
  """Inverts the conversion."""
  axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
  return np.ascontiguousarray(array if axes is None else array.transpose(axes))


def drawn(name, seed=0):
  """Returns random (our variables by path, the same as a state dict of PyTorch)."""
  rng, ours, torch, importer = np.random.default_rng(seed), {}, {}, importers.IMPORTERS[name]
  for path, shape in template(name, **NARROW[name]).items():
    if path.startswith("affinity/"):
      continue
    ours[path] = rng.standard_normal(shape).astype(np.float32)
    if path.endswith("/var"):
      ours[path] = np.abs(ours[path])
    key = PREFIX.get(name, "") + importers.torch_name(importer, path, NARROW[name])
    torch[key] = to_torch(ours[path])
    if key.endswith("running_var"):
      torch[key.replace("running_var", "num_batches_tracked")] = np.int64(9).reshape(())
  return ours, torch | {key: np.ones(8, np.float32) for key in importer.ones}


def of(tensors):
  return checkpoint.Checkpoint(pathlib.Path("some/file.pth"), "0" * 64, dict(tensors), ())


@pytest.mark.parametrize("name", importers.IMPORTERS)
def test_random_weights_come_back_exactly(name):
  ours, torch = drawn(name)
  for key, shape in SAMPLES[name].items():
    assert torch[key].shape == shape, key
  variables, meta = importers.variables_of(name, of(torch))
  assert meta["attributes"] == NARROW[name]
  assert meta["left_out"] == list(importers.IMPORTERS[name].ones)
  flat = traverse_util.flatten_dict(variables, sep="/")
  held = {"ema": (3, 3), "frozen": (3, 3), "ema_written": (), "frozen_written": ()} if name == "arm" else {}
  still = {f"affinity/arm/{k}": np.zeros(shape) for k, shape in held.items()}
  chex.assert_trees_all_equal(flat, ours | still)


@pytest.mark.parametrize("name", importers.IMPORTERS)
def test_the_published_sizes(name):
  """If no sizes are given, the importers require those of the published nets."""
  importer = importers.IMPORTERS[name]
  assert importer.input_size({}) == (112 if importer.output == "embedding" else 224)
  shapes = template(name, 224, **importer.attributes({}))
  counts = [np.prod(shape, dtype=int) for path, shape in shapes.items() if path.startswith("params/")]
  assert sum(counts) == PARAMETERS[name]


def test_files_without_counts_of_batches():
  """Files written before PyTorch 0.4.1, such as resnet18-5c106cde.pth, have none."""
  _, torch = drawn("torchvision_resnet18")
  old = {key: tensor for key, tensor in torch.items() if "num_batches_tracked" not in key}
  importers.variables_of("torchvision_resnet18", of(old))


def test_depth_of_a_face_net_is_counted_in_its_blocks():
  for depth, blocks, stages in ((18, 8, (2, 2, 2, 2)), (50, 24, (3, 4, 14, 3))):
    shapes = {f"body.{k}.res_layer.1.weight": () for k in range(blocks)}
    assert importers.IMPORTERS["adaface"].attributes(shapes)["depth"] == depth
    shapes = {f"layer{k}.{b}.conv1.weight": () for k, count in enumerate(stages, 1) for b in range(count)}
    attributes = importers.IMPORTERS["insightface"].attributes(shapes)
    assert attributes["depth"] == depth
    last = importers.torch_name(importers.IMPORTERS["adaface"], "params/layer4/block2/bn3/scale", attributes)
    assert last == f"body.{blocks if depth == 18 else blocks - 1}.res_layer.5.weight"
  one_hundred = {f"body.{k}.res_layer.1.weight": np.zeros(()) for k in range(49)}
  with pytest.raises(
    UserError,
    match=r"some/file\.pth: a face network with 49 blocks, but the known ones have 8 .* and 24 \(depth 50\)",
  ):
    importers.variables_of("adaface", of(one_hundred))


def test_tensors_beside_a_face_network_are_reported():
  """The head is left out. Without Lightning's prefix, another name is an error."""
  _, torch = drawn("adaface")
  head = {"head.kernel": np.zeros((8, 5), np.float32), "head.batch_mean": np.ones(1, np.float32)}
  _, meta = importers.variables_of("adaface", of(torch | head))
  assert meta["left_out"] == ["head.kernel", "head.batch_mean"]
  bare = {key.removeprefix("model."): tensor for key, tensor in torch.items()}
  _, meta = importers.variables_of("adaface", of(bare))
  assert meta["left_out"] == []
  with pytest.raises(UserError, match=r"1 unexpected: head\.kernel"):
    importers.variables_of("adaface", of(bare | {"head.kernel": head["head.kernel"]}))
  with pytest.raises(UserError, match=r"missing: body\.0.*unexpected"):
    importers.variables_of("adaface", of(drawn("insightface")[1]))


@pytest.mark.parametrize("prefix", ["model.", "features.", "model.backbone.", "q.x."])
def test_prefixes(prefix):
  """The common prefix of the net's names is found by one of them; other names are left out and reported."""
  ours, torch = drawn("torchvision_resnet18")
  head = {"head.kernel": np.zeros((8, 5), np.float32), "criterion.weight": np.ones(5, np.float32)}
  under = {prefix + key: tensor for key, tensor in torch.items()}
  variables, meta = importers.variables_of("torchvision_resnet18", of(under | head))
  assert meta["unwrapped"] == [prefix]
  assert meta["left_out"] == list(head)
  np.testing.assert_array_equal(variables["params"]["fc"]["kernel"], ours["params/fc/kernel"])
  del under[prefix + "fc.bias"]
  with pytest.raises(UserError, match=rf"\(prefix '{prefix}', 2 tensors without it\): 1 missing: fc\.bias$"):
    importers.variables_of("torchvision_resnet18", of(under | head))


@pytest.mark.parametrize("name", ["arm", "insightface", "adaface"])
def test_prefixes_of_other_nets(name):
  """Each net is recognised by the beginning of its names, such as ARM's `features`."""
  _, torch = drawn(name)
  bare = {key.removeprefix(PREFIX.get(name, "")): tensor for key, tensor in torch.items()}
  _, meta = importers.variables_of(name, of({f"features.{key}": tensor for key, tensor in bare.items()}))
  assert meta["unwrapped"] == ["features."]


def test_two_nets_in_one_file():
  _, torch = drawn("torchvision_resnet18")
  two = {f"{who}.{key}": tensor for who in ("student", "teacher") for key, tensor in torch.items()}
  with pytest.raises(
    UserError,
    match=r"some/file\.pth: it holds 2 models, with the prefixes 'student\.', 'teacher\.': save one of them alone",
  ):
    importers.variables_of("torchvision_resnet18", of(two))


def test_averaged_models():
  """`AveragedModel` stores a counter beside the weights."""
  _, torch = drawn("torchvision_resnet18")
  importers.variables_of("torchvision_resnet18", of(torch | {"n_averaged": np.array(3)}))


@pytest.mark.parametrize("name", importers.IMPORTERS)
def test_values_that_are_not_finite_are_refused(name):
  """This holds for any array, and all such arrays are named with the numbers of bad values."""
  _, torch = drawn(name)
  prefix = PREFIX.get(name, "")
  norm = next(key for key in torch if key.endswith("running_var")).removesuffix("running_var")
  kernel = next(key for key, tensor in torch.items() if tensor.ndim == 4 and tensor.size > 4)
  broken = {key: np.array(tensor) for key, tensor in torch.items()}
  broken[kernel].flat[:3] = np.nan, np.inf, -np.inf
  broken[norm + "running_mean"][0] = np.nan
  broken[norm + "running_var"][0] = -1e-3
  with pytest.raises(UserError, match=r"some/file\.pth holds values that no trained model has: ") as caught:
    importers.variables_of(name, of(broken))
  count = {key: torch[key].size for key in (kernel, norm + "running_mean", norm + "running_var")}
  kernel, norm = kernel.removeprefix(prefix), norm.removeprefix(prefix)
  for said in (
    f"{kernel} (1 NaN, 2 infinite of {count[prefix + kernel]})",
    f"{norm}running_mean (1 NaN of {count[prefix + norm + 'running_mean']})",
    f"{norm}running_var (1 negative of {count[prefix + norm + 'running_var']})",
  ):
    assert said in str(caught.value)
  assert str(caught.value).count(" of ") == 3
  broken = torch | {prefix + norm + "running_var": np.zeros_like(torch[prefix + norm + "running_var"])}
  importers.variables_of(name, of(broken))  # A variance of 0 is valid: the channel is always dark.


@pytest.mark.parametrize(
  ("dtype", "value", "said"),
  [
    ("float64", 1e39, "1 beyond float32"),
    ("float64", -1e300, "1 beyond float32"),
    ("float64", np.inf, "1 infinite"),
    ("float16", np.inf, "1 infinite"),
    ("float16", np.nan, "1 NaN"),
    (ml_dtypes.bfloat16, np.inf, "1 infinite"),
    (ml_dtypes.bfloat16, np.nan, "1 NaN"),
    (ml_dtypes.float8_e5m2, np.inf, "1 infinite"),
    (ml_dtypes.float8_e4m3fn, np.nan, "1 NaN"),
  ],
)
def test_values_of_other_types_that_are_not_finite(dtype, value, said):
  _, torch = drawn("torchvision_resnet18")
  bias = np.zeros(5, dtype)
  bias[2] = value
  with pytest.raises(
    UserError, match=rf"no trained model has: fc\.bias \({said} of 5\); the training failed"
  ):
    importers.variables_of("torchvision_resnet18", of(torch | {"fc.bias": bias}))


def test_what_is_left_out_may_hold_anything():
  _, torch = drawn("adaface")
  importers.variables_of("adaface", of(torch | {"head.kernel": np.full((8, 5), np.nan, np.float32)}))


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16", "float8_e4m3fn"])
def test_every_format_of_every_float_type_becomes_the_same_float32(tmp_path, kind):
  ours, torch = drawn("torchvision_resnet18")
  dtype = np.dtype(getattr(ml_dtypes, kind) if hasattr(ml_dtypes, kind) else kind)
  cast = {
    key: np.asarray(tensor, tensor.dtype if tensor.dtype == np.int64 else dtype)
    for key, tensor in torch.items()
  }
  for write in (written.zipped, written.legacy, written.safetensors):
    (tmp_path / "net").write_bytes(write(cast))
    variables, _ = importers.variables_of("torchvision_resnet18", checkpoint.read(tmp_path / "net"))
    flat = traverse_util.flatten_dict(variables, sep="/")
    chex.assert_type(list(flat.values()), np.float32)
    chex.assert_trees_all_equal(
      flat, {path: want.astype(dtype).astype(np.float32) for path, want in ours.items()}
    )


@pytest.mark.parametrize("shape", [(3, 1), (1 << 40, 0)])
def test_edges_of_length_zero_or_beyond_any_net(shape):
  """Shapes in a file are only compared, and nothing of their size is allocated."""
  _, torch = drawn("insightface")
  with pytest.raises(UserError, match=r"some/file\.pth does not fit 'insightface'.*fc\.weight"):
    importers.variables_of("insightface", of(torch | {"fc.weight": np.zeros(shape, np.float32)}))


def test_the_scale_that_stays_one():
  _, torch = drawn("insightface")
  torch["features.weight"][3] = 2
  with pytest.raises(UserError, match=r"some/file\.pth: features\.weight is not all ones"):
    importers.variables_of("insightface", of(torch))
  del torch["features.weight"]
  importers.variables_of("insightface", of(torch))


def test_everything_that_does_not_fit_is_listed():
  _, torch = drawn("arm")
  del torch["arm.alpha"], torch["features.4.0.bn1.running_var"]
  torch["fc.bias"] = torch["fc.bias"][:6]
  torch["features.6.0.conv1.weight"] = torch["features.6.0.conv1.weight"].transpose(1, 0, 2, 3)
  torch["arm.bn.bias"] = np.zeros(2, np.int64)
  torch |= {"head.weight": np.zeros(3), "features.4.0.num_batches_tracked": np.zeros(())}
  with pytest.raises(UserError) as caught:
    importers.variables_of("arm", of(torch))
  # The counter of a norm is recognised although its variance is missing.
  assert str(caught.value) == (
    "some/file.pth does not fit 'arm': "
    "2 missing: arm.alpha, features.4.0.bn1.running_var; "
    "2 unexpected: features.4.0.num_batches_tracked, head.weight; "
    "2 of another shape: fc.bias [6] (expected [7]), features.6.0.conv1.weight [2, 4, 3, 3] (expected [4, 2, 3, 3]); "
    "1 not of floats: arm.bn.bias (int64)"
  )


def test_a_checkpoint_of_another_net():
  _, torch = drawn("torchvision_resnet18")
  for name in ("arm", "torchvision_resnet50"):
    with pytest.raises(UserError, match=r"missing: .*; \d+ (unexpected|of another shape): "):
      importers.variables_of(name, of(torch))
  with pytest.raises(UserError, match="did you mean 'torchvision_resnet18'"):
    importers.variables_of("torchvision_resnet19", of(torch))
  with pytest.raises(UserError, match="missing"):
    importers.variables_of("arm", of({}))


def test_sizes_that_no_net_has():
  _, torch = drawn("arm")
  torch["arm.de_albino.weight"] = np.zeros((1, 1, 12, 12), np.float32)  # Blocks of 6 x 6 from 8 channels.
  with pytest.raises(UserError, match=r"some/file\.pth: 8 channels are not a multiple of 6 x 6"):
    importers.variables_of("arm", of(torch))


def test_all_formats_convert_to_the_same(tmp_path, capsys):
  tensors = checkpoint.read(FIXTURES / "arm.pth").tensors
  safe = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
  safetensors.numpy.save_file(safe, tmp_path / "arm.safetensors")
  sources = (FIXTURES / "arm.pth", FIXTURES / "arm_legacy.pth", tmp_path / "arm.safetensors")
  around = (", unwrapped from model_state_dict", ", unwrapped from model_state_dict and module.", "")
  loaded = []
  for source, unwrapped in zip(sources, around, strict=True):
    out = tmp_path / "out" / source.stem / source.suffix[1:]
    assert cli.main(["convert", "arm", str(source), str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"tensors     129{unwrapped}\n" in printed
    assert "classes     7 (surprise, fear, disgust, happiness, sadness, anger, neutral)" in printed
    loaded.append(load_weights(out))
  for variables, meta in loaded:
    chex.assert_trees_all_equal(variables, loaded[0][0])
    assert meta["importer"] == "arm"
    assert meta["label_names"][0] == "surprise"
    assert json.dumps(meta["source"])


def test_mistakes_at_the_command_line(tmp_path, capsys):
  source = str(FIXTURES / "arm.pth")
  (tmp_path / "full").mkdir()
  (tmp_path / "full/mine.txt").write_text("")
  for arguments, message in (
    (("arm", source, str(tmp_path / "full")), "exists and is not empty"),
    (("arm", source, source), "a file of that name exists there"),
    (("vgg", source, str(tmp_path / "new")), "unknown importer 'vgg'"),
    (("arm", str(tmp_path / "no.pth"), str(tmp_path / "new")), "No such file"),
    (("torchvision_resnet18", source, str(tmp_path / "new")), "does not fit"),
  ):
    assert cli.main(["convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
  assert not (tmp_path / "new").exists()


def test_folders_that_cannot_be_written(tmp_path, capsys, monkeypatch):
  (tmp_path / "file").write_text("")
  (tmp_path / "dangling").symlink_to(tmp_path / "nowhere/at/all")
  source = str(FIXTURES / "arm.pth")
  for out, why in (
    ("file/out", "Not a directory"),
    ("dangling", "File exists"),
    ("a" * 300, "File name too long"),
  ):
    assert cli.main(["convert", "arm", source, str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / out) in error
    assert why in error
    assert error.count("\n") == 1

  def full(file, **arrays):
    file.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(np, "savez", full)
  assert cli.main(["convert", "arm", source, str(tmp_path / "out")]) == 2
  assert (
    f"{tmp_path / 'out'}/weights.npz cannot be written (No space left on device)" in capsys.readouterr().err
  )
  monkeypatch.undo()
  assert cli.main(["convert", "arm", source, str(tmp_path / "out")]) == 0  # The path is free now.
