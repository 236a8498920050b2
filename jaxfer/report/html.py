"""One page that tells a run or a study: a single HTML file that opens anywhere, with nothing to fetch.

A page is a title, a summary and sections of blocks: `prose`, `table`, `results`, `figures`, `folded`. Styles stand in
the page, pictures as data URIs, scripts nowhere; its policy forbids the browser to load anything. It follows the
reader's light or dark setting, and on a phone the rows of `results` become cards.
"""

import base64
import html
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfer import metrics
from jaxfer.data.datasets import DATASETS
from jaxfer.report import tables

_ROW = ("name", "published", "mean", "std", "per_seed", "interval", "failed")
_STUDY = ("title", "rows", "source", "data", "environment")
_FIGURES = {
  "confusion.png": "Confusion matrix of the tested records: rows are the true classes.",
  "curves.png": "Learning curves; over folds the mean, and the range as a band.",
  "examples.png": "One tested record of each class, and what it was taken for where that is wrong.",
  "gates.png": "What the temporal gate of the first RGB layer lets through, the mean over its features.",
}


class Html(str):
  """Markup. Every other string is text, and escaped where it is put into markup."""


Section = tuple[str, Sequence[Html]]  # A heading and its blocks.


def element(tag: str, *children: Any, **attributes: Any) -> Html:
  """An element with its children; an underscore at the end of an attribute's name is dropped (`class_`)."""
  named = "".join(f' {name.rstrip("_")}="{html.escape(str(value))}"' for name, value in attributes.items())
  inner = "".join(child if isinstance(child, Html) else html.escape(str(child)) for child in children)
  return Html(f"<{tag}{named}>{inner}</{tag}>")


def prose(text: str) -> Html:
  """A paragraph."""
  return element("p", text)


def folded(summary: str, *blocks: Html) -> Html:
  """Blocks that the reader unfolds."""
  return element("details", element("summary", summary), *blocks)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 4) -> Html:
  """A table that scrolls sideways where it is too wide; columns of numbers go to the right.

  Args:
    header: one name a column.
    rows: cells as `tables.text` takes them, or markup.
    digits: decimals of floats.

  Raises:
    ValueError: a row is not as long as the header.
  """
  numeric = [tables.is_numeric([row[k] for row in rows]) for k in range(len(header))]
  looks = [{"class_": "number"} if right else {} for right in numeric]
  head = [element("th", name, **look) for name, look in zip(header, looks, strict=True)]
  body = [
    element(
      "tr",
      *(
        element("td", cell if isinstance(cell, Html) else tables.show(cell, digits), **look)
        for cell, look in zip(row, looks, strict=True)
      ),
    )
    for row in rows
  ]
  inner = element("thead", element("tr", *head)), element("tbody", *body)
  return element("div", element("table", *inner), class_="scroll")


def pairs(mapping: Mapping[str, Any]) -> Html:
  """A table of names and values; what lies inside other mappings goes by dotted names, as overrides do."""
  rows = [[name, _said(value)] for name, value in _flat(mapping)]
  body = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows]
  return element("div", element("table", element("tbody", *body), class_="pairs"), class_="scroll")


def figures(captioned: Sequence[tuple[str | pathlib.Path, str]]) -> Html:
  """Pictures (path of a PNG, caption), side by side where there is room."""
  blocks = []
  for path, caption in captioned:
    data = base64.b64encode(pathlib.Path(path).read_bytes()).decode()
    picture = Html(f'<img src="data:image/png;base64,{data}" alt="{html.escape(caption)}">')
    blocks.append(element("figure", picture, element("figcaption", caption)))
  return element("div", *blocks, class_="figures")


