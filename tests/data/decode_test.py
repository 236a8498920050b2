"""Tests that unusual pictures are decoded, or refused with a reason."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxfer.data.decode import decode
from tests.fixtures import faces

FACE = faces.draw(1, "happiness", 48)[0]


def _encode(image: np.ndarray | Image.Image, format: str, **options) -> bytes:
  stream = io.BytesIO()
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, format, **options)
  return stream.getvalue()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_formats(format):
  decoded = decode(_encode(FACE, format))
  np.testing.assert_array_equal(decoded.pixels, FACE)
  assert (decoded.format, decoded.kind, decoded.scale) == (format, f"{format} RGB", (1, 1))


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats(format):
  decoded = decode(_encode(FACE, format, quality=95))
  assert decoded.format == format
  assert np.abs(decoded.pixels.astype(int) - FACE).mean() < 4


def test_grey_is_repeated():
  grey = FACE[..., 0]
  np.testing.assert_array_equal(decode(_encode(grey, "TIFF")).pixels, np.stack([grey] * 3, axis=-1))


def test_16_bits_are_reduced():
  grey = FACE[..., 0]
  for format in ("PNG", "TIFF"):
    decoded = decode(_encode(Image.fromarray(grey.astype(np.uint16) * 257), format))
    np.testing.assert_array_equal(decoded.pixels[..., 1], grey)
    assert decoded.kind == f"{format} 16 bits"


def test_32_bits_are_refused():
  for dtype in (np.int32, np.float32):
    with pytest.raises(ValueError, match=r"image has mode [IF]: expected 8 or 16 bits"):
      decode(_encode(Image.fromarray(FACE[..., 0].astype(dtype)), "TIFF"))


def test_cmyk():
  decoded = decode(_encode(Image.fromarray(FACE).convert("CMYK"), "JPEG", quality=95))
  assert decoded.kind == "JPEG CMYK"
  assert np.abs(decoded.pixels.astype(int) - FACE).mean() < 4


def test_palette():
  indexed = Image.fromarray(FACE).quantize(64)
  decoded = decode(_encode(indexed, "PNG"))
  assert decoded.kind == "PNG P"
  np.testing.assert_array_equal(decoded.pixels, np.asarray(indexed.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(mode):
  alpha = np.full(FACE.shape[:2], 255, np.uint8)
  alpha[:10] = 0
  image = Image.fromarray(np.dstack([FACE, alpha]))
  image = image.quantize(32, Image.Quantize.FASTOCTREE) if mode == "P" else image.convert(mode)
  pixels = decode(_encode(image, "PNG")).pixels
  assert (pixels[:10] == 255).all()
  assert np.abs(pixels[10:].mean(axis=-1) - FACE[10:].mean(axis=-1)).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
  turns = [
    lambda a: a,
    np.fliplr,
    lambda a: np.rot90(a, 2),
    np.flipud,
    lambda a: a.swapaxes(0, 1),
    lambda a: np.rot90(a, -1),
    lambda a: np.rot90(a, 2).swapaxes(0, 1),
    np.rot90,
  ]
  wide = FACE[:30]
  exif = Image.Exif()
  exif[0x0112] = orientation
  decoded = decode(_encode(wide, "PNG", exif=exif))
  np.testing.assert_array_equal(decoded.pixels, turns[orientation - 1](wide))
  assert decoded.kind == "PNG RGB" + (" rotated" if orientation > 1 else "")


def test_damaged_exif_does_not_cost_the_picture():
  data = _encode(FACE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x80" * 40)
  assert decode(data).pixels.shape == FACE.shape


def test_first_of_several_frames_is_taken():
  other = Image.fromarray(255 - FACE)
  data = _encode(Image.fromarray(FACE), "TIFF", save_all=True, append_images=[other])
  np.testing.assert_array_equal(decode(data).pixels, FACE)


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"", "the file is empty"),
    (b"\n<!DOCTYPE html><html>", "an HTML page: a download that failed"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
    (b"PK\x03\x04" + bytes(30), "a zip archive"),
    (b"not an image at all", r"not an image \(19 bytes, the first 6e 6f 74 20\)"),
    (b"\xff\xd8\xff\xe0" + bytes(60), "cannot be decoded|not an image"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
  ],
)
def test_bytes_that_are_no_image(data, reason):
  with pytest.raises(ValueError, match=reason):
    decode(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP"])
def test_cut_short(format):
  data = _encode(faces.draw(2, "fear", 96)[0], format)
  with pytest.raises(ValueError, match=r"cannot be decoded \(.*\)|not an image"):
    decode(data[: len(data) * 2 // 3])


def test_a_png_with_damaged_pixels_is_refused():
  """Pillow decodes a PNG when its EXIF data are read; an error there must not count as an error of the EXIF data."""
  data = bytearray(_encode(FACE, "PNG"))
  data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
  with pytest.raises(ValueError, match="cannot be decoded"):
    decode(bytes(data))


@pytest.mark.parametrize(
  ("image", "reason"),
  [
    (np.zeros((20, 20, 3), np.uint8), "image is constant, black"),
    (np.full((20, 20, 3), (7, 200, 7), np.uint8), r"image is constant, all \(7, 200, 7\)"),
    (np.arange(400).reshape(20, 20).astype(np.uint8) // 32, r"image is black \(mean 2.9 of 255\)"),
    (np.full((1, 1, 3), 99, np.uint8), "image is 1 x 1 pixels"),
    (np.full((300, 7, 3), 99, np.uint8), "image is 7 x 300 pixels"),
  ],
)
def test_nothing_to_see(image, reason):
  with pytest.raises(ValueError, match=reason):
    decode(_encode(image, "PNG"))


def test_40_megapixels_are_read_at_half_size():
  row = np.tile(np.arange(256, dtype=np.uint8), 32)[:8000]
  data = _encode(np.broadcast_to(row, (5000, 8000)).copy(), "JPEG")
  decoded = decode(data)
  assert decoded.pixels.shape == (2500, 4000, 3)
  assert decoded.scale == (2, 2)
  assert decode(_encode(np.tile(row, (50, 1)), "JPEG")).scale == (1, 1)


def test_40_megapixels_under_rotation_keep_their_scale():
  exif = Image.Exif()
  exif[0x0112] = 6
  stripes = np.tile(np.arange(0, 250, dtype=np.uint8), (4001, 20))
  decoded = decode(_encode(stripes, "JPEG", exif=exif))
  assert decoded.pixels.shape == (2500, 2001, 3)
  assert decoded.scale == (4001 / 2001, 2.0)


def test_decompression_bombs_are_refused_before_they_go_off():
  tracemalloc.start()
  for side, reason in (
    (9000, "9000 x 9000 pixels: at most 64 megapixels"),
    (30000, "larger than 64 megapixels"),
  ):
    header = _encode(np.zeros((8, 8), np.uint8), "PNG")
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = header[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + header[33:]
    with pytest.raises(ValueError, match=reason):
      decode(bomb)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 1 << 20


def _assert_one_line(error: ValueError) -> None:
  assert "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(
  format=st.sampled_from(["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"]),
  flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8),
  end=st.floats(0.1, 1),
)
def test_damaged_bytes_raise_nothing_but_value_errors(format, flips, end):
  data = bytearray(_encode(Image.fromarray(FACE), format))
  for place, change in flips:
    data[int(place * len(data))] ^= change
  try:
    decoded = decode(bytes(data[: int(end * len(data))]))
  except ValueError as error:
    _assert_one_line(error)
  else:
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape[2] == 3


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_raise_nothing_but_value_errors(data):
  with pytest.raises(ValueError, match=r"."):
    decode(data)
