"""Words for splits in names of folders and in tables: Training, val_set, PublicTest, ..."""

import re
from collections.abc import Collection

# Words are compared without signs and without the fillers below: "Train_Set" and "images-train" become "train".
_WORDS = {
  "train": ("train", "training", "trn"),
  "validation": ("validation", "valid", "val", "validate", "validating", "dev", "development", "publictest"),
  "test": ("test", "testing", "tst", "tests", "privatetest"),
}
_SPLITS = {word: split for split, words in _WORDS.items() for word in words}
_HELD_OUT = ("eval", "evaluation")  # These name the test split, unless another folder does.
_FILLERS = "(?:data|sets?|images?|imgs?|pictures|faces|samples|splits?)*"
_NAME = re.compile(f"{_FILLERS}({'|'.join((*_SPLITS, *_HELD_OUT))}){_FILLERS}")


def find(word: str) -> str:
  """Returns the split that a word names: "train", "validation" or "test"; "" for any other word.

  Case, signs and words such as "set" or "images" do not matter: "Training", "val_set" and "images-test" are splits.
  FER2013's "PublicTest" is the validation split, "PrivateTest" the test split, and "eval" the test split.
  """
  core = _core(word)
  return "test" if core in _HELD_OUT else _SPLITS.get(core, "")


def assign(names: Collection[str]) -> dict[str, str]:
  """Returns the names that name splits, each with its split.

  If there is also a test split, "eval" is the validation split.
  """
  found = {name: split for name in names if (split := find(name))}
  tested = any(split == "test" and _core(name) not in _HELD_OUT for name, split in found.items())
  return {
    name: "validation" if tested and _core(name) in _HELD_OUT else split for name, split in found.items()
  }


def _core(word: str) -> str:
  match = _NAME.fullmatch(re.sub(r"[\W_]+", "", word.casefold()))
  return match[1] if match else ""