def results(rows: Sequence[Mapping[str, Any]], single: str = "per seed") -> Html:
  """Published beside ours, with the spread drawn on one axis for all rows; a column that no row fills is left out.

  Args:
    rows: as `write_study` documents them; `failed` may be None where nothing can fail.
    single: the name of the column of `per_seed`.

  Raises:
    ValueError: a row lacks a key.
  """
  for row in rows:
    _require(row, _ROW, f"row '{row.get('name', '?')}' of the results")
  span = _span(rows)
  columns = {
    "published": [_percent(row["published"]) for row in rows],
    "ours": [element("strong", _percent(row["mean"])) for row in rows],
    "± std": [_percent(row["std"]) for row in rows],
    "95 % interval": [" – ".join(map(_percent, row["interval"] or ())) or "-" for row in rows],
    single: [" ".join(map(_percent, row["per_seed"])) or "-" for row in rows],
    "failed": [_failures(row["failed"]) for row in rows],
    "on one axis": [_axis(row, span) for row in rows],
  }
  columns = {name: cells for name, cells in columns.items() if any(cell != "-" for cell in cells)}
  body = []
  for k, row in enumerate(rows):
    cells = [
      element("td", element("span", values[k]), **{"data-label": name}) for name, values in columns.items()
    ]
    body.append(element("tr", element("th", row["name"], scope="row"), *cells))
  head = element("thead", element("tr", *(element("th", name) for name in ("", *columns))))
  dots = f"dots {single}, " if single in columns else ""
  key = f"In %. Axis from {span[0]:.0%} to {span[1]:.0%}: bar 95 % interval, {dots}"
  blocks = [
    element("div", element("table", head, element("tbody", *body), class_="results"), class_="scroll"),
    element("p", key + "stroke our mean, diamond published.", class_="small"),
  ]
  failed = [f"{row['name']}: {line}" for row in rows for line in row["failed"] or ()]
  if failed:
    blocks.append(element("ul", *(element("li", line) for line in failed), class_="failed"))
  return Html("".join(blocks))


def write_report(path: str | pathlib.Path, title: str, summary: str, sections: Sequence[Section]) -> None:
  """Writes a page.

  Args:
    path: of the HTML file.
    title: its heading.
    summary: what came out, in a sentence or two.
    sections: in order; those without a block are left out.
  """
  body = [element("header", element("h1", title), element("p", summary))]
  for heading, blocks in sections:
    if blocks:
      body.append(element("section", element("h2", heading), *blocks))
  head = Html(_HEAD + element("title", title) + element("style", Html(_STYLE)))
  page = element("html", element("head", head), element("body", element("main", *body)), lang="en")
  pathlib.Path(path).write_text(f"<!doctype html>\n{page}\n", encoding="utf-8")


def write_study(path: str | pathlib.Path, study: Mapping[str, Any]) -> None:
  """Writes the page of a study.

  Accuracies and other shares are 0..1 and printed in percent.

  Args:
    path: of the HTML file.
    study: what came out, with the keys
      title: the heading, such as "Paper 001, Table 1".
      rows: one a line of the table, each with `name`; `published` (or None), `mean`, `std` over seeds (or None);
        `per_seed`, a list, None where that member failed; `interval` (low, high) or None; `failed`, a list of lines,
        one a failed member.
      source: where the published numbers stand.
      data: `name` and `fingerprint`, and the data set's options.
      environment: names to values: versions, device, commit, wall and compile time, as they shall be printed.
      Optional: `summary` (by default how many rows and members), `command`, `config` (a mapping, or a mapping by
      row), `notes` (lines, such as how ours differ from the paper's), `figures` (pairs of path and caption),
      `tables` (of heading, header, rows).

  Raises:
    ValueError: a key that is not optional is absent.
  """
  _require(study, _STUDY, "study")
  rows = study["rows"]
  failed = sum(len(row["failed"]) for row in rows if "failed" in row)
  summary = study.get("summary") or f"{len(rows)} rows; {failed or 'no'} member{'s' * (failed != 1)} failed."
  shown = [results(rows), element("p", f"Published: {study['source']}.", class_="small")]
  shown += [prose(line) for line in study.get("notes", ())]
  drawn = study.get("figures", ())
  more = [(name, [table(header, body)]) for name, header, body in study.get("tables", ())]
  sections: list[Section] = [
    _what_was_run(study.get("command"), study.get("config")),
    ("Published beside ours", shown),
    *more,
    ("Figures", [figures(drawn)] if drawn else []),
    *_background(study["data"], study["environment"]),
  ]
  write_report(path, study["title"], summary, sections)


