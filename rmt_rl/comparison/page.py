"""HTML of which all text is escaped, and figures that take the colours of their page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from xml.etree import ElementTree

from rmt_rl.comparison.figures import GRID, INK, PAPER, Picture, shorten
from rmt_rl.comparison.results import plain

#: Letters of a name in a table.
LONGEST_NAME = 48


class Html(str):
    """Text that is HTML already. Only this module makes it from strings."""


def element(tag: str, *children: str, **attributes: str | None) -> Html:
    """<tag attributes>children</tag>. Children that are not Html are escaped. An underscore ends names like class_."""
    named = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    inside = "".join(f' {name}="{html.escape(plain(value))}"' for name, value in named)
    return Html(f"<{tag}{inside}>{join(children)}</{tag}>")


def join(children: Iterable[str], between: str = "") -> Html:
    return Html(between.join(child if isinstance(child, Html) else html.escape(plain(child)) for child in children))


def breakable(text: str, after: str = "_./,-") -> Html:
    """A name that may go on in the next line after some of its punctuation."""
    return Html(re.sub(rf"([{after}])(?=\w)", r"\1<wbr>", html.escape(plain(text))))


def table(head: Iterable[str], rows: Iterable[Iterable[Html]], class_: str = "wide") -> Html:
    """A table that scrolls sideways where it is wider than the page. Strings of its head are names."""
    names = [text if isinstance(text, Html) else breakable(shorten(text, LONGEST_NAME), "=_./,-") for text in head]
    header = element("thead", element("tr", *(element("th", name, scope="col") for name in names)))
    body = element("tbody", *(element("tr", *row) for row in rows))
    return element("div", element("table", header, body), class_=class_, tabindex="0")


def first(text: str, *more: str) -> Html:
    """The first cell of a row: a name, which a pointer shows completely where it is long."""
    short = shorten(text, LONGEST_NAME)
    name = element("span", breakable(short), class_="name", title=None if short == text else text)
    return element("th", name, *more, scope="row")


def cell(*children: str, class_: str | None = None) -> Html:
    return element("td", *children, class_=class_)


def section(id_: str, title: str, *children: str, class_: str | None = None) -> Html:
    return element("section", element("h2", title), *children, id=id_, class_=class_)


def details(title: str, *children: str) -> Html:
    return element("details", element("summary", title), *children)


SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"
COLOURS = {INK: "var(--ink)", GRID: "var(--grid)", PAPER: "var(--paper)"}


def figure(picture: Picture) -> Html:
    """A figure inside the page, with its ids made unique and its ink in the page's colours, and links to its files."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK[1:].partition("}")[0])
    root = ElementTree.fromstring(picture.svg)
    for item in list(root):
        if item.tag == f"{{{SVG}}}metadata":
            root.remove(item)
    used = set(re.findall(rb"#([\w-]+)[\")]", picture.svg))
    for item in root.iter():
        name = item.get("id")
        if name is not None and name.encode() in used:
            item.set("id", f"{picture.name}-{name}")
        elif name is not None:
            del item.attrib["id"]
        for key, value in item.attrib.items():
            if key == XLINK and value.startswith("#"):
                item.set(key, f"#{picture.name}-{value[1:]}")
            elif key in ("style", "clip-path", "fill", "stroke"):
                value = re.sub(r"url\(#([\w-]+)\)", rf"url(#{picture.name}-\1)", value)
                item.set(key, re.sub(r"#[0-9a-f]{6}", lambda found: COLOURS.get(found[0], found[0]), value))
    # the size of the page decides; viewBox keeps the proportions
    root.set("style", f"max-width: {float(root.attrib.pop('width').removesuffix('pt')) * 1.8:.0f}px")
    del root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", picture.title)
    links = [element("a", end, href=f"{picture.name}.{end.lower()}") for end in ("PNG", "SVG", "PDF")]
    caption = element("figcaption", picture.text, " ", join(links, " "))
    return element("figure", Html(ElementTree.tostring(root, encoding="unicode")), caption)


