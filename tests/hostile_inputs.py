"""Makes hostile files: damaged copies of valid files, and attacks that are written for a format."""

import csv
import hashlib
import io
import json
import pathlib
import pickle
import pickletools
import random
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from jaxfer import config
from jaxfer.config import Call, RunConfig
from jaxfer.train import weights
from tests.fixtures import casia_webface_tree as records

_FIXTURES = pathlib.Path(__file__).parent / "convert/fixtures"
_NUMBERS = (
  0,
  1,
  2,
  0x7F,
  0xFF,
  0x7FFF,
  0xFFFF,
  2**31 - 1,
  2**31,
  2**32 - 1,
  2**62,
  2**63 - 1,
  2**63,
  2**64 - 1,
)
_TEXTS = (
  "", " ", "0", "-1", "1e999", "nan", "None", "true", "../../etc/passwd", "/absolute", "a/../../b", "C:\\x", "\x00",
 "\ufeff",
  "\ud800", "é", "\u202e", "x" * 5000, "1" * 5000, "=1+1", '"', "'", ",", "\t", "\r\n", "{", "[[[[", "__import__('os')",
)  # fmt: skip
Draw = random.Random


def damaged(draw: Draw, data: bytes) -> bytes:
  """Changes, removes, inserts or repeats bytes at one to eight places, or cuts the rest off there."""
  changed = bytearray(data)
  for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
    place = draw.randrange(len(changed) + 1)
    end = min(len(changed), place + draw.choice((1, 2, 4, 8, 64)))
    match draw.randrange(7):
      case 0:
        changed[place:end] = draw.randbytes(end - place)
      case 1:
        number = draw.choice(_NUMBERS).to_bytes(8, draw.choice(("little", "big")))
        changed[place:end] = number[: end - place] if draw.random() < 0.5 else number[8 - (end - place) :]
      case 2:
        del changed[place:end]
      case 3:
        changed[place:place] = draw.randbytes(draw.choice((1, 4, 32)))
      case 4:
        changed[place:place] = changed[place:end] * draw.choice((1, 2, 100))
      case 5:
        del changed[place:]
      case _ if place < len(changed):
        changed[place] ^= 1 << draw.randrange(8)
  return bytes(changed)


def or_damaged(make: Callable[[Draw], bytes]) -> Callable[[Draw], bytes]:
  """Returns a generator that damages half of the inputs of another one."""

  def made(draw: Draw) -> bytes:
    data = make(draw)
    return damaged(draw, data) if draw.random() < 0.5 else data

  return made


def fixture(*names: str) -> Callable[[Draw], bytes]:
  return lambda draw: damaged(draw, (_FIXTURES / draw.choice(names)).read_bytes())


_OPCODES = {opcode.name: opcode for opcode in pickletools.opcodes}
_NAMES = (
  "os\nsystem", "builtins\neval", "builtins\ngetattr", "subprocess\nPopen", "torch._utils\n_rebuild_tensor_v2",
 "torch\nSize",
  "collections\nOrderedDict", "numpy\nndarray", "numpy\ndtype", "numpy.core.multiarray\n_reconstruct",
 "_codecs\nencode",
  "torch\nFloatStorage", "torch.nn.parameter\nParameter",
)  # fmt: skip


def _argument(draw: Draw, opcode: pickletools.OpcodeInfo) -> bytes:
  """Draws a plausible argument for an opcode. Its length may be wrong."""
  kind = opcode.arg.name if opcode.arg else ""
  text = draw.choice(_TEXTS).encode("utf-8", "surrogatepass")[:200]
  if kind == "stringnl_noescape_pair":
    return draw.choice(_NAMES).encode() + b"\n"
  if kind.endswith("nl") or "nl_" in kind:
    return draw.choice((b"0\n", b"-7\n", b"'a'\n", text.replace(b"\n", b"") + b"\n"))
  size = {"1": 1, "2": 2, "4": 4, "8": 8}.get(next((c for c in kind if c in "1248"), ""), 0)
  if opcode.arg and opcode.arg.n < 0 and size:  # A length, followed by that many bytes.
    length = len(text) if draw.random() < 0.9 else draw.choice(_NUMBERS)
    return (length % 256**size).to_bytes(size, "little") + text
  if opcode.arg and opcode.arg.n > 0:
    value = draw.randrange(4) if draw.random() < 0.8 else draw.choice(_NUMBERS)
    return (value % 256**opcode.arg.n).to_bytes(opcode.arg.n, "little")
  return b""


