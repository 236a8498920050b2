"""`jaxfer explain`: draws what a model looks at in the faces of photographs and videos."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxfer import files
from jaxfer.errors import UserError
from jaxfer.inference import drawing
from jaxfer.inference.pictures import Counts, Face, Picture, count_of, visit, with_crop
from jaxfer.inference.predictor import Predictor
from jaxfer.systems.explanation import Explanation

_KEPT = 8  # Pictures that are kept for each face that is drawn, from which the drawn ones are chosen.


def run(
  model: Predictor,
  given: Sequence[str],
  out: pathlib.Path,
  *,
  layer: str | None = None,
  rate: float = 5.0,
  window: float = 1.0,
  crop: str | None = None,
  log: Callable[[str], None] = print,
  complain: Callable[[str], None] = print,
) -> Counts:
  """Draws what a model looks at, as PNG files.

  The drawing depends on the model, see `System.explanation`: Grad-CAM++ of the predicted class for convolutional
  networks, effective pixels for a stacked autoencoder, temporal gates for a two-stream model, and swapped codes for an
  identity/expression VAE. The first and the third get one page for each file, named after it; the others one for all
  files. A page shows the largest faces of a photograph, and the largest face of equally spaced frames of a video.

  Args:
    model: model returned by `jaxfer.load`.
    given: photographs, videos, folders and glob patterns.
    out: folder for the files.
    layer: name of the layer to show, or None for the default.
    rate: frames per second that a model of still images reads from a video; 0 reads every frame.
    window: seconds of a video that a model of clips reads at a time.
    crop: how faces are cropped, "auto", "middle" or "whole"; None crops them as in the training data.
    log: called with a line for each file that is written, and the summary.
    complain: called with a line for each file that cannot be read, and each limit of what is shown.

  Raises:
    UserError: the model cannot be explained or has no such layer, there are too few faces, a file cannot be written, or
      no file can be read.
  """
  explanation = model.explanation(layer)
  if explanation.kind != model.input_spec.kind:
    raise UserError(
      "this model reads clips: of such models, only a two_stream_conv_rnn with a temporal gate can be explained"
    )
  if explanation.note:
    complain(explanation.note)
  files.make_folder(out)
  counts = Counts()
  session = _Session(model, explanation, out, counts, log)
  spec = with_crop(model.input_spec, crop)
  visit(given, spec, session, counts, rate=rate, window=window, keep=False, complain=complain)
  if explanation.together and counts.unreadable < counts.files:
    session.draw()
  log(counts.summary())
  counts.check()
  return counts


class _Session:
  """Collects the faces of a file, or of all files, and draws them."""

  def __init__(
    self,
    model: Predictor,
    explanation: Explanation,
    out: pathlib.Path,
    counts: Counts,
    log: Callable[[str], None],
  ):
    self.model, self.explanation, self.out, self.counts, self.log = model, explanation, out, counts, log
    self.names = drawing.Names(out)
    self.path, self.target = out, out
    self._clear()

  def _clear(self) -> None:
    self.pictures = drawing.Thinned[Picture](_KEPT * self.explanation.most)
    self.faces = 0

  def begin(self, path: pathlib.Path) -> None:
    """Begins a file."""
    self.path = path
    if not self.explanation.together:
      self.target = self.names.of(path)
      self._clear()

  def add(self, picture: Picture) -> None:
    """Takes the next picture of the file."""
    self.counts.faces += len(picture.faces)
    self.counts.faceless += not picture.faces
    if picture.faces:
      self.faces += len(picture.faces)
      self.pictures.add(picture)
    elif picture.frame is None:
      self.log(f"{picture.file}  no face found")

  def end(self) -> None:
    """Ends a file."""
    if self.faces and not self.explanation.together:
      self.draw()

  def draw(self) -> None:
    """Draws the collected faces."""
    least, most = self.explanation.least, self.explanation.most
    if self.faces < least:
      raise UserError(
        f"{count_of(self.faces, 'face')} found, but {least} or more are needed: give more photographs"
      )
    chosen = _chosen(self.pictures.items, most)
    crops = np.stack([face.crop for _, _, face in chosen])
    padded = np.concatenate([crops, crops[:1].repeat(most - len(crops), 0)])
    # Landmarks are left out: no detector gives them, and no explanation needs them.
    arrays = self.model.prepared(padded) if self.explanation.kind == "sequence" else {"image": padded}
    names = [self._name(picture, number) for picture, number, _ in chosen]
    batch = self.model.eval_batch(arrays)
    for path, count in self.explanation.draw(crops, batch, names, self.target, self.path.name):
      shown = f"{count} of " if count < self.faces else ""
      self.log(f"written: {path}  ({shown}{count_of(self.faces, 'face')})")

  def _name(self, picture: Picture, number: int) -> str:
    face = f"face {number}"
    if self.explanation.together:
      face = f"{face} of {picture.file.name}"
    return face if picture.seconds is None else f"{face} at {picture.seconds:.1f} s"


def _chosen(pictures: Sequence[Picture], most: int) -> list[tuple[Picture, int, Face]]:
  """Chooses at most `most` faces, with their pictures and their numbers in them.

  If there are more, it chooses the largest ones of a single picture. Of several pictures it chooses equally spaced ones
  from all faces of photographs and the largest face of each frame.
  """
  faces = [(picture, number, face) for picture in pictures for number, face in enumerate(picture.faces)]
  if len(faces) <= most or len(pictures) == 1:
    return faces[:most]
  faces = [(picture, number, face) for picture, number, face in faces if picture.frame is None or not number]
  places = np.unique(np.linspace(0, len(faces) - 1, min(most, len(faces))).round().astype(int))
  return [faces[place] for place in places]
