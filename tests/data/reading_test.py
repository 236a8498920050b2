"""Tests reading of stills: placing of the face, reported problems, parallel processes, interruption."""

import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfer.data import align, detect, reading
from jaxfer.data.prepare import Findings
from jaxfer.data.reading import Cut
from jaxfer.data.stills import UNLABELLED, File, Member, Span, Still
from jaxfer.errors import UserError
from tests.fixtures import faces

SIZE = 120
FACE, MARKS = faces.draw(3, "surprise", SIZE)
POINTS = np.stack([MARKS[36:42].mean(0), MARKS[42:48].mean(0), MARKS[30], MARKS[48], MARKS[54]])


NO_POINTS = (
  "the template needs points, and cascade gives none: `pip install 'jaxfer[faces]'`, or choose crop=auto"
)


def _still(path: Path, image: np.ndarray = FACE, key: str = "", **fields) -> Still:
  Image.fromarray(image).save(path)
  return Still(key or path.name, "S1", 0, File(path), **fields)


def _read(stills: list[Still], cut: Cut) -> tuple[list[tuple[Still, reading.Result]], Findings]:
  findings = Findings()
  return list(reading.read(stills, cut, findings)), findings


def _pixels(result: reading.Result) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(result.image)))


def _reasons(problems) -> list[tuple[str, str]]:
  return [(Path(problem.path).name, problem.what) for problem in problems]


def test_points_go_before_box_before_detector_before_middle(tmp_path):
  wide = np.full((SIZE, SIZE + 60, 3), 100, np.uint8)
  wide[:, 20 : 20 + SIZE] = FACE
  square = align.Square(30.0, 10.0, 90.0)
  noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
  stills = [
    _still(tmp_path / "points.png", wide, points=POINTS + np.array([20, 0]), square=square),
    _still(tmp_path / "box.png", wide, square=square),
    _still(tmp_path / "found.png", wide),
    _still(tmp_path / "middle.png", noise),
  ]
  read, findings = _read(stills, Cut(32))
  expected = [
    align.points_square(POINTS + np.array([20, 0])),
    square,
    detect.default().find([wide])[0][0].square,
    align.centre_square(80, 64),
  ]
  for (still, result), place in zip(read, expected, strict=True):
    image = noise if still.key == "middle.png" else wide
    np.testing.assert_array_equal(_pixels(result), align.crop(image, place, 32))
  assert _reasons(findings.odd)[0] == ("middle.png", "no face found: the middle square was used")
  assert findings.notes[0] == (
    "faces cut out: 1 distributor's points, 1 distributor's box, 1 found by cascade, 1 the middle square"
  )
  assert findings.notes[3] == "the detector, cascade, found a face in 1 pictures"
  assert findings.notes[4] == "no face found in 1 pictures: crop=whole would use whole pictures"


def test_the_detector_goes_before_the_distributors_places_if_asked(tmp_path):
  square = align.Square(10.0, 10.0, 90.0)
  noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
  within = align.Square(8.0, 4.0, 50.0)
  stills = [
    _still(tmp_path / "both.png", points=POINTS, square=square),
    _still(tmp_path / "noise.png", noise, square=within),
    _still(tmp_path / "nothing.png", noise[::-1]),
  ]
  read, findings = _read(stills, Cut(32, crop="detector"))
  found = detect.default().find([FACE])[0][0].square
  assert found not in (square, align.points_square(POINTS))
  for (_, result), image, place in zip(
    read, (FACE, noise, noise[::-1]), (found, within, align.centre_square(80, 64)), strict=True
  ):
    np.testing.assert_array_equal(_pixels(result), align.crop(image, place, 32))
  assert _reasons(findings.odd) == [
    ("noise.png", "no face found: the distributor's face position was used"),
    ("nothing.png", "no face found: the middle square was used"),
  ]
  assert "the detector, cascade, found a face in 1 pictures" in findings.notes


def test_template_places_the_points(tmp_path):
  turned = np.asarray(Image.fromarray(FACE).rotate(20, Image.Resampling.BICUBIC, fillcolor=(90, 80, 60)))
  angle, middle = np.deg2rad(20), np.full(2, SIZE / 2)
  turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
  points = (POINTS - middle) @ turn.T + middle
  stills = [
    _still(tmp_path / "upright.png", points=POINTS, landmarks=MARKS),
    _still(tmp_path / "turned.png", turned, points=points, landmarks=points),
    _still(tmp_path / "none.png"),
  ]
  read, findings = _read(stills, Cut(112, crop="template"))
  upright, turned = (_pixels(result).astype(float) for _, result in read)
  assert np.abs(upright - turned).mean() < 4
  found = align.transform(POINTS, align.similarity(POINTS, align.TEMPLATE_112))
  np.testing.assert_allclose(read[1][1].landmarks, found, atol=1e-6)
  assert _reasons(findings.bad) == [("none.png", NO_POINTS)]


