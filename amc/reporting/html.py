"""HTML that escapes by construction, and the shell and style of one self-contained page."""

from __future__ import annotations

from html import escape


class Html(str):
    """Text that is HTML already; any other text is escaped wherever it goes in."""

    __slots__ = ()


def join(*parts: str) -> Html:
    """Parts in a row; those that are not :class:`Html` are escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def tag(name: str, *children: str, **attributes: str) -> Html:
    """``tag("td", "a < b", class_="n")`` is ``<td class="n">a &lt; b</td>``.

    A trailing underscore of an attribute's name goes, other underscores become hyphens.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{given}>{join(*children)}</{name}>")


def table(head: list[str], rows: list[list[str]], class_: str = "") -> Html:
    """A table that scrolls by itself on a narrow screen; the first column heads the rows."""
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    columns = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    inner = tag("table", columns if head else Html(""), tag("tbody", *body), class_=class_)
    return tag("div", inner, class_="scroll")


def page(title: str, body: Html) -> str:
    """The whole document. The policy forbids it to load or run anything."""
    return _SHELL.format(title=escape(title), style=_STYLE, body=body)


_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root {
  --page: #f7f7f4; --card: #ffffff; --ink: #1f2529; --muted: #646d75; --line: #e3e4de;
  --soft: #cfd6d4; --accent: #12796f; --second: #c8571b; --wash: #f0f1ec;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121517; --card: #1a1e21; --ink: #e4e7e9; --muted: #98a2a9; --line: #2b3135;
    --soft: #414a50; --accent: #4cb8ab; --second: #ee9460; --wash: #22272b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Inter, Roboto, sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 3.5rem 1.25rem 5rem; }
header p { margin: 0; color: var(--muted); }
h1 { margin: .2rem 0 .9rem; font-size: 2.1rem; line-height: 1.15; letter-spacing: -.02em;
  font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 .9rem; font-size: 1.15rem; font-weight: 650; letter-spacing: -.01em; }
header .headline { max-width: 46rem; font-size: 1.3rem; line-height: 1.45; color: var(--ink); }
.headline strong { font-weight: 650; color: var(--accent); }
p.note, figcaption p { margin: .5rem 0 0; color: var(--muted); font-size: .875rem; }
.notes { margin: 1.6rem 0 0; padding: .8rem 1.1rem; border-left: 3px solid var(--second);
  background: var(--card); border-radius: 0 .5rem .5rem 0; list-style: none; }
.notes li + li { margin-top: .35rem; }
.scroll, figure, pre { background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .6rem 1.1rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child { text-align: left; }
thead th { color: var(--muted); font-size: .85rem; font-weight: 500; }
tbody th { font-weight: 500; }
tbody tr { border-top: 1px solid var(--line); }
.results td { width: 25%; }
.results td:not(:last-child) { color: var(--muted); }
.results td:last-child { font-weight: 600; }
td small, th small { display: block; font-size: .8rem; font-weight: 400; color: var(--muted); }
.plan td, .plan th, .pairs td, .pairs th { padding: .32rem 1.1rem; font-size: .9rem; }
.plan td:last-child { width: 45%; min-width: 8rem; vertical-align: middle; }
.pairs td, .plan th:last-child { text-align: left; }
.pairs td { white-space: normal; overflow-wrap: anywhere; width: 65%; }
.pairs th { color: var(--muted); }
.bar { height: .6rem; border-radius: .2rem; background: var(--soft); overflow: hidden; }
.bar span { display: block; height: 100%; background: var(--accent); }
figure { margin: 0; padding: 1.1rem 1.1rem .9rem; min-width: 0; }
figcaption { margin-bottom: .7rem; }
figcaption strong { font-weight: 600; }
figcaption p { margin-top: .1rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: inherit !important; font-variant-numeric: tabular-nums; }
svg [id*="halo"] text { paint-order: stroke; stroke: var(--card); stroke-width: 4px;
  stroke-linejoin: round; }
.grid { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; margin-top: 1rem; }
.narrow { display: none; }
details { margin-top: 1rem; }
details > summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
details > summary span { color: var(--muted); font-weight: 400; }
details > .scroll { margin-top: .6rem; }
pre { margin: 0; padding: .9rem 1.1rem; overflow-x: auto; font-size: .875rem; line-height: 1.6; }
code, pre { font-family: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, monospace; }
code { font-size: .9em; background: var(--wash); padding: .1em .35em; border-radius: .25em; }
pre code { padding: 0; background: none; font-size: 1em; }
@media (max-width: 44rem) {
  main { padding: 1.8rem .9rem 3rem; }
  h1 { font-size: 1.6rem; }
  header .headline { font-size: 1.1rem; }
  .grid { grid-template-columns: minmax(0, 1fr); }
  .wide { display: none; }
  .narrow { display: block; }
  th, td { padding: .5rem .6rem; font-size: .875rem; }
  .results th, .results td { padding: .5rem .45rem; white-space: normal; }
  td small { font-size: .72rem; white-space: nowrap; }
  .plan td, .plan th, .pairs td, .pairs th { padding: .3rem .6rem; font-size: .82rem; }
  .plan td:last-child { width: 30%; min-width: 4rem; }
  figure { padding: .9rem .7rem .7rem; }
  pre { padding: .8rem .9rem; font-size: .78rem; }
}
@media print {
  body { background: none; }
  figure, tr { break-inside: avoid; }
}
"""
