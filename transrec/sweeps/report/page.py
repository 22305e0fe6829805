"""Blocks of a report, written as Markdown with separate picture files or as one self-contained HTML page.

The page embeds the figures as SVG, from the same drawings as the pictures. Points have tooltips, and a series can be
hidden.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

from matplotlib import rc_context

from transrec.files import replace_atomically, write_text, writing
from transrec.sweeps.report.figures import COLOURS, Drawing

REPORT_FOLDER, PAGE_FILE = "report", "index.html"  # in the folder that the report is about

_MARKUP = re.compile(r"[\\`*]|<(?=[A-Za-z/!?])|(?<=\])[(\[:]")
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_REM_PER_INCH = (
    4.2,
    8,
)  # smallest, largest: figures scroll on a phone instead of shrinking, and do not stretch on a wide screen


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the page's title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A bullet list, one item per line."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A header and rows of the same length."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


Block = Heading | Paragraph | Bullets | Table | Drawing


def save(folder: Path, title: str, blocks: Sequence[Block]) -> None:
    """Write the report into its folder: `report.md` with the figures as PNG, and `index.html`.

    Raises:
        StorageError: the report cannot be written.
    """
    with writing(folder):
        folder.mkdir(exist_ok=True)
    for block in blocks:
        if isinstance(block, Drawing):
            with replace_atomically(folder / f"{block.name}.png") as partial:
                block.figure.savefig(partial, dpi=300, format="png")
    write_text(folder / PAGE_FILE, html(title, blocks))
    write_text(folder / "report.md", markdown(blocks))


def markdown(blocks: Sequence[Block]) -> str:
    """The report in Markdown; its figures are the files `<name>.png` in the same folder."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_literal(text)}"
        case Paragraph(text):
            return _literal(text)
        case Bullets(lines):
            return "\n".join(f"- {_literal(line)}" for line in lines)
        case Table(header, rows):
            cells = [[_literal(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
            return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], ["---"] * len(header), *cells[1:]])
        case Drawing():
            return f"![{_literal(block.caption)}]({block.name}.png)\n\n*{_literal(block.caption)}*"


def _literal(text: str) -> str:
    """Text on one line, with escapes where Markdown would read a label as markup, HTML or a link."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def html(title: str, blocks: Sequence[Block]) -> str:
    """The report as one HTML file that loads no script, style, font or picture from elsewhere."""
    body = "\n".join(map(_html, blocks))
    return _PAGE.replace("$TITLE", escape(title)).replace("$BODY", body)


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(lines):
            return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
        case Table(header, rows):
            head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
            body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        case Drawing():
            return _figure(block)


def _figure(drawing: Drawing) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" checked data-series="{number}">'
        f'<i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(name)}</label>'
        for number, name in enumerate(drawing.series)
    )
    caption = f"<figcaption>{escape(drawing.caption)}</figcaption>"
    return f'<figure><div class="series">{boxes}</div><div class="wide">{svg(drawing)}</div>{caption}</figure>'


def svg(drawing: Drawing) -> str:
    """A drawing as SVG to embed in a page: with unique ids, tooltips, and no external links."""
    out = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": drawing.name}):
        drawing.figure.savefig(out, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(out.getvalue())
    for parent in root.findall(f".//{{{_SVG}}}metadata/.."):
        parent.remove(parent.find(f"{{{_SVG}}}metadata"))  # type: ignore[arg-type]
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        _make_own(element, drawing)
    least, most = (round(rem * drawing.figure.get_figwidth()) for rem in _REM_PER_INCH)
    width = f"min-width: {least}rem; max-width: {most}rem"
    root.attrib |= {"role": "img", "aria-label": drawing.caption, "style": width}
    return ElementTree.tostring(root, encoding="unicode")


def _make_own(element: ElementTree.Element, drawing: Drawing) -> None:
    """Prefix ids and references to them with the drawing's name; add the class and tooltip of the id's series."""
    gid = element.get("id", "")
    if gid in drawing.titles:
        element.set("class", "-".join(gid.split("-")[:2]))
        if drawing.titles[gid]:
            title = ElementTree.Element("title")
            title.text = drawing.titles[gid]
            element.insert(0, title)
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        value = re.sub(r"url\(#", f"url(#{drawing.name}-", value)
        if key == "id":
            value = f"{drawing.name}-{value}"
        elif key == f"{{{_XLINK}}}href":
            key, value = "href", value.replace("#", f"#{drawing.name}-", 1)
        element.set(key, value)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$TITLE</title>
<style>
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: #222; font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; margin: 1.6em 0 .5em; } h1 { margin-top: .5em; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th, td { white-space: nowrap; }
th { position: sticky; top: 0; background: #f5f5f5; }
figure { margin: 1.5rem 0; }
figcaption { color: #555; font-size: .875rem; }
figure svg { width: 100%; height: auto; font-family: sans-serif; }
.series { display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .875rem; }
.series label { cursor: pointer; } .series i { display: inline-block; width: .8em; height: .8em; margin: 0 .3em; }
.off { display: none; }
[class^="series-"]:hover { opacity: .6; }
</style>
<body>
$BODY
<script>
for (const box of document.querySelectorAll("[data-series]"))
  box.addEventListener("change", () => {
    for (const part of box.closest("figure").querySelectorAll("svg .series-" + box.dataset.series))
      part.classList.toggle("off", !box.checked);
  });
</script>
</body>
</html>
"""
