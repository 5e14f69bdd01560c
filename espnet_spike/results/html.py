"""HTML out of Python. What is text gets escaped; only what `el` has made is taken as it is."""

import html
import unicodedata
from collections.abc import Iterable, Sequence

VOID = ("meta", "br", "hr")


class Html(str):
    """Markup that is safe to put into a page."""

    __slots__ = ()


def el(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: of the element.
        *children: ``Html``, or anything else, whose text is escaped; None is left out.
        **attributes: with ``_`` for ``-``; a trailing ``_`` is dropped (``class_``).

    >>> el("b", "a < b", class_="x")
    '<b class="x">a &lt; b</b>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            key = key.rstrip("_").replace("_", "-")
            words.append(f'{key}="{html.escape(plain(str(value)))}"')
    opening = f"<{' '.join(words)}>"
    return Html(opening if name in VOID else f"{opening}{join(children)}</{name}>")


def join(parts: Iterable[object]) -> Html:
    """Return parts one after the other, texts escaped."""
    return Html("".join(p if isinstance(p, Html) else text(p) for p in parts if p is not None))


def plain(value: str) -> str:
    """Return a text without characters that neither XML nor a reader can make sense of."""
    odd = ("Cc", "Cs", "Cn")
    return "".join(
        "\ufffd" if unicodedata.category(c) in odd and c not in "\n\t" else c for c in value
    )


def text(value: object) -> Html:
    """Return a text, escaped."""
    return Html(html.escape(plain(str(value))))


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], left: int = 1, label: str = ""
) -> Html:
    """Return a table that scrolls sideways where it does not fit.

    Args:
        head: names of the columns.
        rows: cells.
        left: how many columns are text; the others are numbers.
        label: what the table shows, for screen readers.
    """

    def line(name: str, cells: Sequence[object]) -> Html:
        looks = ["text" if place < left else "number" for place in range(len(cells))]
        return el("tr", *(el(name, c, class_=look) for c, look in zip(cells, looks, strict=True)))

    body = el("tbody", *(line("td", row) for row in rows))
    whole = el("table", el("thead", line("th", head)), body)
    return el("div", whole, class_="scroll", tabindex="0", role="region", aria_label=label)


def definitions(pairs: Iterable[tuple[object, object]]) -> Html:
    """Return names with their values."""
    return el("dl", *(join([el("dt", name), el("dd", value)]) for name, value in pairs))


def missing(sentence: str) -> Html:
    """Return a line on something that is not there."""
    return el("p", sentence, class_="missing")


def figure(svg: str, caption: object, narrow: str | None = None) -> Html:
    """Return a figure with its caption; narrow screens show ``narrow``, where it is given."""
    drawings = [el("div", Html(svg), class_="drawing" if narrow is None else "drawing broad")]
    if narrow is not None:
        drawings.append(el("div", Html(narrow), class_="drawing narrow"))
    return el("figure", *drawings, el("figcaption", caption))


STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #16191d; --muted: #5a6270; --grid: #d5dae1; --band: #f1f3f6;
  --c1: #0072b2; --c2: #c24e00; --sub: #fde3cf; --del: #e3e6ea; --ins: #d3e9f8;
  --shade: #5a627099; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --ink: #e9ecf0; --muted: #a3adba; --grid: #39414b; --band: #1e2329;
  --c1: #56b4e9; --c2: #f0a35e; --sub: #5b3413; --del: #3a4048; --ins: #143f5b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .5rem;
  border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.3rem 0 .4rem; }
h4 { font-size: .9rem; margin: .5rem 0 .2rem; }
p { margin: .4rem 0; } a { color: var(--c1); }
nav a { display: inline-block; margin: 0 .9rem .2rem 0; }
.lead, figcaption, .note { color: var(--muted); font-size: .9rem; }
.missing { border-left: 4px solid var(--grid); padding: .2rem .7rem; color: var(--muted); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr));
  gap: .7rem; margin: 1rem 0; }
.tile { background: var(--band); border-radius: .5rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.3; }
.tile span { color: var(--muted); font-size: .85rem; display: block; }
/* shadows where there is more to the side (phones hide the bar), which covers hide at the ends */
.scroll { overflow-x: auto; max-width: 100%; background:
  linear-gradient(to right, var(--paper) 40%, transparent) left / 2rem 100% no-repeat local,
  linear-gradient(to left, var(--paper) 40%, transparent) right / 2rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / .7rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / .7rem 100% no-repeat scroll; }
.scroll::-webkit-scrollbar { height: .5rem; }
.scroll::-webkit-scrollbar-thumb { background: var(--muted); border-radius: .25rem; }
table { border-collapse: collapse; font-size: .9rem; margin: .4rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--grid); vertical-align: top; }
th { border-bottom-width: 2px; }
.text { text-align: left; } .number { text-align: right; } td.number { white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr));
  gap: 0 1.6rem; align-items: start; }
.figures, .wide { grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
figure { margin: .8rem 0 1rem; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
.narrow { display: none; }
svg text { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { margin-top: .3rem; }
.utterance { margin: .5rem 0; padding: .5rem .7rem; border: 1px solid var(--grid);
  border-radius: .5rem; break-inside: avoid; }
.utterance header { font-size: .85rem; color: var(--muted); overflow-wrap: anywhere; }
.pairs { display: flex; flex-wrap: wrap; gap: .3rem; margin-top: .3rem; }
.pair { display: inline-grid; grid-template-rows: 1fr 1fr .9rem; padding: .1rem .4rem;
  border-radius: .3rem; text-align: center; line-height: 1.35; max-width: 100%;
  overflow-wrap: anywhere; }
.pair small { font-size: .7rem; font-weight: 700; line-height: .9rem; }
.S { background: var(--sub); } .D { background: var(--del); } .I { background: var(--ins); }
.key span { padding: .1rem .4rem; border-radius: .3rem; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .2rem 1rem;
  font-size: .9rem; margin: .4rem 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--band); padding: .6rem .8rem; border-radius: .5rem; font-size: .85rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@media screen and (max-width: 40rem) { .broad { display: none; } .narrow { display: block; } }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --muted: #444; --grid: #bbb;
    --band: #f1f3f6; --c1: #0072b2; --c2: #c24e00; --sub: #fde3cf; --del: #e3e6ea;
    --ins: #d3e9f8; }
  html, body { font-size: 11px; } body { max-width: none; padding: 0; } nav { display: none; }
  h2, h3, h4 { break-after: avoid; } figure, tr, .tiles, .columns > * { break-inside: avoid; }
  /* one taller than a page would be split, and tall ones leave much of the last page empty */
  figure svg { max-height: min(22cm, calc(.6 * var(--tall))); }
  .figures { grid-template-columns: repeat(3, 1fr); }
  .scroll { overflow: visible; background: none; } th, td { padding: .15rem .35rem; }
  .text:first-child { overflow-wrap: anywhere; min-width: 7em; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

# nothing is fetched and nothing runs, whatever a transcript holds
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, *body: object) -> str:
    """Return a whole document that needs nothing beside itself."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", Html(STYLE)),
    )
    return "<!DOCTYPE html>\n" + el("html", head, el("body", *body), lang="en") + "\n"
