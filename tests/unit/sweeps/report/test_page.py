"""The blocks of a report as Markdown and as a page that needs nothing else."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from transrec.sweeps.report.figures import Drawing, _log_axis, human
from transrec.sweeps.report.page import Bullets, Heading, Paragraph, Table, html, markdown, svg


def drawing(name: str = "law") -> Drawing:
    found = Drawing(name, "A caption with <brackets>.", Figure(figsize=(3, 2)), ["full", "houlsby"])
    ax = found.figure.subplots()
    for place, series in enumerate(found.series):
        bar = ax.errorbar([1.0], [place], [[0.1], [0.1]], **found.look(series))
        found.mark(bar.get_children(), series, f"{series}: {place} & more")
    return found


def ids(text: str) -> list[str]:
    return re.findall(r'\bid="([^"]+)"', text)


class Reader(HTMLParser):
    """Open tags that were never closed, and every attribute."""

    VOID = ("meta", "link", "input", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


BLOCKS = [
    Heading("Title", 1),
    Paragraph("a < b"),
    Bullets(["one", "two & three"]),
    Table(["x", "y"], [["1 | 2", "<script>alert(1)</script>"]]),
]


def test_markdown() -> None:
    text = markdown([*BLOCKS, drawing()])
    assert text.startswith("# Title\n\na < b\n\n- one\n- two & three\n\n| x | y |\n| --- | --- |\n| 1 \\| 2 |")
    assert r"![A caption with \<brackets>.](law.png)" in text


@pytest.mark.parametrize(
    ("label", "written"),
    [
        ("[0.1, 0.2]", "[0.1, 0.2]"),
        ("[x](http://y)", r"[x]\(http://y)"),
        ("*bold* `code`", r"\*bold\* \`code\`"),
        ("<b>x</b> a < b", r"\<b>x\</b> a < b"),
        ("two\nlines\u2028more", "two lines more"),
        ("a|b", r"a\|b"),
    ],
)
def test_a_label_is_no_markup_in_markdown(label: str, written: str) -> None:
    assert markdown([Table(["x"], [[label]])]) == f"| x |\n| --- |\n| {written} |\n"


def test_the_page_is_well_formed_and_shows_text_as_text() -> None:
    page = html("A & B", [*BLOCKS, drawing()])
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert "<title>A &amp; B</title>" in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_page_names_no_other_place() -> None:
    page = html("x", [*BLOCKS, drawing(), drawing("other")])
    assert "http" not in page
    assert "//" not in page.replace("<!--", "")
    reader = Reader()
    reader.feed(page)
    links = [value for name, value in reader.attributes if name in ("href", "src", "xlink:href")]
    assert all(link.startswith("#") or link == "data:," for link in links)


def test_ids_of_two_figures_differ_and_references_reach_them() -> None:
    page = svg(drawing("one")) + svg(drawing("two"))
    assert len(ids(page)) == len(set(ids(page)))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)
    assert references
    assert {a or b for a, b in references} <= set(ids(page))


def test_points_have_their_words_and_series_their_class() -> None:
    text = svg(drawing())
    assert text.count("<title>full: 0 &amp; more</title>") >= 1
    assert 'class="series-0"' in text
    assert 'class="series-1"' in text


def test_every_series_can_be_hidden() -> None:
    page = html("x", [drawing()])
    assert re.findall(r'data-series="(\d)"><i style="background:(#\w+)"></i>(\w+)', page) == [
        ("0", "#0072B2", "full"),
        ("1", "#D55E00", "houlsby"),
    ]


def test_series_look_different() -> None:
    many = Drawing("x", "", Figure(), [str(i) for i in range(12)])
    looks = [tuple(many.look(series).values()) for series in many.series]
    assert len(set(looks)) == 12


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.125, "0.125"),
        (940, "940"),
        (1000, "1k"),
        (12_500, "12.5k"),
        (3.2e6, "3.2M"),
        (4e12, "4e+12"),
        (999_999.9, "1M"),
    ],
)
def test_numbers_for_people(value: float, expected: str) -> None:
    assert human(np.float64(value)) == expected


@pytest.mark.parametrize(("low", "high"), [(433_900, 434_200), (0.95210, 0.95214), (80, 24_000), (1e10, 1e13)])
def test_ticks_can_be_told_apart(low: float, high: float) -> None:
    ax = Figure().subplots()
    ax.plot([low, high], [1, 1])
    _log_axis(ax, "x", np.array([low, high]))
    labels = ax.xaxis.get_major_formatter().format_ticks(ax.get_xticks())
    assert len(set(labels)) == len(labels) > 1


def test_ticks_have_no_more_digits_than_that() -> None:
    ax = Figure().subplots()
    _log_axis(ax, "x", np.array([100.0, 100_000.0]))
    assert ax.xaxis.get_major_formatter().format_ticks([100.0, 1_234.0, 100_000.0]) == ["100", "1.23k", "100k"]
