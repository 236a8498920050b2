"""Tests the import of videos in folders of classes."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxfer.data import detect, records, video
from jaxfer.data.prepare import BadFiles, prepare
from jaxfer.errors import UserError

av = pytest.importorskip("av")
OPTIONS = {"num_frames": 3, "image_size": 16}


class Left:
  """Finds a face in the left half of a picture that is not dark."""

  name = "left"

  def find(self, images):
    return [
      [detect.Face((0, 0, image.shape[1] / 2, image.shape[0]), 1.0)] if image.mean() > 30 else []
      for image in images
    ]


@pytest.fixture(autouse=True)
def _detector(monkeypatch):
  monkeypatch.setattr(detect, "default", Left)


def film(path, levels):
  """Writes a video whose left half has the given levels, and whose right half is 40 levels brighter."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=10)
    stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 32, "yuv420p", 10**7
    for level in levels:
      pixels = np.full((32, 64, 3), level, np.uint8)
      pixels[:, 32:] += 40
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    container.mux(stream.encode())


@pytest.fixture
def source(tmp_path):
  folder = tmp_path / "source"
  for label, level in (("happy", 60), ("sad", 100)):
    for who in ("anna", "ben"):
      film(folder / label / f"{who}_1.mp4", range(level, level + 50, 10))
  film(folder / "sad" / "anna_2.mp4", [0, 50])
  return folder


def test_videos_become_clips_with_flow(source, tmp_path):
  report = prepare("video_folder", source, tmp_path / "data", **OPTIONS)
  assert "anna_2.mp4: no face in the first frame: the square in the middle was taken" in report.table()
  assert "people are unknown: each video counts as a different person" in report.table()
  loaded = records.load("video_folder", tmp_path / "data", **OPTIONS)
  assert loaded.label_names == ("happy", "sad")
  assert loaded.keys == tuple(sorted(path.relative_to(source).as_posix() for path in source.rglob("*.mp4")))
  frames = loaded.arrays["frames"]
  assert frames.shape == (5, 3, 16, 16, 3)
  # Only the left half, at equal steps.
  np.testing.assert_allclose(frames[0].mean((1, 2, 3)), [60, 80, 100], atol=5)
  assert loaded.arrays["flow"].shape == (5, 3, 16, 16, 2)
  assert loaded.arrays["flow"].dtype == np.int16


def test_people_by_a_pattern(source, tmp_path):
  options = {**OPTIONS, "subject_pattern": "([a-z]+)_"}
  prepare("video_folder", source, tmp_path / "data", **options)
  assert records.load("video_folder", tmp_path / "data", **options).subject_names == ("anna", "ben")


def test_videos_that_cannot_be_read(source, tmp_path):
  (source / "happy/broken.mp4").write_bytes(b"nothing")
  with pytest.raises(BadFiles) as caught:
    prepare("video_folder", source, tmp_path / "data", **OPTIONS)
  assert [problem.path for problem in caught.value.findings.bad] == [str(source / "happy/broken.mp4")]
  prepare("video_folder", source, tmp_path / "data", skip_bad=True, **OPTIONS)
  assert len(records.load("video_folder", tmp_path / "data", **OPTIONS)) == 5


def test_frames_larger_than_any_video_are_not_decoded(source, tmp_path, monkeypatch):
  monkeypatch.setattr(video, "_MAX_PIXELS", 64 * 32 - 1)
  with pytest.raises(BadFiles, match="its frames are 64 x 32 pixels: give a video with at most"):
    prepare("video_folder", source, tmp_path / "data", **OPTIONS)


def test_a_frame_larger_than_the_first_is_not_decoded(tmp_path, monkeypatch):
  monkeypatch.setattr(video, "_MAX_PIXELS", 10_000)
  parts = [io.BytesIO() for _ in range(9)]
  for part, size in zip(parts, [(64, 32)] * 8 + [(640, 320)], strict=True):
    Image.effect_noise(size, 60).save(part, "JPEG")
  (tmp_path / "a.avi").write_bytes(b"".join(part.getvalue() for part in parts))
  taken = []
  with pytest.raises(UserError, match="no video can be read from it"):
    taken.extend(frame.pixels.shape for frame in video.frames(tmp_path / "a.avi"))
  assert set(taken) <= {(32, 64, 3)}


def test_a_single_class(tmp_path):
  film(tmp_path / "source/happy/a.mp4", [60])
  (tmp_path / "source/sad").mkdir()
  with pytest.raises(UserError, match="holds 1 folders with videos: expected two or more"):
    prepare("video_folder", tmp_path / "source", tmp_path / "data")