def test_landmarks_move_with_every_crop(tmp_path):
  """With every crop, a white dot that was drawn at the landmark is found at the transformed landmark."""
  image = FACE // 2
  x, y = 70, 45
  image[y - 2 : y + 3, x - 2 : x + 3] = 255
  still = _still(tmp_path / "dot.png", image, points=POINTS, landmarks=np.array([[x + 0.5, y + 0.5]]))
  for crop in reading.CROPS:
    ((_, result),), _ = _read([still], Cut(80, crop=crop))
    bright = _pixels(result).min(axis=-1).astype(float).clip(150) - 150
    rows, columns = np.mgrid[:80, :80] + 0.5
    centre = [(columns * bright).sum() / bright.sum(), (rows * bright).sum() / bright.sum()]
    np.testing.assert_allclose(result.landmarks[0], centre, atol=0.3, err_msg=crop)


def test_whole_picture_changes_its_aspect_and_says_so(tmp_path):
  stills = [_still(tmp_path / "wide.png", FACE[:60]), _still(tmp_path / "square.png")]
  read, findings = _read(stills, Cut(32, channels=1, crop="whole"))
  expected = Image.fromarray(FACE[:60]).resize((32, 32), Image.Resampling.BICUBIC).convert("L")
  np.testing.assert_array_equal(_pixels(read[0][1]), np.asarray(expected))
  assert _reasons(findings.odd) == [("wide.png", "not square (120 x 60): its aspect was changed")]
  assert "sizes: 1 120x60, 1 120x120" in findings.notes


def test_large_jpegs_keep_their_places(tmp_path, monkeypatch):
  from jaxfer.data import decode

  big = np.asarray(Image.fromarray(FACE).resize((480, 480), Image.Resampling.BICUBIC))
  fields = {"square": align.Square(40.0, 60.0, 360.0), "landmarks": np.array([[40.0, 60.0], [400.0, 420.0]])}
  still = _still(tmp_path / "big.jpg", big, **fields)
  ((_, full),), _ = _read([still], Cut(48))
  monkeypatch.setattr(decode, "_LARGE", 480 * 480 - 1)
  ((_, half),), findings = _read([still], Cut(48))
  assert np.abs(_pixels(full).astype(float) - _pixels(half)).mean() < 3
  np.testing.assert_allclose(half.landmarks, [[0, 0], [48, 48]])
  assert "sizes: 1 480x480" in findings.notes


def test_what_cannot_be_used_is_named(tmp_path):
  (tmp_path / "text.jpg").write_text("no image")
  stills = [
    Still("a", "S1", 0, File(tmp_path / "missing.jpg")),
    Still("b", "S1", 0, File(tmp_path / "text.jpg")),
    _still(tmp_path / "outside.png", square=align.Square(500.0, 0.0, 10.0)),
    _still(tmp_path / "point.png", points=np.ones((2, 2))),
    _still(tmp_path / "good.png"),
  ]
  read, findings = _read(stills, Cut(32))
  assert [still.key for still, _ in read] == ["good.png"]
  reasons = _reasons(findings.bad)
  assert [name for name, _ in reasons] == ["missing.jpg", "text.jpg", "outside.png", "point.png"]
  for (_, reason), part in zip(
    reasons,
    ["No such file", "not an image (8 bytes", "is outside the 120 x 120 image", "do not place a face"],
    strict=True,
  ):
    assert part in reason


def _copies(tmp_path) -> list[Still]:
  """Returns a picture, a harmless copy in another format, and copies with another label, person or split."""
  stills = [_still(tmp_path / name) for name in ("a.png", "b.bmp", "c.png", "d.png", "e.png")]
  return [*stills, _still(tmp_path / "f.png", FACE[::-1])]


