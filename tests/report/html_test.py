"""Tests that pages are self-contained, show their contents, and escape them. No browser is run."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jaxfer.report import html, pages

VOID = {"meta", "img"}
DATA = {"name": "synthetic_sequences", "num_subjects": 4, "fingerprint": "abc123"}


class Page(HTMLParser):
  """A parsed page: its text, its tables as cells, and its attributes; fails if tags do not nest."""

  def __init__(self, path):
    super().__init__()
    self.open, self.texts, self.tables, self.tags = [], [], [], []
    self.feed(path.read_text())
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)
    if tag == "table":
      self.tables.append([])
    elif tag == "tr":
      self.tables[-1].append([])
    elif tag in ("th", "td"):
      self.tables[-1][-1].append("")

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "style" not in self.open:
      self.texts.append(data)
    if {"th", "td"} & set(self.open):
      self.tables[-1][-1][-1] += data

  @property
  def text(self):
    return " ".join(self.texts)


@pytest.fixture
def picture(tmp_path):
  Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "picture.png")
  return tmp_path / "picture.png"


def failed(member):
  return {"member": member, "seed": 1, "fold": 0, "where": "stage 'train', epoch 1, step 2"}


def study(**changes):
  def row(name, published, failures=()):
    return {
      "name": name,
      "published": published,
      "mean": 0.8125,
      "std": 0.0123,
      "per_seed": [0.8, 0.825],
      "interval": (0.7, 0.9),
      "failed": list(failures),
      "data": DATA,
    }

  return {
    "title": "Table 1",
    "source": "paper 001",
    "rows": [row("plain", 0.8593, [failed("seed 1, fold 0")]), row("enhanced", None)],
    "config": {"model": {"name": "net", "options": {"features": [4, 8], "dense": [6]}}, "seed": 0},
    "environment": {"jax": "0.0", "device": "1 x cpu"},
    "timing": {"seconds": 61.4, "compile_seconds": 9.6},
  } | changes


def test_a_page_fetches_nothing_and_runs_nothing(tmp_path, picture):
  pages.write_study(tmp_path / "report.html", study(), [(picture, "a figure")])
  page = Page(tmp_path / "report.html")
  tags = [tag for tag, _ in page.tags]
  assert not {"script", "link", "iframe", "object"} & set(tags)
  sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
  assert len(sources) == 1
  assert sources[0].startswith("data:image/png;base64,iVBOR")
  assert not any("href" in attrs or any(name.startswith("on") for name in attrs) for _, attrs in page.tags)
  text = (tmp_path / "report.html").read_text()
  assert "url(" not in text
  assert "@import" not in text
  policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
  assert policy.startswith("default-src 'none'")
  assert "width=device-width" in text
  assert "prefers-color-scheme: dark" in text


def test_published_is_shown_beside_ours_in_percent(tmp_path):
  pages.write_study(tmp_path / "report.html", study())
  page = Page(tmp_path / "report.html")
  header, plain, enhanced = next(table for table in page.tables if "published" in table[0])
  assert header == ["", "published", "ours", "± std", "95 % interval", "per seed", "failed"]
  assert plain == ["plain", "85.93", "81.25", "1.23", "70.00\xa0to\xa090.00", "80.00 82.50", "1"]
  assert enhanced[:3] == ["enhanced", "-", "81.25"]
  assert enhanced[-1] == "-"
  sentence = "not finite in stage 'train', epoch 1, step 2; its records count as wrong"
  assert f"plain: seed 1, fold 0: {sentence}" in page.text
  assert "1 training failed" in page.text
  assert "paper 001" in page.text


def test_configuration_data_and_environment_are_there(tmp_path):
  pages.write_study(tmp_path / "report.html", study(note="Other data.", comparisons=[{"sentence": "Ahead."}]))
  page = Page(tmp_path / "report.html")
  listed = {row[0]: row[1] for table in page.tables for row in table if len(row) == 2}
  assert listed["model.features"] == "(4, 8)"  # Named and written as in an override.
  assert listed["model.dense"] == "(6,)"
  assert listed["fingerprint"] == "abc123"
  assert listed["device"] == "1 x cpu"
  assert listed["of it compiling"] == "10 s"
  assert "drawn by jaxfer" in page.text
  assert "Other data." in page.text
  assert "Ahead." in page.text
  assert ("details", {}) in page.tags


def test_rows_with_other_data_are_named(tmp_path):
  first, second = study()["rows"]
  second = {**second, "data": {**DATA, "fingerprint": "def456"}}
  pages.write_study(tmp_path / "report.html", study(rows=[first, second]))
  text = Page(tmp_path / "report.html").text
  assert text.index("abc123") < text.index("def456")
  assert text.count("fingerprint") == 2


@pytest.mark.parametrize("key", ["title", "source", "rows", "config", "environment", "timing"])
def test_an_absent_key_of_a_study_is_named(tmp_path, key):
  without = {name: value for name, value in study().items() if name != key}
  with pytest.raises(ValueError, match=f"study lacks '{key}'"):
    pages.write_study(tmp_path / "report.html", without)


def test_an_absent_key_of_a_row_is_named(tmp_path):
  row = study()["rows"][0]
  del row["interval"]
  with pytest.raises(ValueError, match="row 'plain' of the study lacks 'interval'"):
    pages.write_study(tmp_path / "report.html", study(rows=[row]))


def test_everything_is_escaped(tmp_path, picture):
  evil = "<script>alert('x')</script>\"&amp;"
  rows = [{**row, "name": evil, "failed": [failed(evil)]} for row in study()["rows"]]
  table = study(title=evil, source=evil, rows=rows, note=evil, config={evil: evil}, environment={evil: evil})
  pages.write_study(tmp_path / "report.html", table, [(picture, evil)])
  page = Page(tmp_path / "report.html")
  assert "script" not in [tag for tag, _ in page.tags]
  assert page.text.count(evil) >= 8
  assert [a["alt"] for tag, a in page.tags if tag == "img"] == [evil]


def test_a_table_refuses_rows_of_another_length_and_aligns_numbers():
  with pytest.raises(ValueError, match="1 cells under a header of 2"):
    html.table(["a", "b"], [["x"]])
  assert '<td class="number">0.50</td>' in html.table(["a", "b"], [["x", 0.5]], digits=2)


@pytest.mark.parametrize("folds", [1, 2])
def test_a_run_shows_its_result_and_the_figures_that_are_there(tmp_path, picture, folds):
  config = {
    "model": {"name": "net", "options": {"features": [4]}},
    "data": {"name": DATA["name"], "options": {}},
  }
  (tmp_path / "config.json").write_text(json.dumps(config))
  for k in range(folds):
    (tmp_path / f"fold{k}").mkdir()
    lines = [json.dumps({"seconds": seconds}) for seconds in (8.0, 2.0, 2.0)]
    (tmp_path / f"fold{k}" / "timing.jsonl").write_text("\n".join(lines) + "\n")
  picture.rename(tmp_path / "gates.png")
  result = {
    "accuracy": 0.75,
    "correct": 3,
    "count": 4,
    "interval_95": [0.3, 0.95],
    "chance": 0.5,
    "accuracy_by_group": {},
    "accuracy_by_fold": {f"fold{k}": 0.75 for k in range(folds)},
    "confusion": [[2, 0], [1, 1]],
    "label_names": ["calm", "glad"],
    "published": {},
    "source": "paper 001",
    "data": DATA,
    "revision": "1.2+abc",
  }
  pages.write_run(tmp_path, result, "1 x cpu by pmap", {"gates.png": "What the gate lets through."})
  page = Page(tmp_path / "report.html")
  assert "3 of 4 correct" in page.text
  header, row = next(table for table in page.tables if "ours" in table[0])
  # Nothing is published for it; folds are shown if there are several.
  assert header == ["", "ours", "95 % interval", *(["per fold"] if folds > 1 else [])]
  assert row[:2] == ["net", "75.00"]
  assert ["glad", "1.000", "0.500", "0.667", "2"] in [row for table in page.tables for row in table]
  assert len([tag for tag, _ in page.tags if tag == "img"]) == 1
  listed = {row[0]: row[1] for table in page.tables for row in table if len(row) == 2}
  assert listed["training"] == f"{12 * folds} s"
  assert listed["jaxfer"] == "1.2+abc"
  assert listed["device"] == "1 x cpu by pmap"
