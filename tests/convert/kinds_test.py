"""Tests that files which are not checkpoints are recognised by content, not by name, and that messages give the fix."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from jaxfer import cli
from jaxfer.convert import checkpoint
from jaxfer.errors import UserError
from tests.convert import written

ARRAYS = {"conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}


def zipped(*names, content=b"x"):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w") as file:
    for name in names:
      file.writestr(name, content)
  return stream.getvalue()


def encrypted(data):
  """Sets the flag of encryption in every header of a zip archive."""
  for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
    start = 0
    while (start := data.find(magic, start)) >= 0:
      data = data[: start + place] + b"\x01" + data[start + place + 1 :]
      start += 4
  return data


def tarred():
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode="w") as file:
    file.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())
  return stream.getvalue()


def arrays_of_numpy(**arrays):
  stream = io.BytesIO()
  np.savez(stream, **arrays)
  return stream.getvalue()


OTHERS = {
  "nothing": (b"", "an empty file: download it again"),
  "zeros": (bytes(5000), "a file of zeros, so the download was interrupted"),
  "npz": (arrays_of_numpy(a=np.zeros(3)), "a NumPy .npz archive"),
  "npz_compressed": (zipped("w/fc.npy"), "a NumPy .npz archive"),
  "docx": (zipped("[Content_Types].xml", "word/document.xml"), "an Office document"),
  "jar": (zipped("META-INF/MANIFEST.MF", "A.class"), r"a \.jar archive"),
  "keras": (zipped("config.json", "model.weights.h5"), r"a \.keras archive"),
  "pictures": (zipped("faces/1.png", "faces/2.png"), "a zip archive that contains 'faces/1.png'"),
  "text_zip": (zipped("foo/bar.txt"), "a zip archive that contains 'foo/bar.txt'"),
  "weights_zip": (zipped("read.me", "best.pth"), "a zip archive that contains 'best.pth': unpack it"),
  "line_break": (zipped("a\nb"), r"a zip archive that contains 'a\\nb'"),
  "empty_zip": (zipped(), "an empty zip archive"),
  "two_nets": (zipped("a/data.pkl", "b/data.pkl"), "a zip archive that contains 'a/data.pkl'"),
  "encrypted_zip": (encrypted(zipped("faces/1.png")), "a zip archive that contains 'faces/1.png'"),
  "torchscript": (
    zipped("net/data.pkl", "net/code/__torch__/net.py", "net/constants.pkl"),
    r"a TorchScript archive: open it with torch\.jit\.load and save its state_dict\(\)",
  ),
  "export": (zipped("net/archive_format", "net/models/model.json"), r"a torch\.export program"),
  "tar": (tarred(), "a tar archive: unpack it"),
  "gz": (gzip.compress(b"x"), "a gzip file: unpack it"),
  "zstd": (b"\x28\xb5\x2f\xfd\x00", "a zstd file: unpack it"),
  "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(8), "an HDF5 file, such as Keras writes"),
  "npy": (b"\x93NUMPY\x01\x00", "a NumPy array"),
  "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x051.9.0", "an ONNX model"),
  "saved_model": (b"\x08\x01\x12\xd1\x05", "a TensorFlow SavedModel"),
  "tf_index": (b"\x00\x02\x08" + bytes(90) + bytes.fromhex("57fb808b247547db"), "a part of a TensorFlow checkpoint"),
  "tf.data-00000-of-00001": (np.float32([0.3, 2]).tobytes() * 9, "a part of a TensorFlow checkpoint"),
  "tf_names": (b'model_checkpoint_path: "model.ckpt-1"', "the index of TensorFlow checkpoints"),
  "tflite": (b"\x1c\x00\x00\x00TFL3", "a TensorFlow Lite model"),
  "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer.*git lfs pull"),
  "page": (b"\n<!DOCTYPE html><html>", "a web page, so the download failed"),
  "page_with_mark": (b"\xef\xbb\xbf<HTML lang=en>", "a web page, so the download failed"),
  "denied": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page, so the download failed"),
  "json": (json.dumps({"error": "not found"}).encode(), "a text file that begins with '{\"error\": \"not found\"}'"),
  "text": ("重み\nnot weights".encode(), r"a text file that begins with '重み\\nnot weights'"),
  "long_text": (b"a" + "é".encode() * 9000, "a text file that begins with"),
  "png": (b"\x89PNG\r\n\x1a\n", "a picture"),
  "pickle": (pickle.dumps({"a": 1}), r"a pickle that torch\.save did not write"),
  "noise": (b"\x01\xfe\xdc\x00\x99" * 9, r"something else: give a \.pth, \.pt, \.ckpt or \.safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
@pytest.mark.parametrize("kind", OTHERS)
def test_other_files(tmp_path, kind, suffix):
  data, match = OTHERS[kind]
  path = tmp_path / (kind if kind.startswith("tf.") else kind + suffix)
  path.write_bytes(data)
  with pytest.raises(UserError, match=f"not a PyTorch or safetensors file but {match}") as caught:
    checkpoint.read(path)
  assert str(caught.value).startswith(str(path))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write", [written.zipped, written.legacy, written.safetensors])
@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.ckpt", "a.safetensors", "a.bin", "a"])
def test_the_name_decides_nothing(tmp_path, write, name):
  path = tmp_path / name
  path.write_bytes(write(ARRAYS))
  np.testing.assert_array_equal(checkpoint.read(path).tensors["conv1.weight"], ARRAYS["conv1.weight"])


def test_archives_of_pytorch_that_cannot_be_read(tmp_path):
  path = tmp_path / "a.pth"
  whole = written.zipped(ARRAYS)
  for data, match in (
    (encrypted(whole), "its zip archive is encrypted: save it again"),
    (whole[:-40], r"a damaged PyTorch file \(BadZipFile.*\): download or save it again"),
    (whole[:30], "a damaged PyTorch file"),
  ):
    path.write_bytes(data)
    with pytest.raises(UserError, match=match):
      checkpoint.read(path)


def test_paths_that_are_not_files(tmp_path):
  with pytest.raises(UserError, match=r"is a directory: give a \.pth, \.pt, \.ckpt or \.safetensors file$"):
    checkpoint.read(tmp_path)
  (tmp_path / "model.safetensors").write_bytes(b"")
  with pytest.raises(UserError, match=r"is a directory: .*, such as model\.safetensors in it$"):
    checkpoint.read(tmp_path)
  with pytest.raises(UserError, match="/dev/zero is not a regular file"):
    checkpoint.read("/dev/zero")
  with pytest.raises(UserError, match="Not a directory"):
    checkpoint.read(tmp_path / "model.safetensors/a.pth")


def test_at_the_command_line(tmp_path, capsys):
  (tmp_path / "a.pth").write_bytes(OTHERS["text_zip"][0])
  assert cli.main(["convert", "torchvision_resnet18", str(tmp_path / "a.pth"), str(tmp_path / "out")]) == 2
  error = capsys.readouterr().err
  assert error.startswith(
    f"jaxfer: {tmp_path / 'a.pth'}: not a PyTorch or safetensors file but a zip archive"
  )
  assert error.count("\n") == 1
  assert not (tmp_path / "out").exists()