@pytest.mark.parametrize("few", [1000, 0])
@pytest.mark.parametrize(
  ("change", "bad", "reason"),
  [
    ({}, "", ""),
    ({"label": 1}, "abcde", "labelled 'fear', but the same picture .*a.png is labelled 'anger'"),
    ({"subject": "S2"}, "abcde", "of 'S2', but the same picture .*a.png is of 'S1'"),
    ({"split": "test"}, "abde", "in no split, but the same picture .*c.png is in the test split"),
    (
      {"label": 1, "split": "test"},
      "abcde",
      "labelled 'fear', but the same picture .*a.png is labelled 'anger'",
    ),
  ],
)
def test_copies_that_contradict_or_leak_are_bad_and_left_out(tmp_path, monkeypatch, change, bad, reason, few):
  monkeypatch.setattr(reading, "_FEW", few)
  stills = _copies(tmp_path)
  stills[2] = dataclasses.replace(stills[2], **change)
  for skip_bad in (False, True):
    findings = Findings()
    read = list(reading.read(stills, Cut(32, crop="middle"), findings, ("anger", "fear"), skip_bad=skip_bad))
    assert sorted(name[0] for name, _ in _reasons(findings.bad)) == list(bad)
    assert any(re.fullmatch(reason, problem.what) for problem in findings.bad) == bool(bad)
    kept = [still.key[0] for still, _ in read]
    assert kept == [name for name in "abcdef" if not (skip_bad and name in bad)]
    assert len(findings.odd) == (0 if bad else 4)
    assert ("4 pictures repeat one of the same label and split: kept" in findings.notes) == (not bad)


def test_a_picture_without_a_label_contradicts_no_other(tmp_path):
  """Several sequences of one person may begin with the same frame, and only one of them has a label."""
  stills = _copies(tmp_path)
  stills[2] = dataclasses.replace(stills[2], label=1)
  findings = Findings()
  read = list(reading.read(stills, Cut(32, crop="middle"), findings, ("anger", UNLABELLED)))
  assert len(read) == len(stills)
  assert not findings.bad


def test_pictures_of_unknown_people_may_be_repeated(tmp_path):
  """If the person's name is the key, the person is unknown."""
  stills = [dataclasses.replace(still, subject=still.key) for still in _copies(tmp_path)]
  _, findings = _read(stills, Cut(32, crop="middle"))
  assert not findings.bad
  assert _reasons(findings.odd)[0] == ("b.bmp", f"same content as {tmp_path / 'a.png'}")


def test_copies_that_cannot_be_used_are_reported_for_what_they_are(tmp_path):
  """Black placeholders with several labels are reported as black, not as contradictions."""
  black = [_still(tmp_path / f"{i}.png", np.zeros_like(FACE)) for i in (0, 1)]
  stills = [black[0], dataclasses.replace(black[1], label=1)]
  stills += [_still(tmp_path / "a.png"), dataclasses.replace(_still(tmp_path / "b.png", FACE[::-1]), label=1)]
  far = align.Square(0.0, 0.0, 9000.0)
  stills.append(
    dataclasses.replace(_still(tmp_path / "far.png"), label=1, square=far, where="list.csv, line 3")
  )
  findings = Findings()
  read = list(reading.read(stills, Cut(32), findings, ("x", "y"), skip_bad=True))
  assert [still.key for still, _ in read] == ["b.png"]
  reasons = [(name, what.partition(",")[0]) for name, what in _reasons(findings.bad)]
  assert reasons == [  # Every still that is left out has a reason.
    ("0.png", "image is constant"), ("1.png", "image is constant"), ("far.png", "list.csv"), ("a.png", "labelled 'x'"),
  ]  # fmt: skip


def test_names_that_contradict_the_content_are_odd(tmp_path):
  Image.fromarray(FACE).save(tmp_path / "a.jpg", "png")
  read, findings = _read([Still("a", "S1", 0, File(tmp_path / "a.jpg"))], Cut(32, crop="middle"))
  assert len(read) == 1
  assert _reasons(findings.odd) == [("a.jpg", "its name says JPEG, but it is PNG")]
  assert "kinds of pictures: 1 PNG RGB" in findings.notes