def _assembled(draw: Draw) -> bytes:
  """Draws a pickle of random opcodes, which include names and calls, or a pickle of shared parts (`_shared`)."""
  if draw.random() < 0.1:
    return _shared(draw)
  names = [name for name in _OPCODES if name not in ("STOP", "PROTO", "FRAME")]
  body = b""
  for _ in range(draw.choice((3, 10, 40))):
    opcode = _OPCODES[draw.choice(names)]
    body += opcode.code.encode("latin-1") + _argument(draw, opcode)
  return b"\x80\x02" + draw.choice((b"", b"}", b"(", b"](")) + body + b"."


def _shared(draw: Draw) -> bytes:
  """Draws a pickle of nested tuples. Each holds the next one many times. The outermost is a key or value of a dict."""
  levels, times = draw.choice(((60, 2), (20, 9), (4, 250)))
  body = b"K\x01\x85q\x00"
  for level in range(levels):
    body += b"(" + b"h" + bytes([level])
    body += (b"h" + bytes([level])) * (times - 1) + b"tq" + bytes([level + 1])
  return b"\x80\x02}" + (body + b"K\x01" if draw.random() < 0.5 else b"K\x01" + body) + b"s."


def torch_zip(draw: Draw) -> bytes:
  """Draws a PyTorch archive that contains a drawn pickle or a large member, and hostile names."""
  pickled = _assembled(draw)
  stream = io.BytesIO()
  compression = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
  with zipfile.ZipFile(stream, "w", compression) as file:
    file.writestr("w/data.pkl", pickled if draw.random() < 0.8 else bytes(1 << 20))
    file.writestr(f"w/data/{draw.choice(('0', '../0', '/0', '', '0' * 300))}", draw.randbytes(24))
    if draw.random() < 0.2:
      file.writestr("w/byteorder", draw.choice((b"big", b"little", b"")))
  return stream.getvalue()


def torch_file(draw: Draw) -> bytes:
  """Draws a damaged PyTorch file, or a PyTorch archive with a drawn pickle."""
  return draw.choice((fixture("views.pth", "kinds.pth", "arm.pth"), or_damaged(torch_zip)))(draw)


def _tree(draw: Draw, depth: int = 0) -> Any:
  """Draws any JSON value."""
  kinds = ["text", "number", "plain"] + (["list", "object"] * 2 if depth < 4 else [])
  match draw.choice(kinds):
    case "text":
      return draw.choice(_TEXTS)
    case "number":
      return draw.choice((0, -1, 0.5, 1e308, float("nan"), float("inf"), 10**400, *_NUMBERS))
    case "list":
      return [_tree(draw, depth + 1) for _ in range(draw.choice((0, 1, 3)))]
    case "object":
      return {draw.choice(_TEXTS): _tree(draw, depth + 1) for _ in range(draw.choice((0, 1, 3)))}
  return draw.choice((None, True, False))


def _changed_tree(draw: Draw, tree: Any) -> Any:
  """Returns the tree with one value replaced, removed or added somewhere."""
  if isinstance(tree, dict) and tree and draw.random() < 0.85:
    key = draw.choice(list(tree))
    match draw.randrange(8):
      case 0:
        return {k: v for k, v in tree.items() if k != key}
      case 1:
        return {**tree, draw.choice(_TEXTS): _tree(draw)}
    return {**tree, key: _changed_tree(draw, tree[key])}
  if isinstance(tree, list) and tree and draw.random() < 0.85:
    at = draw.randrange(len(tree))
    return [*tree[:at], _changed_tree(draw, tree[at]), *tree[at + 1 :]]
  return _tree(draw)


def _json(tree: Any) -> bytes:
  return json.dumps(tree).encode("utf-8")


def _deep(draw: Draw) -> bytes:
  """Returns JSON that is nested a hundred thousand levels deep."""
  return draw.choice((b"[", b'{"a":')) * 100_000


