"""Tests that state dicts are found inside the wrappers of training programs, with unchanged number types."""

import chex
import ml_dtypes
import numpy as np
import pytest

from jaxfer.convert import checkpoint
from jaxfer.errors import UserError
from tests.convert import written

NET = {"conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bn1.weight": np.ones(2, np.float32)}
OTHER = {"conv1.weight": np.zeros((2, 3), np.float32)}
OPTIMIZER = {
  "state": {0: {"step": np.array(3, np.float32), "exp_avg": NET["conv1.weight"]}},
  "param_groups": [{"lr": 1.0}],
}
# A whole module with its class, no arguments, and its state.
MODULE = written.Opcodes(b"cmy.nets\nNet\n)\x81}b")
FORMATS = {"zip": written.zipped, "legacy": written.legacy, "safetensors": written.safetensors}


@pytest.fixture
def read(tmp_path):
  def read(value, write=written.zipped):
    (tmp_path / "a.pth").write_bytes(write(value))
    return checkpoint.read(tmp_path / "a.pth")

  return read


def prefixed(prefix, net=NET):
  return {prefix + name: tensor for name, tensor in net.items()}


@pytest.mark.parametrize("write", [written.zipped, written.legacy])
@pytest.mark.parametrize(
  ("value", "unwrapped", "left_out"),
  [
    (NET, (), ()),
    ({"epoch": 3, "state_dict": NET, "optimizer": OPTIMIZER}, ("state_dict",), ()),
    ({"optimizer_state_dict": OPTIMIZER, "model_state_dict": NET, "loss": 0.5}, ("model_state_dict",), ()),
    ({"model": NET, "args": {"lr": 0.1}}, ("model",), ()),
    ({"module": NET, "lr_scheduler": None}, ("module",), ()),
    ({"net": NET, "acc": 91.5, "epoch": 9}, ("net",), ()),
    ({"ema": NET}, ("ema",), ()),
    ({"state_dict": {"model": {"module": NET}}}, ("state_dict", "model", "module"), ()),
    ({"model": {"model": NET}}, ("model", "model"), ()),
    ({"ema": OTHER, "model": NET}, ("model",), ("ema",)),
    ({"student": OTHER, "teacher": NET, "optimizer": OPTIMIZER}, ("teacher",), ("student",)),
    ({"state_dict": {"ema": OTHER, "net": NET}}, ("state_dict", "net"), ("ema",)),
    ({"model": {"name": "resnet18"}, "weights": NET}, ("weights",), ()),
    ({"model": MODULE, "state_dict": NET}, ("state_dict",), ()),
    ({"state_dict": NET, "mean": np.zeros(3, np.float32)}, ("state_dict",), ("mean",)),
    ({**NET, "ema": OTHER}, (), ("ema",)),
    ({**NET, "epoch": 3, "optimizer": OPTIMIZER}, (), ("epoch", "optimizer")),
    ({"state_dict": {**NET, "version": "1.0"}}, ("state_dict",), ("version",)),
  ],
)  # fmt: skip
def test_wrappers(read, write, value, unwrapped, left_out):
  got = read(value, write)
  assert (got.unwrapped, got.left_out) == (unwrapped, left_out)
  chex.assert_trees_all_equal(got.tensors, NET)


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
  ("prefix", "unwrapped"),
  [
    ("module.", ("module.",)),
    ("_orig_mod.", ("_orig_mod.",)),
    ("module._orig_mod.", ("module.", "_orig_mod.")),
    ("_orig_mod.module.", ("module.", "_orig_mod.")),
    ("module.module.", ("module.",)),
    ("_fsdp_wrapped_module.", ("_fsdp_wrapped_module.",)),
  ],
)
def test_names_of_what_ran_the_net(read, write, prefix, unwrapped):
  got = read(prefixed(prefix), write)
  assert got.unwrapped == unwrapped
  assert set(got.tensors) == set(NET)


def test_names_of_what_ran_a_part(read):
  """This occurs if only a part was compiled or parallel; a tensor itself may also have such a name."""
  got = read(
    {"layer1._orig_mod.0.weight": NET["bn1.weight"], "n": NET["bn1.weight"], "a.module": NET["bn1.weight"]}
  )
  assert set(got.tensors) == {"layer1.0.weight", "n", "a.module"}
  with pytest.raises(
    UserError, match=r"a\.pth: two of its tensors are named 'bn1\.weight' without module\.: save"
  ):
    read({"bn1.weight": NET["bn1.weight"], "module.bn1.weight": NET["bn1.weight"]})


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("kind", written.CODES)
def test_types(read, write, kind):
  """The values are 1, 2 and 4, which every type can represent."""
  dtype = np.dtype(getattr(ml_dtypes, kind) if hasattr(ml_dtypes, kind) else kind)
  want = np.array([1, 2, 4]).astype(dtype)
  scalar = want[1:2].reshape(())
  got = read({"x": want, "scalar": scalar, "empty": want[:0]}, write).tensors
  assert {tensor.dtype for tensor in got.values()} == {dtype}
  np.testing.assert_array_equal(got["x"].astype(np.float32), want.astype(np.float32))
  assert got["scalar"].shape == ()
  assert got["scalar"].astype(np.float32) == scalar.astype(np.float32)
  assert got["empty"].shape == (0,)


@pytest.mark.parametrize("write", [written.zipped, written.legacy])
@pytest.mark.parametrize(
  ("value", "match"),
  [
    (MODULE, r"the file names my\.nets\.Net: .*save the model's state_dict\(\) alone"),
    ({"epoch": 3, "model": MODULE}, r"the file names my\.nets\.Net: .*save the model's state_dict\(\) alone"),
    ({"state_dict": {**NET, "head": MODULE}}, r"the file names my\.nets\.Net"),
    (
      {"epoch": 3, "optimizer": OPTIMIZER},
      r"its entry 'epoch' is not a tensor: save a state_dict\(\) alone, or under",
    ),
    ({"state_dict": {}}, "its entry 'state_dict' is not a tensor"),
    ({}, r"it holds no tensors: save a state_dict\(\)"),
    ([NET["bn1.weight"]], r"it holds a list, not a dict of tensors: save a state_dict\(\)"),
    (NET["bn1.weight"], r"it holds a tensor, not a dict of tensors"),
    ({"state_dict": {0: NET["bn1.weight"]}}, "its entry '0' has a name that is not a string"),
  ],
)
def test_files_without_a_state_dict(read, write, value, match):
  with pytest.raises(UserError, match=match) as caught:
    read(value, write)
  assert "\n" not in str(caught.value)


def test_a_module_with_its_source(read):
  """The older format stores it."""
  module = written.Opcodes(
    b"(X\x06\x00\x00\x00modulecmy.nets\nNet\nX\x01\x00\x00\x00fX\x01\x00\x00\x00stQ)\x81}b"
  )
  with pytest.raises(UserError, match=r"the file names my\.nets\.Net: .*state_dict\(\) alone"):
    read(module, written.legacy)


def test_wrappers_in_wrappers_have_an_end(read):
  """This holds even if a dict contains itself, or the same dict many times."""
  names = b"".join(written.body(name, ()) + b"h\x00" for name in checkpoint.WRAPPERS)
  with pytest.raises(UserError, match="is not a tensor"):
    read(written.Opcodes(b"}q\x00(" + names + b"u"))
