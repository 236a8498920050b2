"""Words for emotions, as people name folders and fill tables, in English and Japanese."""

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
  """The canonical name of an emotion, e.g. "happiness" for "Happy" or "03_happy"; "" for any other word."""
  return _CANONICAL.get(_AROUND.sub("", word.casefold()), "")


def find(word: str, names: Sequence[str]) -> int:
  """The index of the name that means the same, e.g. 1 for ("Happy", ("anger", "happiness")).

  Args:
    word: as it was written; case and surrounding spaces do not matter.
    names: class names, of which no two mean the same.

  Raises:
    ValueError: none does.
  """
  folded = word.strip().casefold()
  meaning = canonical(word)
  for i, name in enumerate(names):
    if folded == name or (meaning and meaning == canonical(name)):
      return i
  raise ValueError(f"'{folded[:40]}' is none of {', '.join(names)}")


def match(source: Path, words: Sequence[str], names: Sequence[str]) -> list[int]:
  """For each class as the owner of a copy calls it, the index of the name that means the same.

  Raises:
    UserError: a word that means none of them, or two that mean the same; it names `source`.
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