def safetensors(draw: Draw) -> bytes:
  header: dict[str, Any] = {
    "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "a.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "__metadata__": {"format": "pt"},
  }
  if draw.random() < 0.1:
    header["a.bias"]["shape"] = [draw.choice(_NUMBERS)] * draw.choice((65, 100_000))
  for _ in range(draw.choice((0, 1, 2))):
    header = _changed_tree(draw, header)
  text = _json(header) if draw.random() < 0.95 else b'{"a":' + _deep(draw)
  length = len(text) if draw.random() < 0.8 else draw.choice(_NUMBERS)
  return length.to_bytes(8, "little") + text + bytes(draw.choice((0, 32, 32, 32, 33)))


def npz(draw: Draw) -> bytes:
  """Draws weights as jaxfer stores them, with damaged arrays, impossible shapes in .npy headers, or compression."""
  stream = io.BytesIO()
  compression = zipfile.ZIP_DEFLATED if draw.random() < 0.2 else zipfile.ZIP_STORED
  with zipfile.ZipFile(stream, "w", compression) as file:
    for name in draw.choice(
      (("params/a/kernel.npy", "params/a/bias.npy"), ("a.npy", "a/b.npy"), ("../a.npy",))
    ):
      array = io.BytesIO()
      np.save(array, np.arange(6).astype(draw.choice(("f4", "i8", "?", "U2", "c8"))).reshape(2, 3))
      data = array.getvalue()
      if draw.random() < 0.5:
        size = draw.choice(
          ("(2, 3)", "(2**40,)", f"({2**62},)", f"({10**20},)", "(-1, 3)", "(1,) * 10**9", "(" * 300, "None")
        )
        data = data.replace(b"(2, 3)", size.encode())
      file.writestr(name, damaged(draw, data) if draw.random() < 0.5 else data)
  return stream.getvalue()


def described(data: bytes) -> dict[str, bytes]:
  """Returns a weights.json with the right digest, so that jaxfer reads the content of weights.npz."""
  meta = {"format": weights.FORMAT, "sha256": hashlib.sha256(data).hexdigest()}
  return {"weights.json": _json(meta)}


def record_file(draw: Draw) -> bytes:
  frames = [records.frame(records.payload(draw.choice((1.0, (1.0, 2.0))), k, b"image")) for k in range(3)]
  if draw.random() < 0.3:
    part, length = draw.randrange(8), draw.choice(_NUMBERS) % (1 << 29)
    frames.insert(draw.randrange(4), records.MAGIC + struct.pack("<I", part << 29 | length))
  if draw.random() < 0.05:
    frames = [records.MAGIC + struct.pack("<I", 1 << 29)] + [
      records.MAGIC + struct.pack("<I", 2 << 29)
    ] * 70_000
  return b"".join(frames)


def lines(draw: Draw, header: str, columns: int) -> bytes:
  """Draws a table with a header. Some cells are hostile."""
  stream = io.StringIO()
  delimiter = draw.choice(",,,;\t")
  writer = csv.writer(stream, delimiter=delimiter, lineterminator=draw.choice(("\n", "\r\n", "\r")))
  writer.writerow(header.split(","))
  for number in range(draw.choice((1, 3, 3, 3, 10))):
    cells = [str(number + 1), *(draw.choice(("joy", "joy", "joy", "joy", "p1")) for _ in range(columns - 1))]
    if draw.random() < 0.1:
      cells[draw.randrange(columns)] = draw.choice(_TEXTS)
    writer.writerow(cells * draw.choice((1, 1, 1, 1, 1, 1000)))
  text = stream.getvalue()
  return draw.choice((b"", b"\xef\xbb\xbf")) + text.encode(draw.choice(("utf-8", "utf-16")), "surrogatepass")


def index(draw: Draw) -> bytes:
  words = [str(n) for n in (0, 1, 2, 40, 2**64, -1)] + ["x", "", "1.5", "9" * 300]
  lines = [f"{k if draw.random() < 0.9 else draw.choice(words)}\t{draw.choice(words)}" for k in range(5)]
  return draw.choice(("\n", "\r\n", " ")).join(lines).encode()


def zip_file(draw: Draw) -> bytes:
  """Draws an archive of pictures with names that lead outside of it, symbolic links, and members of 20 MB."""
  stream = io.BytesIO()
  method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
  with (
    warnings.catch_warnings(action="ignore"),  # zipfile warns about duplicate names.
    zipfile.ZipFile(stream, "w", method) as file,
  ):
    for _ in range(3):
      name = draw.choice(
        ("a.png", "../a.png", "/etc/passwd", "a/" * 1000 + "b", "\\\\x\\y", "a\x00b", "é.png")
      )
      info = zipfile.ZipInfo(name)
      info.compress_type = method
      if draw.random() < 0.3:
        info.external_attr = 0o120777 << 16  # A symbolic link.
      size = 20_000_000 if draw.random() < 0.02 else 300
      file.writestr(info, b"/etc/passwd" if draw.random() < 0.3 else bytes(size))
  return stream.getvalue()


