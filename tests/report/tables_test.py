"""Compares tables character by character."""

import textwrap

import numpy as np
import pytest

from jaxfer import metrics
from jaxfer.report import tables

HEADER = ["row", "count", "accuracy", "done", "note"]
ROWS = [
  ["conv_gru", 283, 0.86544, True, "a|b"],
  ["x", np.int64(7), np.float32(0.5), np.bool_(False), None],
  ["nothing", None, float("nan"), False, "two\nlines"],
]


def dedent(block):
  return textwrap.dedent(block).lstrip("\n")


def test_text():
  rows = [[*row[:4], "one line"] for row in ROWS]
  assert tables.text(HEADER, rows) == dedent("""
    row       count  accuracy  done  note
    --------  -----  --------  ----  --------
    conv_gru    283    0.8654  yes   one line
    x             7    0.5000  no    one line
    nothing       -       nan  no    one line
    """)


def test_digits():
  assert (
    tables.text(["a", "n"], [[0.12345, 10], [10.0, 3]], digits=1)
    == "   a   n\n----  --\n 0.1  10\n10.0   3\n"
  )


def test_markdown():
  assert tables.markdown(HEADER, ROWS) == dedent(r"""
    | row      | count | accuracy | done | note      |
    | -------- | ----: | -------: | ---- | --------- |
    | conv_gru |   283 |   0.8654 | yes  | a\|b      |
    | x        |     7 |   0.5000 | no   | -         |
    | nothing  |     - |      nan | no   | two lines |
    """)


def test_markdown_keeps_narrow_columns_valid():
  assert tables.markdown(["a", "n"], [["b", 1]]) == "| a   |   n |\n| --- | --: |\n| b   |   1 |\n"


@pytest.mark.parametrize("write", [tables.text, tables.markdown])
def test_a_short_row_is_refused(write):
  with pytest.raises(ValueError, match="1 cells under a header of 2"):
    write(["a", "b"], [[1]])


def test_an_empty_table_is_its_header():
  assert tables.text(["a", "bc"], []) == "a  bc\n-  --\n"


def test_confusion_table():
  header, rows = tables.confusion_table(
    np.array([[3, 1, 0], [0, 0, 0], [2, 0.5, 10]]), ["joy", "fear", "anger"]
  )
  assert tables.text(header, rows) == dedent(r"""
    true \ predicted  joy    fear  anger      sum  recall
    ----------------  ---  ------  -----  -------  ------
    joy                 3       1      0        4  0.7500
    fear                0       0      0        0     nan
    anger               2  0.5000     10  12.5000  0.8000
    """)
  with pytest.raises(ValueError, match="2 label names"):
    tables.confusion_table(np.eye(3), ["a", "b"])


def test_class_table():
  summary = metrics.summarize([[3, 1], [2, 4]])
  assert tables.text(*tables.class_table(summary, ["joy", "fear"])) == dedent("""
    class          precision  recall      f1  examples
    -------------  ---------  ------  ------  --------
    joy               0.6000  0.7500  0.6667         4
    fear              0.8000  0.6667  0.7273         6
    macro average     0.7000  0.7083  0.6970        10
    """)