def page(title: str, *children: str) -> str:
    """A complete page that loads nothing: no script, no font, no other file."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = "".join(
        [
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',
            element("title", title),
            f"<style>{CSS}</style>",
        ]
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>{join(children, chr(10))}</main></body></html>\n'


CSS = """
:root { --ink: #1b1f25; --soft: #5a6472; --grid: #dadde1; --paper: #fefefe; --page: #f3f4f6; --link: #0a58ca;
  --bad: #a3201a; --bad-page: #fdeceb; --bar: #b9d4ea; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #a3adba; --grid: #3a414b; --paper: #171a1f;
  --page: #0e1013; --link: #7db4ff; --bad: #ff9d96; --bad-page: #34191a; --bar: #24445e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 0.6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 0.4rem; overflow-wrap: anywhere; }
section { background: var(--paper); border: 1px solid var(--grid); border-radius: 8px; padding: 1rem; margin: 0 0 1rem; }
section > :last-child { margin-bottom: 0; }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; margin: 0 0 1rem; }
a { color: var(--link); }
p, li, dd { overflow-wrap: anywhere; }
p { margin: 0 0 0.7rem; }
.soft, figcaption, small { color: var(--soft); }
figcaption, small { font-size: 0.82rem; }
.wide { overflow-x: auto; margin: 0 0 0.7rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { text-align: right; vertical-align: top; padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--grid); }
th { font-weight: 600; }
thead th { border-bottom: 2px solid var(--soft); vertical-align: bottom; }
th:first-child, .texts th, .texts td { text-align: left; }
.texts td { overflow-wrap: anywhere; min-width: 8rem; }
thead th { overflow-wrap: break-word; min-width: 3.5rem; max-width: 12rem; }
tbody th:first-child { font-weight: 500; }
th:first-child { position: sticky; left: 0; background: var(--paper); padding-left: 0; }
th .name { display: inline-block; min-width: 4.8rem; max-width: 16rem; overflow-wrap: anywhere; }
th small, td small { display: block; white-space: nowrap; font-weight: 400; }
td.best { font-weight: 700; }
td .bar { display: block; height: 0.35rem; background: var(--bar); border-radius: 2px; margin-left: auto; }
figure { margin: 0 0 1.2rem; }
figure svg { display: block; width: 100%; height: auto; }
.failed { border-color: var(--bad); background: var(--bad-page); }
.failed h2 { color: var(--bad); }
.failed ul { padding-left: 1.1rem; margin: 0; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.85em;
  overflow-wrap: anywhere; white-space: pre-wrap; }
pre { background: var(--page); border-radius: 6px; padding: 0.6rem; margin: 0 0 0.7rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin: 0 0 0.7rem; }
summary { cursor: pointer; padding: 0.3rem 0; font-weight: 600; overflow-wrap: anywhere; }
dl { margin: 0; } dt { font-weight: 600; overflow-wrap: anywhere; } dd { margin: 0 0 0.5rem 1rem; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1rem; margin: 0 0 0.7rem; }
dl.facts dt { font-weight: 400; color: var(--soft); } dl.facts dd { margin: 0; }
@media (max-width: 36rem) { main { padding: 0.5rem; } section { padding: 0.75rem; } table { font-size: 0.84rem; }
  th, td { padding: 0.3rem 0.25rem; } th .name { max-width: 7.5rem; } td small, th small { font-size: 0.7rem; }
  thead small { white-space: normal; } }
@media print { :root { --ink: #000; --soft: #444; --grid: #ccc; --paper: #fff; --page: #fff; --link: #000; --bad: #000;
  --bad-page: #fff; --bar: #bbb; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; } nav { display: none; }
  section { border: 0; padding: 0; } .wide { overflow: visible; } th:first-child { position: static; }
  figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } figure svg { max-height: 230mm; } }
"""