def tar_file(draw: Draw) -> bytes:
  """Draws an archive with hostile names, links, devices and sizes, or with a long row of extended headers."""
  stream = io.BytesIO()
  form = draw.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
  with tarfile.open(fileobj=stream, mode="w:", format=form) as file:
    for _ in range(3):
      info = tarfile.TarInfo(draw.choice(("a.png", "../a.png", "/etc/passwd", "a/" * 40 + "b", "é" * 40)))
      info.type = draw.choice(
        (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
      )
      info.linkname = "/etc/passwd"
      info.size = 5 if info.isreg() else 0
      file.addfile(info, io.BytesIO(b"image"))
  data = bytearray(stream.getvalue())
  if draw.random() < 0.4:
    size = draw.choice((-1, -512, -1024, 2**40, 2**62, 0))
    blocks = [at for at in range(0, len(data), 512) if data[at]]
    patch(data, draw.choice(blocks), size, draw.choice(b"0125xLKgSA").to_bytes(1, "big"))
  if draw.random() < 0.05:  # A row of extended headers, each of which describes the next one.
    head = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    patch(head, 0, 0, draw.choice((b"x", b"L", b"K", b"g")))
    data = head * 3000 + data
  return bytes(data)


def patch(data: bytearray, at: int, size: int, kind: bytes) -> None:
  """Replaces the size and type in a tar header, and updates its checksum."""
  data[at + 124 : at + 136] = (
    b"\xff" + (size % 256**11).to_bytes(11, "big") if size < 0 else b"\x80" + size.to_bytes(11, "big")
  )
  data[at + 156 : at + 157] = kind
  data[at + 148 : at + 156] = b" " * 8
  data[at + 148 : at + 156] = b"%06o\x00 " % sum(data[at : at + 512])


def pairs(draw: Draw) -> bytes:
  images, same = [b"image"] * 4, [True, False]
  value: Any = draw.choice(((images, same), (images, np.array(same)), ([np.zeros(5, np.uint8)] * 4, same)))
  data = pickle.dumps(value, draw.choice((0, 1, 2, 4)))
  return _assembled(draw) if draw.random() < 0.5 else damaged(draw, data)


def picture(draw: Draw) -> bytes:
  stream = io.BytesIO()
  form = draw.choice(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"))
  Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(stream, form)
  data = stream.getvalue()
  # A PNG header with a valid checksum that declares 9 to 4,225 megapixels.
  if form == "PNG" and draw.random() < 0.2:
    edge = draw.choice((3_000, 9_000, 65_000))
    chunk = b"IHDR" + struct.pack(">II", edge, edge) + data[24:29]
    return data[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
  return damaged(draw, data)


RUN = RunConfig(
  recipe=Call("two_stream_conv_rnn", learning_rate=1e-3), model=Call("two_stream_conv_rnn", features=(4, 8)),
  data=Call("synthetic_sequences", num_frames=4),
)  # fmt: skip


def config_json(draw: Draw) -> bytes:
  tree = json.loads(config.to_json(RUN))
  for _ in range(draw.choice((1, 2))):
    tree = _changed_tree(draw, tree)
  return _json(tree) if draw.random() < 0.97 else _deep(draw)


def assignment(draw: Draw) -> bytes:
  keys = (
    "batch_size",
    "model.features",
    "recipe.learning_rate",
    "data.num_frames",
    "split.test",
    "execution.devices",
    "x.y",
    "",
  )
  values = (
    *_TEXTS,
    "(4,8)",
    "(" * 1000,
    "[" * 100_000,
    "1" * 100_000,
    "9**9**9",
    "'a'*10**10",
    "{}",
    "-" * 10_000 + "1",
  )
  return f"{draw.choice(keys)}{draw.choice('=====:')}{draw.choice(values)}".encode("utf-8", "surrogatepass")


def log(draw: Draw) -> bytes:
  return b"\n".join(_json(_tree(draw)) for _ in range(4)) if draw.random() < 0.97 else _deep(draw)
