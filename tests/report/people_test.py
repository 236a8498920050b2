"""Tests the sheet of a people's test, and the scores of answers."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from jaxfer.errors import UserError
from jaxfer.report import people

NAMES = ("happiness", "sadness", "anger")


def write(folder, channels=1):
  """Writes a test with six pictures of different grey levels: 10 for picture 1, 20 for picture 2, ..."""
  shade = lambda value: np.full((4, 4, channels), value, np.uint8)  # noqa: E731
  labels = ["sadness", "anger", "anger", "happiness", "sadness", "happiness"]
  pictures = [shade(10 * k) for k in range(1, 7)]
  people.write(
    folder,
    {name: shade(100 + k) for k, name in enumerate(NAMES)},
    pictures,
    labels,
    [f"r{k}" for k in range(1, 7)],
  )
  return labels


def answer(folder, lines, name="ann.csv", header="number,answer"):
  path = folder / name
  path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
  return path


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_each_picture_at_its_number_and_tells_no_answer(tmp_path, channels):
  write(tmp_path, channels)
  page = (tmp_path / people.SHEET).read_text()
  found = re.findall(r'data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
  shown = {alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data, alt in found}
  assert list(shown) == [*NAMES, *(f"picture {k}" for k in range(1, 7))]
  assert all((shown[f"picture {k}"] == 10 * k).all() for k in range(1, 7))
  assert all((shown[name] == 100 + k).all() for k, name in enumerate(NAMES))
  numbered = page[page.index("<section>") :]
  assert numbered.count("happiness") == 1  # Only in the list of words.
  assert "r3" not in re.sub(r"base64,[^\"]*", "", page)
  assert "://" not in page
  assert (tmp_path / people.ANSWERS).read_text().splitlines()[:2] == ["number,answer", "1,"]


def test_a_page_holds_twenty_five(tmp_path):
  picture = np.zeros((4, 4, 1), np.uint8)
  people.write(tmp_path / "new", {"a": picture}, [picture] * 26, ["a"] * 26, [str(k) for k in range(26)])
  page = (tmp_path / "new" / people.SHEET).read_text()
  assert page.count("<section>") == 2
  assert page.index("<b>25</b>") < page.rindex("<section>") < page.index("<b>26</b>")


def test_answers_are_counted_by_class_in_any_words_and_any_order(tmp_path):
  write(tmp_path)
  first = answer(tmp_path, ["6,Happy", "5,sad", "4,sadness", "3, ANGER ", "2,anger", "1,悲しみ"])
  second = answer(tmp_path, [f"{k},anger" for k in range(1, 7)], "bob.csv", "\ufeffnumber,answer")
  one, other = people.score(tmp_path, [first, second])
  assert (one.name, one.correct) == ("ann", {"anger": 2, "happiness": 1, "sadness": 2})
  assert (other.name, other.correct) == ("bob", {"anger": 2, "happiness": 0, "sadness": 0})
  assert one.count == {"anger": 2, "happiness": 2, "sadness": 2}
  assert one.accuracy == 5 / 6


GOOD = [f"{k},anger" for k in range(1, 7)]


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    (GOOD[:-1], "picture 6 has no answer: write one of anger, happiness, sadness"),
    (["1,", "2, ", *GOOD[2:]], "picture 1 has no answer (further pictures without an answer: 1)"),
    ([*GOOD, "3,sadness"], "line 8: picture 3 is answered twice"),
    ([*GOOD, "7,anger"], "there is no picture 7: the pictures are numbered 1 to 6"),
    ([*GOOD[:-1], "6,angst"], "the answer to picture 6 'angst' is not one of anger, happiness, sadness"),
    ([*GOOD[:-1], "six,anger"], "line 7: 'six' is not the number of a picture"),
    ([*GOOD[:-1], '"s\nix",anger'], "'s ix' is not the number of a picture"),
    ([*GOOD[:-1], "6,anger,sadness"], "line 7: 3 columns, expected 2"),
  ],
)
def test_a_bad_answer_is_one_clear_line(tmp_path, lines, message):
  write(tmp_path)
  path = answer(tmp_path, lines)
  with pytest.raises(UserError, match=re.escape(message)) as error:
    people.score(tmp_path, [path])
  assert str(error.value).startswith(str(path))
  assert "\n" not in str(error.value)


def test_a_bad_file_is_one_clear_line(tmp_path):
  write(tmp_path)
  with pytest.raises(UserError, match="begins with 'picture;answer': its first line must be number,answer"):
    people.score(tmp_path, [answer(tmp_path, GOOD, header="picture;answer")])
  with pytest.raises(UserError, match=r"none\.csv cannot be read .*name a filled copy of answers\.csv"):
    people.score(tmp_path, [tmp_path / "none.csv"])
  (tmp_path / "sjis.csv").write_bytes("number,answer\n1,悲しみ\n".encode("shift_jis"))
  with pytest.raises(UserError, match=r"sjis\.csv is not a CSV file in UTF-8"):
    people.score(tmp_path, [tmp_path / "sjis.csv"])
  with pytest.raises(UserError, match=r"holds no people's test \(key\.csv\): write one"):
    people.score(tmp_path / "elsewhere", [])


def test_a_test_is_not_written_over_another(tmp_path):
  write(tmp_path)
  (tmp_path / people.SHEET).unlink()
  with pytest.raises(UserError, match=r"already holds answers\.csv: choose another folder"):
    write(tmp_path)