def write_run(
  workdir: pathlib.Path, result: Mapping[str, Any], environment: Mapping[str, Any], command: str | None = None
) -> None:
  """Writes `report.html` of a run into its work directory, with the figures that lie there.

  Args:
    workdir: of the run: its config.json and figures, and timing.jsonl of it or of its folds.
    result: the contents of evaluation.json.
    environment: names to values: versions, device, commit.
    command: what was typed, if known.
  """
  config = json.loads((workdir / "config.json").read_text())
  by_fold = list(result["accuracy_by_fold"].values())
  ours = {
    "mean": result["accuracy"],
    "std": None,
    "per_seed": by_fold if len(by_fold) > 1 else [],
    "interval": result["interval_95"],
    "failed": None,
  }
  published = result["published"] or {config["model"]["name"]: None}
  rows = [{"name": name, "published": value, **ours} for name, value in published.items()]
  shown = [results(rows, "per fold")]
  if result["published"]:
    other = "" if result["data"]["name"] == "ckplus" else " Ours are other data than the paper's."
    shown.append(element("p", f"Published: {result['source']}.{other}", class_="small"))
  names = result["label_names"]
  by_class = tables.class_table(metrics.summarize(result["confusion"]), names)
  low, high = result["interval_95"]
  summary = (
    f"{result['correct']} of {result['count']} correct on people that the training never saw: "
    f"{result['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, chance {result['chance']:.1%})."
  )
  drawn = [(workdir / name, caption) for name, caption in _FIGURES.items() if (workdir / name).is_file()]
  sections: list[Section] = [
    _what_was_run(command, config),
    ("Published beside ours", shown),
    ("By class", [table(*by_class, digits=3)]),
    ("Figures", [figures(drawn)] if drawn else []),
    *_background(result["data"], {**environment, **_times(workdir)}),
  ]
  write_report(
    workdir / "report.html", f"{config['model']['name']} on {config['data']['name']}", summary, sections
  )


def _what_was_run(command: str | None, config: Mapping[str, Any] | None) -> Section:
  typed = [element("pre", element("code", command))] if command else []
  return "What was run", typed + ([folded("Configuration", pairs(config))] if config else [])


def _background(data: Mapping[str, Any], environment: Mapping[str, Any]) -> list[Section]:
  """On which data, where."""
  _require(data, ("name", "fingerprint"), "data")
  known = DATASETS.get(data["name"])
  origin = (
    [prose(f"{known.description[0].upper()}{known.description[1:]} ({known.licence}).")] if known else []
  )
  return [("Data", [*origin, pairs(data)]), ("Environment", [pairs(environment)])]


def _times(workdir: pathlib.Path) -> dict[str, str]:
  """How long the training took, by the logs of the run or of its folds."""
  logs = [path.read_text().splitlines() for path in sorted(workdir.glob("**/timing.jsonl"))]
  seconds = [[json.loads(line)["seconds"] for line in lines] for lines in logs if lines]
  if not seconds:
    return {}
  first, rest = seconds[0][0], [value for log in seconds for value in log[1:]]
  usual = f"; later ones {sum(rest) / len(rest):.1f} s on average" if rest else ""
  return {
    "training time": f"{sum(map(sum, seconds)):.1f} s",
    "epochs": f"first {first:.1f} s, compilation included{usual}",
  }


def _require(mapping: Mapping[str, Any], keys: Sequence[str], what: str) -> None:
  if absent := [key for key in keys if key not in mapping]:
    raise ValueError(f"{what} lacks {', '.join(map(repr, absent))}: has {', '.join(mapping)}")


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  for name, value in mapping.items():
    if isinstance(value, Mapping) and value:  # A call's options go by the call's name, as in overrides.
      yield from _flat(value, prefix if name == "options" else f"{prefix}{name}.")
    else:
      yield prefix + name, value


def _said(value: Any) -> str:
  if value is None or isinstance(value, bool):
    return str(value).lower()
  return f"({', '.join(map(_said, value))})" if isinstance(value, list | tuple) else str(value)


def _percent(value: float | None) -> str:
  if value is None:
    return "-"
  return f"{100 * value:.2f}" if math.isfinite(value) else "nan"


def _failures(lines: Sequence[str] | None) -> str:
  if lines is None:
    return "-"
  return element("strong", len(lines), class_="failed") if lines else "0"