def test_members_of_archives_and_spans_of_files(tmp_path):
  Image.fromarray(FACE).save(tmp_path / "face.png")
  data = (tmp_path / "face.png").read_bytes()
  with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
    archive.writestr("in/face.png", data)
  (tmp_path / "train.rec").write_bytes(b"head" + data + b"tail")
  (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
  sources = [
    Member(tmp_path / "packed.zip", "in/face.png"),
    Span(tmp_path / "train.rec", 4, len(data), "record 7"),
    Member(tmp_path / "packed.zip", "in/none.png"),
    Member(tmp_path / "broken.zip", "face.png"),
    Span(tmp_path / "train.rec", 4, len(data) + 9, "record 8"),
  ]
  stills = [Still(str(i), "S1", 0, source) for i, source in enumerate(sources)]
  read, findings = _read(stills, Cut(32, crop="middle"))
  assert [still.key for still, _ in read] == ["0", "1"]
  assert _reasons(findings.bad) == [
    ("none.png", "cannot be unpacked (\"There is no item named 'in/none.png' in the archive\")"),
    ("face.png", "cannot be unpacked (File is not a zip file)"),
    ("train.rec (record 8)", "the file ends 5 bytes early"),
  ]
  assert [problem.what for problem in findings.odd] == [
    f"same content as {tmp_path / 'packed.zip/in/face.png'}"
  ]


def test_replaced_archive_is_read_anew(tmp_path):
  path = tmp_path / "packed.zip"
  for text in (b"first", b"second"):
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("a", text)
    os.utime(path, ns=(0, len(text)))
    assert Member(path, "a").read() == text


def test_files_that_are_no_pictures_by_size_are_not_read_whole(tmp_path, monkeypatch):
  from jaxfer.data import stills

  monkeypatch.setattr(stills, "_LARGEST", 1 << 20)
  (tmp_path / "film.jpg").write_bytes(bytes((1 << 20) + 1))
  with pytest.raises(ValueError, match="more than 1 MiB: not a picture of a face"):
    File(tmp_path / "film.jpg").read()


def test_processes_give_what_one_process_gives(tmp_path, monkeypatch):
  stills = []
  for i in range(70):
    image = np.roll(FACE, i, axis=1)
    stills.append(_still(tmp_path / f"{i:02d}.png", image if i != 40 else np.zeros_like(FACE)))
  alone, alone_findings = _read(stills, Cut(24, crop="middle"))
  monkeypatch.setattr(reading, "_FEW", 0)
  monkeypatch.setattr(reading, "_CHUNK", 8)
  together, findings = _read(stills, Cut(24, crop="middle"))
  assert [still.key for still, _ in together] == [f"{i:02d}.png" for i in range(70) if i != 40]
  assert [result.image for _, result in together] == [result.image for _, result in alone]
  assert findings == alone_findings


def test_no_more_is_read_ahead_than_stated(tmp_path, monkeypatch):
  monkeypatch.setattr(reading, "_CHUNK", 1)
  monkeypatch.setattr(reading, "workers", lambda: 1)
  monkeypatch.setattr(reading, "_FEW", 0)
  stills = [_still(tmp_path / f"{i}.png", np.roll(FACE, i, axis=1)) for i in range(12)]
  results = reading._results(stills, Cut(16, crop="middle"), 0)
  next(results)
  for still in stills[reading._AHEAD + 2 :]:
    still.source.path.unlink()
  rest = [result.image is not None for result in results]
  assert rest == [True] * (reading._AHEAD + 1) + [False] * (12 - reading._AHEAD - 2)


def test_missing_opencv_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "cv2", None)
  still = _still(tmp_path / "a.png")
  with pytest.raises(
    UserError, match=r"OpenCV 4: install it with `pip install 'jaxfer\[vision\]'`, or choose crop=middle"
  ):
    _read([still], Cut(16))
  _read([still], Cut(16, crop="middle"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_reading_process_outlives_its_parent(tmp_path, sent):
  for i in range(4):
    _still(tmp_path / f"{i}.png", np.roll(FACE, i, axis=1))
  (tmp_path / "script.py").write_text(SCRIPT)
  script = subprocess.Popen(
    [sys.executable, tmp_path / "script.py", tmp_path],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
  )
  children = [int(word) for word in script.stdout.readline().split()]
  assert children
  if sent == signal.SIGINT:
    time.sleep(0.3)  # All processes have started, and wait for work.
    os.killpg(script.pid, sent)  # As Ctrl-C does.
  else:
    script.send_signal(sent)
  stderr = script.communicate(timeout=60)[1]
  for _ in range(200):
    if not any(_alive(child) for child in children):
      break
    time.sleep(0.05)
  assert not any(_alive(child) for child in children)
  assert stderr.count("Traceback") <= 1


# A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import multiprocessing, pathlib, sys, time
from jaxfer.data import reading
from jaxfer.data.prepare import Findings
from jaxfer.data.stills import File, Still

if __name__ == "__main__":
  reading._FEW, reading._CHUNK = 0, 1
  reading.workers = lambda: 2
  paths = sorted(pathlib.Path(sys.argv[1]).glob("*.png"))
  stills = [Still(p.name, "S", 0, File(p)) for p in paths * 50]
  for _ in reading.read(stills, reading.Cut(16, crop="middle"), Findings()):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


def _alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
