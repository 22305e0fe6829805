"""Text from data, as people see it."""

from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from transrec.terminal import console, shortened


@given(st.text())
def test_any_title_is_shown_on_one_line_and_nothing_of_it_is_markup(title: str) -> None:
    line = shortened(title)
    assert len(line) <= 80
    assert line.isprintable() or not any(c in line for c in "\n\r\x1b\u2028\u2029\x85")
    output = console()
    with output.capture() as shown:
        table = Table("a", title=line)
        table.add_row(line)
        output.print(table)
        output.print(line)
    assert len(shown.get().split("\n")) >= 4


def test_markup_and_emoji_codes_are_shown_as_they_are() -> None:
    output = console()
    for text in ("[/part 1]", "[working title]", ":smile:", "[bold]x[/bold]", "[link=http://x]y[/link]"):
        with output.capture() as shown:
            table = Table("a", title=text)
            table.add_row(text)
            output.print(table)
        assert shown.get().count(text) == 2


def test_a_long_title_is_cut() -> None:
    assert shortened("x" * 81) == "x" * 79 + "…"
    assert shortened("x" * 80) == "x" * 80
    assert shortened(" x\ny ", 3) == "x y"
    assert shortened(" " * 1000 + "x", 3) == "…"
