"""Tests `jaxfer predict` on photographs, folders and videos, with a model and a detector that need no weights."""

import csv
import dataclasses
import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

import jaxfer
from jaxfer import cli
from jaxfer.data import detect, video
from jaxfer.inference import drawing, pictures, rows
from jaxfer.inference.predictor import InputSpec, Predictor
from tests.halves import Detector, film, photograph

pytest.importorskip("av")
CLASSES = ("bright", "dark, or so")


class Brightness(Predictor):
  """Classifies by the mean of the pixels; a clip by the mean of its last frame."""

  label_names = CLASSES
  num_classes = 2

  def __init__(self, kind="image"):
    self.input_spec = InputSpec(kind, (8, 8, 3) if kind == "image" else (4, 8, 8, 3))

  def probabilities(self, arrays):
    array = arrays["image"] if "image" in arrays else arrays["frames"][:, -1]
    bright = array.mean((1, 2, 3)) / 255
    return np.stack([bright, 1 - bright], 1).astype(np.float32)


@pytest.fixture(autouse=True)
def _parts(monkeypatch):
  monkeypatch.setattr(detect, "default", Detector)
  monkeypatch.setattr(jaxfer, "load", lambda path: Brightness(str(path)))
  monkeypatch.setattr(cli, "_cache_compilations", lambda: None)


def test_every_face_gets_a_row(tmp_path, capsys):
  photograph(tmp_path / "in/a.png", 255, 51)
  photograph(tmp_path / "in/deep/b.png", 12, 16)
  (tmp_path / "in/notes.txt").write_text("x")
  (tmp_path / "in/broken.jpg").write_bytes(b"x")
  files = [str(tmp_path / name) for name in ("rows.csv", "rows.json")]
  wanted = [str(tmp_path / "in"), str(tmp_path / "in/*.png"), str(tmp_path / "none.png")]
  out = ["--csv", files[0], "--json", files[1], "--draw", str(tmp_path / "drawn")]
  assert cli.main(["predict", "image", *wanted, *out]) == 0
  said = capsys.readouterr()
  assert said.out == "4 faces in 3 files, 1 picture without a face, 2 files unreadable\n"
  assert "left out 1 file whose names" in said.err
  assert "broken.jpg: not an image" in said.err
  assert "none.png: no such file or folder" in said.err
  with open(files[0], newline="") as file:
    found = list(csv.DictReader(file))
  assert [(row["face"], row["predicted"], row["left"], row["right"], row["score"]) for row in found[:2]] == [
    ("0", "bright", "0.0", "20.0", "0.9"),
    ("1", "dark, or so", "20.0", "40.0", "0.9"),
  ]
  assert float(found[1]["p_dark, or so"]) == pytest.approx(0.8, abs=0.01)
  assert found[:2] == found[2:]
  objects = json.loads((tmp_path / "rows.json").read_text())
  assert [one["probabilities"]["bright"] for one in objects] == [float(row["p_bright"]) for row in found]
  assert sorted(os.listdir(tmp_path / "drawn")) == ["a-2.png", "a.png", "b.png"]
  with Image.open(tmp_path / "drawn/a.png") as drawn:
    assert drawn.size == (40, 20)


def test_a_model_of_whole_pictures_says_that_it_looks_for_no_faces(tmp_path, capsys, monkeypatch):
  model = Brightness()
  model.input_spec = dataclasses.replace(model.input_spec, crop="whole")
  monkeypatch.setattr(jaxfer, "load", lambda path: model)
  photograph(tmp_path / "a.png", 255, 51)
  assert cli.main(["predict", "image", str(tmp_path / "a.png"), "--json", str(tmp_path / "r.json")]) == 0
  assert "prepared with crop=whole: each picture counts as one face" in capsys.readouterr().err
  (row,) = json.loads((tmp_path / "r.json").read_text())
  assert (row["left"], row["right"], row["score"]) == (0, 40, None)
  arguments = [
    "predict",
    "image",
    str(tmp_path / "a.png"),
    "--crop",
    "auto",
    "--json",
    str(tmp_path / "s.json"),
  ]
  assert cli.main(arguments) == 0
  assert "prepared with crop=whole" not in capsys.readouterr().err
  assert [row["score"] for row in json.loads((tmp_path / "s.json").read_text())] == [0.9, 0.9]


@pytest.mark.parametrize(
  "wrong", [("--rate", "-1"), ("--rate", "nan"), ("--window", "0"), ("--window", "inf")]
)
def test_a_rate_or_window_that_is_no_length_of_time_is_refused(tmp_path, capsys, wrong):
  photograph(tmp_path / "a.png", 255, 51)
  for command in (["predict"], ["explain", "--out", str(tmp_path / "out")]):
    assert cli.main([*command, "image", str(tmp_path / "a.png"), *wrong]) == 2
    assert f"{wrong[0]} {wrong[1]}: give " in capsys.readouterr().err


def test_nothing_that_can_be_read(tmp_path, capsys):
  (tmp_path / "a.jpg").write_bytes(b"x")
  assert cli.main(["predict", "image", str(tmp_path / "a.jpg"), "--json", str(tmp_path / "r.json")]) == 2
  assert "of 1 file, none can be read" in capsys.readouterr().err
  assert json.loads((tmp_path / "r.json").read_text()) == []


