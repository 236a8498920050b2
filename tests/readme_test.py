"""Tests that links on pages exist, that the top README is short, and that its tables match the committed results."""

import pathlib
import re

import pytest

from benchmarks import records, table

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
  page.relative_to(ROOT)
  for folder in ("", "benchmarks", "jaxfer", "tests")
  for page in (
    (ROOT / folder).glob("*.md") if folder in ("", "benchmarks") else (ROOT / folder).rglob("*.md")
  )
)
SECTIONS = [
  "1. The paper", "2. The method", "3. Our choices", "4. Known deviations", "5. Commands", "6. Results",
  "7. Published numbers", "8. What can be reproduced",
]  # fmt: skip
SYSTEMS = (
  "stacked_autoencoder", "two_stream_conv_rnn", "landmark_fusion", "identity_expression_vae", "elderly_transfer",
)  # fmt: skip


def broken(text: str, folder: pathlib.Path) -> list[str]:
  """Returns the relative targets of Markdown links and pictures that do not exist."""
  targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t]
  return [t for t in targets if t and not (folder / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_and_pictures_exist(page):
  assert broken((ROOT / page).read_text(), (ROOT / page).parent) == []


def test_a_broken_link_is_found(tmp_path):
  text = "[a](there.md#x) ![b](missing.png) [c](https://example.org/d) [d](#here)"
  (tmp_path / "there.md").write_text("")
  assert broken(text, tmp_path) == ["missing.png"]


def test_the_top_readme_is_short():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("system", SYSTEMS)
def test_systems_have_the_same_sections(system):
  text = (ROOT / "jaxfer" / "systems" / system / "README.md").read_text()
  found = re.findall(r"^## (.+)$", text, re.MULTILINE)
  assert found == SECTIONS


@pytest.mark.parametrize("name", ["performance", "compiled", "speed"])
def test_generated_tables_are_those_of_the_committed_results(name):
  results = ROOT / "benchmarks" / "results"
  paths = [*sorted(results.glob("cpu-*.jsonl")), *sorted(results.glob("tpu-compiled-*.jsonl"))]
  files = {str(path.relative_to(ROOT)): records.read(path) for path in paths}
  text = table.page_texts(files, only_headlines=True, with_papers=False)[name]
  page = table.pages(ROOT)[name].read_text()
  assert f"<!-- {name} -->\n\n{text}\n\n<!-- /{name} -->" in page


def test_numbers_of_the_top_table_are_in_the_systems_pages():
  rows = re.findall(
    r"^\| \[`(\w+)`\].*?([\d.]+ ± [\d.]+ %) \|$", (ROOT / "README.md").read_text(), re.MULTILINE
  )
  assert [name for name, _ in rows] == list(SYSTEMS)
  for name, ours in rows:
    assert ours in (ROOT / "jaxfer" / "systems" / name / "README.md").read_text()