def _numbers(row: Mapping[str, Any]) -> list[float]:
  values = [row["published"], row["mean"], *row["per_seed"], *(row["interval"] or ())]
  return [value for value in values if value is not None and math.isfinite(value)]


def _span(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
  """The axis of all rows, in steps of five percent."""
  values = [value for row in rows for value in _numbers(row)] or [0.0, 1.0]
  low, high = math.floor(20 * min(values)) / 20, math.ceil(20 * max(values)) / 20
  return (low, high) if low < high else (low - 0.05, high + 0.05)


def _axis(row: Mapping[str, Any], span: tuple[float, float]) -> Html:
  """Interval, single values, mean and published value of a row as marks between the ends of the axis."""

  def at(value):
    return round(6 + 148 * (value - span[0]) / (span[1] - span[0]), 1)

  marks = ['<path class="rule" d="M6 12H154"/>']
  if row["interval"]:
    marks.append(f'<path class="range" d="M{at(row["interval"][0])} 12H{at(row["interval"][1])}"/>')
  for value in row["per_seed"]:
    if value is not None and math.isfinite(value):
      marks.append(f'<circle cx="{at(value)}" cy="12" r="2.5"/>')
  if row["mean"] is not None and math.isfinite(row["mean"]):
    marks.append(f'<path class="mean" d="M{at(row["mean"])} 4V20"/>')
  if row["published"] is not None:
    marks.append(f'<path class="published" d="M{at(row["published"])} 6l5 6-5 6-5-6z"/>')
  return Html(f'<svg viewBox="0 0 160 24" width="160" height="24" aria-hidden="true">{"".join(marks)}</svg>')


_HEAD = """<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
"""

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1f2328; --soft: #59636e; --line: #d8dee4; --fill: #f6f8fa;
  --ours: #0072b2; --range: #b9d9ee; --paper: #d55e00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1318; --text: #e6edf3; --soft: #9aa5b1; --line: #30363d;
  --fill: #171c23; --ours: #56b4e9; --range: #24506b; --paper: #f0954f; --bad: #ff8a80; }
  img { filter: brightness(.88); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { margin: 0 0 .5rem; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.75rem 0 .9rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); font-size: 1.25rem; }
p, ul { max-width: 46rem; margin: .6rem 0; }
header p { font-size: 1.1rem; color: var(--soft); }
.small { font-size: .875rem; color: var(--soft); }
.failed { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: middle; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
.number { text-align: right; }
.pairs th, .pairs td { padding: .2rem 1.2rem .2rem 0; vertical-align: top; }
.pairs th { font-weight: 400; color: var(--soft); overflow-wrap: break-word; }
.pairs td { overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .875rem; }
.results { width: 100%; }
.results td { white-space: nowrap; }
.results td:nth-child(6) { white-space: normal; }
svg { display: block; fill: var(--ours); }
svg circle { opacity: .55; }
svg path { fill: none; stroke: var(--line); stroke-width: 1; }
svg .range { stroke: var(--range); stroke-width: 7; }
svg .mean { stroke: var(--ours); stroke-width: 3; }
svg .published { fill: var(--paper); stroke: none; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; }
img { display: block; width: 100%; max-width: 900px; border: 1px solid var(--line); border-radius: 6px; }
figcaption { margin-top: .5rem; font-size: .875rem; color: var(--soft); }
pre { margin: .6rem 0; padding: .8rem 1rem; background: var(--fill); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .875rem/1.5 ui-monospace, monospace; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--ours); margin-bottom: .5rem; }
@media (max-width: 46rem) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  table { font-size: .875rem; }
  th, td { padding-right: .6rem; }
  .results, .results tbody, .results tr, .results th, .results td { display: block; }
  .results thead { display: none; }
  .results tr { margin-bottom: 1rem; padding: .7rem .9rem; border: 1px solid var(--line); border-radius: 6px; }
  .results th, .results td { padding: .15rem 0; border: 0; }
  .results td { display: flex; justify-content: space-between; gap: 1rem; text-align: right; }
  .results td::before { content: attr(data-label); color: var(--soft); text-align: left; white-space: nowrap; }
}
"""