def test_rows_are_printed_where_no_file_is_given(tmp_path, capsys):
  photograph(tmp_path / "a.png", 255, 51)
  assert cli.main(["predict", "image", str(tmp_path / "a.png")]) == 0
  first, *_ = capsys.readouterr().out.splitlines()
  assert first.endswith("a.png  face 0 at 0,0, 20 x 20 px  score 0.90  bright 0.99, dark, or so 0.01")


def test_a_video_for_a_model_of_images(tmp_path):
  """At 5 frames per second, every second frame of 10 per second is read once and in order."""
  film(tmp_path / "a.mp4", [200] * 6 + [0] * 3 + [60] * 3)
  found = list(pictures.pictures(tmp_path / "a.mp4", InputSpec("image", (8, 8, 3)), 5.0, 1.0, keep=False))
  assert [picture.frame for picture in found] == [0, 2, 4, 6, 8, 10]
  assert [round(picture.seconds, 3) for picture in found] == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
  assert [len(picture.faces) for picture in found] == [2, 2, 2, 0, 0, 2]
  assert all(picture.pixels is None for picture in found)


@pytest.mark.parametrize(("count", "starts"), [(20, [0, 8, 16]), (17, [0, 8]), (3, [0])])
def test_windows_of_a_video_for_a_model_of_clips(tmp_path, count, starts):
  """Four frames in 0.8 s are every second one of 10 per second; a last window below half its length is left out."""
  film(tmp_path / "a.mp4", [10 * k + 20 for k in range(count)])
  spec = InputSpec("sequence", (4, 8, 8, 3))
  found = list(pictures.pictures(tmp_path / "a.mp4", spec, 5.0, 0.8, keep=False))
  assert [picture.frame for picture in found] == starts
  crop = found[0].faces[1].crop
  assert crop.shape == (4, 8, 8, 3)
  if count > 3:
    np.testing.assert_allclose(crop.mean((1, 2, 3)), [20, 40, 60, 80], atol=4)


def test_a_photograph_is_a_clip_without_motion_and_a_clip_is_read_at_equal_steps(tmp_path):
  photograph(tmp_path / "a.png", 255, 51)
  spec = InputSpec("sequence", (4, 8, 8, 3))
  (picture,) = pictures.pictures(tmp_path / "a.png", spec, 5.0, 1.0, keep=False)
  assert np.ptp(picture.faces[0].crop, axis=0).max() == 0
  film(tmp_path / "b.mp4", [20, 30, 40, 50, 60, 70, 80])
  clip, _ = video.clip(tmp_path / "b.mp4", 4, 8)
  np.testing.assert_allclose(clip.mean((1, 2, 3)), [20, 40, 60, 80], atol=4)


@pytest.mark.parametrize("kind", ["image", "sequence"])
def test_the_drawing_of_a_video_has_sixteen_frames_at_most(tmp_path, kind, monkeypatch):
  film(tmp_path / "a.mp4", [100] * 70)
  sheets = []
  monkeypatch.setattr(drawing.Sheet, "save", lambda sheet, path: sheets.append((sheet._frames.items, path)))
  path = str(tmp_path / "a.mp4")
  assert (
    cli.main(["predict", kind, path, "--draw", str(tmp_path / "d"), "--rate", "0", "--window", "0.4"]) == 0
  )
  ((frames, target),) = sheets
  assert target == tmp_path / "d/a.png"
  assert 8 <= len(frames) <= 16


def test_a_video_that_breaks_off_keeps_its_rows(tmp_path, capsys):
  film(tmp_path / "a.avi", [100] * 30)
  data = (tmp_path / "a.avi").read_bytes()
  (tmp_path / "b.avi").write_bytes(b"x" * len(data))
  assert cli.main(["predict", "image", str(tmp_path), "--csv", str(tmp_path / "r.csv")]) == 0
  said = capsys.readouterr()
  assert "b.avi: no video can be read from it" in said.err
  assert said.out.endswith("1 file unreadable\n")


def test_what_is_stopped_leaves_whole_files(tmp_path, capsys, monkeypatch):
  """After SIGINT at the third picture, the rows of earlier pictures are in the file, and the array is closed."""
  for k in range(5):
    photograph(tmp_path / f"in/{k}.png", 200, 51)
  write, count = rows.CsvSink.write, []

  def stopping(sink, row):
    write(sink, row)
    count.append(row)
    if len(count) == 3:
      os.kill(os.getpid(), signal.SIGINT)

  monkeypatch.setattr(rows.CsvSink, "write", stopping)
  files = ["--csv", str(tmp_path / "r.csv"), "--json", str(tmp_path / "r.json")]
  assert cli.main(["predict", "image", str(tmp_path / "in"), *files]) == 128 + signal.SIGINT
  assert "what was written so far is complete" in capsys.readouterr().err
  assert len((tmp_path / "r.csv").read_text().splitlines()) == 4
  assert len(json.loads((tmp_path / "r.json").read_text())) in (2, 3)


@pytest.mark.parametrize(
  ("options", "match"), [(["--rate", "-1"], "--rate -1"), (["--window", "0"], "--window 0")]
)
def test_numbers_out_of_range(options, match, capsys):
  assert cli.main(["predict", "image", "a.png", *options]) == 2
  assert match in capsys.readouterr().err


def test_a_model_that_needs_landmarks_is_refused(monkeypatch, capsys):
  model = Brightness()
  model.input_spec = InputSpec("image", (8, 8, 3), landmarks=37)
  monkeypatch.setattr(jaxfer, "load", lambda path: model)
  assert cli.main(["predict", "x", "a.png"]) == 2
  assert "needs 37 landmarks of each face, which no detector here gives" in capsys.readouterr().err
