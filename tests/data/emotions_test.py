from pathlib import Path

import pytest

from jaxfer.data import emotions
from jaxfer.errors import UserError


def test_words_that_mean_the_same_are_one_class():
  names = ("joy", "sadness", "fear", "neutral")
  assert [emotions.find(word, names) for word in ("Happy", " happiness ", "afraid", "無表情", "SAD")] == [
    0,
    0,
    2,
    3,
    1,
  ]


@pytest.mark.parametrize(
  ("word", "name"),
  [
    ("Angry", "anger"), ("disgusted", "disgust"), ("FEARFUL", "fear"), ("Happy", "happiness"), ("Neutral", "neutral"),
    ("sad", "sadness"), ("suprise", "surprise"), ("surprised", "surprise"), ("03_happy", "happiness"),
    ("happy (1)", "happiness"), ("", ""), ("3", ""), ("train", ""), ("unhappy", ""),
  ],
)  # fmt: skip
def test_canonical_names(word, name):
  assert emotions.canonical(word) == name


@pytest.mark.parametrize("word", ["surprise", "", "happy sad", "x" * 1000])
def test_other_words_are_refused(word):
  with pytest.raises(ValueError, match=r"is not one of joy, sadness$") as caught:
    emotions.find(word, ("joy", "sadness"))
  assert len(str(caught.value)) < 100


def test_classes_of_a_copy_are_matched_once():
  names = ("anger", "happiness", "neutral")
  assert emotions.match(Path("x"), ("Neutral", "joy"), names) == [2, 1]
  with pytest.raises(
    UserError, match="source x: classes 'happy' and 'joy' mean the same; give them one name"
  ):
    emotions.match(Path("x"), ("happy", "joy"), names)
  with pytest.raises(
    UserError, match="source x: class 'fear' is not one of anger, happiness, neutral; rename it"
  ):
    emotions.match(Path("x"), ("fear",), names)
