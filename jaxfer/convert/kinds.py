"""Recognises files that are not PyTorch checkpoints, so that the error can say what they are and what to do."""

import re
from collections.abc import Sequence

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
_NAMES = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file"
GIVE = f"give a {_NAMES}"
_UNPACK = f"unpack it and give the {_NAMES} inside"
_OTHER = "give weights that PyTorch or safetensors saved"
_AGAIN = "download it again"


class Refused(ValueError):
  """The file cannot be read. The message says why and what to do."""


# A regular expression for the beginning of a file, what the file is, and what to do.
_BEGINNINGS = (
  (rb"version https://git-lfs", "a Git LFS pointer in place of the file", "run `git lfs pull` in its repository"),
  (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|!--)", "a web page, so the download failed",
   "download the file itself"),
  (rb"\x1f\x8b", "a gzip file", _UNPACK),
  (rb"BZh", "a bzip2 file", _UNPACK),
  (rb"\xfd7zXZ\x00", "an xz file", _UNPACK),
  (rb"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
  (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
  (rb"Rar!", "a RAR archive", _UNPACK),
  (rb"(?s).{257}ustar", "a tar archive", _UNPACK),
  (rb"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes", _OTHER),
  (rb"\x93NUMPY", "a NumPy array", _OTHER),
  (rb"GGUF", "a GGUF file", _OTHER),
  (rb"(?s).{4}TFL3", "a TensorFlow Lite model", _OTHER),
  (rb"\x08\x01[\x12\x1a]", "a TensorFlow SavedModel", _OTHER),
  (rb"\x08[\x02-\x20][\x12\x1a\x22\x3a\x42]", "an ONNX model", _OTHER),
  (rb"model_checkpoint_path:", "the index of TensorFlow checkpoints", _OTHER),
  (rb"(?s)\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\x00{4}|RIFF", "a picture or a video", _OTHER),
  (rb"%PDF", "a PDF", _OTHER),
  (rb"\x80[\x02-\x05]", "a pickle that torch.save did not write",
   "load it with the program that wrote it, and save it with torch.save"),
)  # fmt: skip
_TABLE_END = bytes.fromhex(
  "57fb808b247547db"
)  # The last bytes of a LevelDB table, the format of TensorFlow's index files.
# The same for zip archives; here the regular expression is for the name of a member.
_MEMBERS = (
  (r"(^|/)constants\.pkl$", "a TorchScript archive", "open it with torch.jit.load and save its state_dict()"),
  (r"(^|/)archive_format$|serialized_exported_program", "a torch.export program",
   "save the model's state_dict() instead"),
  (r"\.npy$", "a NumPy .npz archive", _OTHER),
  (r"^model\.weights\.h5$", "a .keras archive", _OTHER),
  (r"^META-INF/", "a .jar archive", _OTHER),
  (r"^\[Content_Types\]\.xml$", "an Office document", _OTHER),
)  # fmt: skip


def refusal(name: str, data: bytes) -> Refused:
  """Returns the error for a file that is neither a PyTorch nor a safetensors file, from its name and content."""
  return _refused(*_kind(name, data))


def archive_refusal(names: Sequence[str]) -> Refused:
  """Returns the error for a zip archive that `torch.save` did not write, from the names of its members."""
  for pattern, what, fix in _MEMBERS:
    if any(re.search(pattern, name) for name in names):
      return _refused(what, fix)
  if not names:
    return _refused("an empty zip archive", _AGAIN)
  weights = [name for name in names if name.endswith(SUFFIXES)]
  what = f"a zip archive that contains {(weights or names)[0][:60]!r}"
  return _refused(what, _UNPACK if weights else _OTHER)


def _refused(what: str, fix: str) -> Refused:
  return Refused(f"not a PyTorch or safetensors file but {what}: {fix}")


def _kind(name: str, data: bytes) -> tuple[str, str]:
  if not data:
    return "an empty file", _AGAIN
  for pattern, what, fix in _BEGINNINGS:
    if re.match(pattern, data):
      return what, fix
  if data.endswith(_TABLE_END) or re.search(r"\.data-\d+-of-\d+$", name):
    return "a part of a TensorFlow checkpoint", _OTHER
  head = data[:4096]
  if not head.strip(b"\0"):
    return "a file of zeros, so the download was interrupted", _AGAIN
  text = head.decode("utf-8", "replace").rstrip("\ufffd")  # The last character may be cut off.
  if text and all((c.isprintable() or c.isspace()) and c != "\ufffd" for c in text):
    return f"a text file that begins with {text.strip()[:40]!r}", _OTHER
  return "something else", GIVE
