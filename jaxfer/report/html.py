"""Writes a page as one self-contained HTML file, and makes the blocks of its content.

The page embeds its styles, and its pictures as data URIs. It has no scripts, and its content security policy forbids
the browser to load anything. It follows the reader's light or dark setting. On a phone, the rows of `cards` become
cards.
"""

import base64
import html
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfer import files
from jaxfer.report import tables


class Html(str):
  """Markup. All other strings are text, which is escaped when it is put into markup."""


Section = tuple[str, Sequence[Html]]  # A heading and its blocks.


def element(tag: str, *children: Any, **attributes: Any) -> Html:
  """Returns an element with its children. A trailing underscore of an attribute's name is dropped (`class_`)."""
  named = "".join(f' {name.rstrip("_")}="{html.escape(str(value))}"' for name, value in attributes.items())
  inner = "".join(child if isinstance(child, Html) else html.escape(str(child)) for child in children)
  return Html(f"<{tag}{named}>{inner}</{tag}>")


def prose(text: str) -> Html:
  """Returns a paragraph."""
  return element("p", text)


def remark(text: str) -> Html:
  """Returns a paragraph in small type."""
  return element("p", text, class_="small")


def folded(summary: str, *blocks: Html) -> Html:
  """Returns blocks that are hidden until the reader clicks on the summary."""
  return element("details", element("summary", summary), *blocks)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 4) -> Html:
  """Returns a table that scrolls sideways if it is too wide. Columns of numbers are aligned right.

  Args:
    header: one name per column.
    rows: cells as in `tables.text`, or markup.
    digits: number of decimals of floats.

  Raises:
    ValueError: a row does not have one cell per column.
  """
  tables.check(header, rows)
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
  """Returns a table of names and values. Entries of nested mappings get dotted names, as in overrides."""
  rows = [[name, _said(value)] for name, value in _flat(mapping)]
  body = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows]
  return element("div", element("table", element("tbody", *body), class_="pairs"), class_="scroll")


def figures(captioned: Sequence[tuple[str | pathlib.Path, str]]) -> Html:
  """Returns captioned pictures, side by side if there is room.

  Args:
    captioned: (path of a PNG, caption) of each picture.
  """
  blocks = []
  for path, caption in captioned:
    data = base64.b64encode(pathlib.Path(path).read_bytes()).decode()
    picture = Html(f'<img src="data:image/png;base64,{data}" alt="{html.escape(caption)}">')
    blocks.append(element("figure", picture, element("figcaption", caption)))
  return element("div", *blocks, class_="figures")


def cards(columns: Mapping[str, Sequence[Any]]) -> Html:
  """Returns a table for a few rows with large cells, text or markup. The first column names the rows.

  Args:
    columns: name of a column -> one cell per row.

  Raises:
    ValueError: the columns differ in length.
  """
  _, *names = columns
  body = []
  for first, *cells in zip(*columns.values(), strict=True):
    data = [
      element("td", element("span", cell), **{"data-label": name})
      for name, cell in zip(names, cells, strict=True)
    ]
    body.append(element("tr", element("th", first, scope="row"), *data))
  head = element("thead", element("tr", *(element("th", name) for name in columns)))
  return element("div", element("table", head, element("tbody", *body), class_="cards"), class_="scroll")


def write_report(path: str | pathlib.Path, title: str, summary: str, sections: Sequence[Section]) -> None:
  """Writes a page.

  Args:
    path: path of the HTML file.
    title: heading of the page.
    summary: the result in one or two sentences.
    sections: sections in order; those without blocks are left out.
  """
  body = [element("header", element("h1", title), element("p", summary))]
  for heading, blocks in sections:
    if blocks:
      body.append(element("section", element("h2", heading), *blocks))
  write_page(path, title, body, _STYLE)


def write_page(path: str | pathlib.Path, title: str, body: Sequence[Html], style: str) -> None:
  """Writes a page with the blocks `body` and the CSS `style`."""
  head = Html(_HEAD + element("title", title) + element("style", Html(style)))
  page = element("html", element("head", head), element("body", element("main", *body)), lang="en")
  files.write_atomic(path, f"<!doctype html>\n{page}\n")


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  for name, value in mapping.items():
    if isinstance(value, Mapping) and value:  # Names leave "options" out, as in overrides.
      yield from _flat(value, prefix if name == "options" else f"{prefix}{name}.")
    else:
      yield prefix + name, value


def _said(value: Any) -> str:
  if value is None or isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, list | tuple):
    return f"({', '.join(map(_said, value))}{',' * (len(value) == 1)})"
  return str(value)


_HEAD = """<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
"""

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1f2328; --soft: #59636e; --line: #d8dee4; --fill: #f6f8fa;
  --link: #0072b2; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1318; --text: #e6edf3; --soft: #9aa5b1; --line: #30363d;
  --fill: #171c23; --link: #56b4e9; --bad: #ff8a80; }
  img { filter: brightness(.88); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { margin: 0 0 .5rem; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
h3 { margin: 1.4rem 0 .3rem; font-size: 1rem; }
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
.cards { width: 100%; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; }
img { display: block; width: 100%; max-width: 900px; border: 1px solid var(--line); border-radius: 6px; }
figcaption { margin-top: .5rem; font-size: .875rem; color: var(--soft); }
pre { margin: .6rem 0; padding: .8rem 1rem; background: var(--fill); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .875rem/1.5 ui-monospace, monospace; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--link); margin-bottom: .5rem; }
@media (max-width: 46rem) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  table { font-size: .875rem; }
  th, td { padding-right: .6rem; }
  .cards, .cards tbody, .cards tr, .cards th, .cards td { display: block; }
  .cards thead { display: none; }
  .cards tr { margin-bottom: 1rem; padding: .7rem .9rem; border: 1px solid var(--line); border-radius: 6px; }
  .cards th, .cards td { padding: .15rem 0; border: 0; }
  .cards td { display: flex; justify-content: space-between; gap: 1rem; text-align: right; }
  .cards td::before { content: attr(data-label); color: var(--soft); text-align: left; white-space: nowrap; }
}
"""
