"""The kinds of files that `tests.hostile` makes, and the readers of jaxfer that it feeds them to."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from jaxfer import config, files
from jaxfer.convert import checkpoint
from jaxfer.data import decode, recordio, stills, tars
from jaxfer.data.datasets.casia_webface import verification
from jaxfer.data.datasets.manifest import table
from jaxfer.data.prepare import Findings
from jaxfer.errors import UserError
from jaxfer.report import people
from jaxfer.study import record
from jaxfer.study.task import options_of
from jaxfer.train import weights
from tests import hostile_inputs as inputs
from tests.hostile_inputs import Draw


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of file.

  Attributes:
    name: name in the report.
    make: draws the content of the file.
    read: the reader. It takes the path of the file and reads all of it.
    file: name of the file.
    errors: documented errors besides a `UserError` that names the file. If `UserError` is listed, its message need not
      name the file. The callers of the reader turn other errors into messages that name it.
    beside: makes further files of the same folder from the content. Keys are file names.
    in_folder: whether the message may name the folder of the file instead of the file.
  """

  name: str
  make: Callable[[Draw], bytes]
  read: Callable[[pathlib.Path], Any]
  file: str
  errors: tuple[type[Exception], ...] = ()
  beside: Callable[[bytes], dict[str, bytes]] = lambda data: {}
  in_folder: bool = False

  @property
  def slug(self) -> str:
    """The kind's name, as a part of file names."""
    return "".join(c if c.isalnum() else "-" for c in self.name)

  def write(self, draw: Draw, folder: pathlib.Path) -> pathlib.Path:
    """Writes an input to a folder, and returns the path of the file."""
    data = self.make(draw)
    for name, content in {self.file: data, **self.beside(data)}.items():
      (folder / name).write_bytes(content)
    return folder / self.file


def _read_records(path: pathlib.Path) -> None:
  with recordio.Reader(path) as reader:
    for offset in reader.offsets():
      header, _ = reader.header(offset)
      assert header.size == len(recordio.parse(reader.payload(offset)[0])[1])


def _read_zip(path: pathlib.Path) -> None:
  for name in stills.zip_names(path):
    stills.Member(path, name).read()


def _read_tar(path: pathlib.Path) -> None:
  for span in tars.members(path):
    if span.length < 1 << 20:
      span.read()


def _read_assignment(path: pathlib.Path) -> None:
  config.override(inputs.RUN, [path.read_bytes().decode("utf-8", "surrogateescape")], options_of)


def _read_answers(path: pathlib.Path) -> None:
  people.score(path.parent, [path])


_KEY = b"number,label,record\n" + b"".join(b"%d,joy,r%d\n" % (k, k) for k in range(1, 4))


KINDS = {
  kind.name: kind
  for kind in (
    Kind(".pth", inputs.torch_file, checkpoint.read, "a.pth"),
    Kind(
      ".pth, older format",
      inputs.fixture("views_legacy.pth", "kinds_legacy.pth", "arm_legacy.pth"),
      checkpoint.read,
      "a.pth",
    ),
    Kind(".ckpt", inputs.fixture("adaface.ckpt"), checkpoint.read, "a.ckpt"),
    Kind(".safetensors", inputs.or_damaged(inputs.safetensors), checkpoint.read, "a.safetensors"),
    Kind(
      ".npz and .npy",
      inputs.or_damaged(inputs.npz),
      lambda path: weights.load_weights(path.parent),
      "weights.npz",
      beside=inputs.described,
      in_folder=True,
    ),
    Kind(".rec", inputs.or_damaged(inputs.record_file), _read_records, "train.rec", (ValueError,)),
    Kind(".idx", inputs.or_damaged(inputs.index), recordio.read_index, "train.idx", (ValueError,)),
    Kind("pickled pairs (.bin)", inputs.pairs, verification.read_pairs, "lfw.bin", (ValueError,)),
    Kind(".zip", inputs.or_damaged(inputs.zip_file), _read_zip, "a.zip", (ValueError, OSError)),
    Kind(".tar", inputs.or_damaged(inputs.tar_file), _read_tar, "a.tar", (ValueError, OSError)),
    Kind("pictures", inputs.picture, lambda path: decode.decode(path.read_bytes()), "a.png", (ValueError,)),
    Kind(
      "tables (.csv)",
      inputs.or_damaged(lambda draw: inputs.lines(draw, "subject,label,path", 3)),
      lambda path: list(table.read(path, ("path",), ("label",), Findings())),
      "a.csv",
    ),
    Kind(
      "answers of people",
      inputs.or_damaged(lambda draw: inputs.lines(draw, "number,answer", 2)),
      _read_answers,
      "answers.csv",
      beside=lambda data: {people.KEY: _KEY},
    ),
    Kind(
      "config.json",
      inputs.or_damaged(inputs.config_json),
      lambda path: record.config_of(path.parent),
      "config.json",
    ),
    Kind("values on the command line", inputs.assignment, _read_assignment, "value.txt", (UserError,)),
    Kind("metrics.jsonl", inputs.or_damaged(inputs.log), files.read_rows, "metrics.jsonl"),
    Kind(
      "other JSON files",
      inputs.or_damaged(inputs.log),
      lambda path: files.read_json(path, "write it again", ["format"]),
      "evaluation.json",
    ),
  )
}
