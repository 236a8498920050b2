"""Decodes pictures to RGB, and checks for everything that may be wrong in a copy of a data set."""

import dataclasses
import io
import warnings

import numpy as np
from PIL import Image

# Formats whose decoders do not start other programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_LEAST_SIDE = 8  # Pixels; smaller pictures cannot show a face.
_LEAST_MEAN = 10  # Of 255; the placeholders of KDEF have a mean of 0.6 (data/README.md, section 5).
# Above the first limit, a JPEG is decoded at a reduced size, which its decoder supports; above the second, nothing is
# read. Decoding needs up to four times three bytes per pixel.
_LARGE, _TOO_LARGE = 16 << 20, 64 << 20
_ORIENTATION = 0x0112  # EXIF tag whose value tells how to turn the picture upright.
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_NOT_IMAGES = (  # First bytes of files that are often found in place of images.
  (b"version https://git-lfs", "a Git LFS pointer: fetch the real file"),
  (b"../.git/annex", "a git-annex pointer: fetch the real file"),
  (b"<!doctype", "an HTML page: a download that failed"),
  (b"<html", "an HTML page: a download that failed"),
  (b"pk\x03\x04", "a zip archive"),
  (b"\x1f\x8b", "a gzip archive"),
)


@dataclasses.dataclass(frozen=True)
class Decoded:
  """A picture.

  Attributes:
    pixels: uint8 [H, W, 3], RGB, upright.
    scale: (x, y), pixels of the file per pixel of `pixels`; above 1 if a large JPEG was decoded at a smaller size.
    format: "JPEG", "PNG", ...: format of the bytes, regardless of the file name.
    kind: format and mode, such as "JPEG CMYK", "PNG 16 bits" or "JPEG RGB rotated".
  """

  pixels: np.ndarray
  scale: tuple[float, float]
  format: str
  kind: str


def decode(data: bytes) -> Decoded:
  """Decodes to upright RGB; grey is repeated, 16 bits are reduced to 8, and transparent areas become white.

  Raises:
    ValueError: the bytes are not a complete image of a known format, or the image shows nothing.
  """
  if not data:
    raise ValueError("the file is empty")
  head = data[:64].lstrip().lower()
  for start, meaning in _NOT_IMAGES:
    if head.startswith(start):
      raise ValueError(f"not an image but {meaning}")
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Warnings about metadata do not matter here.
      with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return _read(image)
  except Image.UnidentifiedImageError:
    raise ValueError(f"not an image ({len(data)} bytes, the first {data[:4].hex(' ')})") from None
  except Image.DecompressionBombError:
    raise ValueError(f"image is larger than {_TOO_LARGE >> 20} megapixels") from None
  except ValueError:
    raise
  # Pillow's decoders raise these and more on damaged bytes.
  except Exception as error:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise ValueError(f"cannot be decoded ({reason[0]})") from None


def check_size(width: int, height: int) -> None:
  """Raises ValueError if the header of an image states more pixels than the limit."""
  if width * height > _TOO_LARGE:
    raise ValueError(f"image is {width} x {height} pixels: at most {_TOO_LARGE >> 20} megapixels are read")


def _read(image: Image.Image) -> Decoded:
  width, height = image.size
  check_size(width, height)
  if min(width, height) < _LEAST_SIDE:
    raise ValueError(f"image is {width} x {height} pixels: expected a face")
  format, kind = str(image.format), f"{image.format} {image.mode}"
  if image.format == "JPEG" and width * height > _LARGE:
    image.draft(image.mode, (width // 2, height // 2))
  drafted = image.size
  image.load()  # Before `getexif` below, whose errors are ignored.
  try:
    orientation = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # The metadata may be damaged although the picture is valid.
    orientation = 1
  if image.mode.startswith("I;16"):
    # The range is not stretched, because the factor would differ between pictures.
    image = Image.fromarray(np.rint(np.asarray(image, np.float32) / 257).astype(np.uint8))
    kind = f"{format} 16 bits"
  elif image.mode in ("I", "F"):
    raise ValueError(f"image has mode {image.mode}: expected 8 or 16 bits per channel")
  upright, scale = image, (width / drafted[0], height / drafted[1])
  if (turn := _UPRIGHT.get(orientation)) is not None:
    upright, kind = image.transpose(turn), kind + " rotated"
    if upright.size != image.size:
      scale = scale[::-1]
  if upright.has_transparency_data:
    upright = upright.convert("RGBA")
    paper = Image.new("RGBA", upright.size, "white")
    upright = Image.alpha_composite(paper, upright)
  upright = upright.convert("RGB")
  _check_content(upright)
  return Decoded(np.asarray(upright), scale, format, kind)


def _check_content(image: Image.Image) -> None:
  """Raises ValueError if an RGB image has only one colour, or is nearly black."""
  counts = np.array(image.histogram()).reshape(
    3, 256
  )  # One pass in C; NumPy's reductions took longer than decoding.
  if (counts.max(axis=1) == image.width * image.height).all():
    colour = tuple(map(int, counts.argmax(axis=1)))
    raise ValueError(f"image is constant, {f'all {colour}' if any(colour) else 'black'}")
  mean = counts.sum(axis=0) @ np.arange(256) / counts.sum()
  if mean < _LEAST_MEAN:
    raise ValueError(f"image is black (mean {mean:.1f} of 255)")
