"""Words for emotions in names of folders and in tables, in English and Japanese."""

import re
from collections.abc import Sequence
from pathlib import Path

from jaxfer.errors import UserError

# The first word of each group is its canonical name. Misspellings are those of widespread copies.
_SAME = {
  words.split()[0]: frozenset(words.split())
  for words in (
    "anger angry angery 怒り",
    "contempt contemptuous 軽蔑",
    "disgust disgusted disgusting 嫌悪",
    "excitement excited 興奮",
    "fear afraid fearful scared 恐怖 恐れ",
    "happiness happy joy joyful 喜び",
    "neutral expressionless neutrality 無表情 中立",
    "other others その他",
    "relaxation relaxed リラックス",
    "sadness sad 悲しみ",
    "shame ashamed embarrassment embarrassed 恥",
    "surprise surprised suprise suprised surprize surprized 驚き",
  )
}
_CANONICAL = {word: name for name, words in _SAME.items() for word in words}
_AROUND = re.compile(r"^[\W\d_]+|[\W\d_]+$")  # Numbers and signs around a word, as in "03_happy".


def canonical(word: str) -> str:
  """Returns the canonical name of an emotion, e.g. "happiness" for "Happy" or "03_happy"; "" for any other word."""
  return _CANONICAL.get(_AROUND.sub("", word.casefold()), "")


def find(word: str, names: Sequence[str]) -> int:
  """Returns the index of the name with the same meaning, e.g. 1 for ("Happy", ("anger", "happiness")).

  Args:
    word: word as it was written; case and surrounding spaces do not matter.
    names: class names, all with different meanings.

  Raises:
    ValueError: no name has the same meaning.
  """
  folded = word.strip().casefold()
  meaning = canonical(word)
  for i, name in enumerate(names):
    if folded == name or (meaning and meaning == canonical(name)):
      return i
  raise ValueError(f"'{folded[:40]}' is not one of {', '.join(names)}")


def match(source: Path, words: Sequence[str], names: Sequence[str]) -> list[int]:
  """Returns the index of the name with the same meaning for each class name that the owner of a copy uses.

  Raises:
    UserError: a word has the meaning of no name, or two words mean the same. The message names `source`.
  """
  indices: list[int] = []
  for word in words:
    try:
      index = find(word, names)
    except ValueError as error:
      raise UserError(f"source {source}: class {error}; rename it") from None
    if index in indices:
      other = words[indices.index(index)]
      raise UserError(f"source {source}: classes '{other}' and '{word}' mean the same; give them one name")
    indices.append(index)
  return indices
