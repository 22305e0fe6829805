"""Results as a table and as plain numbers."""

import io
import json
import sys

import numpy as np
from rich.console import Console

from transrec.data.examples.user_sample import UserSample
from transrec.evaluation.estimates import Estimate
from transrec.evaluation.report import as_json, table
from transrec.terminal import console

ROWS = {
    "text [frozen]": {"HR@10": Estimate(0.25, 0.2, 0.3), "MRR@10": Estimate(0.125, 0.1, 0.15)},
    "popular": {"HR@10": Estimate(0.0625, 0.05, 0.075)},
}


def test_table_shows_every_row_metric_and_interval():
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table(ROWS).columns}
    assert columns == {
        "": ["text [frozen]", "popular"],
        "HR@10": ["0.2500 [0.2000, 0.3000]", "0.0625 [0.0500, 0.0750]"],
        "MRR@10": ["0.1250 [0.1000, 0.1500]", "–"],
    }


def test_a_table_says_that_its_users_are_a_sample():
    sample = UserSample(np.array([3]), np.array([10]), 10, 2000)
    assert str(table(ROWS, of=str(sample)).columns[0].header) == "of a sample of 10 of 2,000 users"


def test_brackets_are_not_read_as_markup():
    console = Console(width=120, file=io.StringIO())
    console.print(table(ROWS))
    printed = console.file.getvalue()
    assert "text [frozen]" in printed
    assert "0.2500 [0.2000, 0.3000]" in printed


def test_only_the_best_of_a_column_is_bold():
    bold = [
        [any("bold" in str(span.style) for span in cell.spans) or "bold" in str(cell.style) for cell in column.cells]
        for column in table(ROWS).columns
    ]
    assert bold == [[False, False], [True, False], [True, False]]


def test_the_best_loss_is_the_lowest():
    rows = {"a": {"loss": Estimate(2.0, 1.0, 3.0)}, "b": {"loss": Estimate(1.5, 1.0, 2.0)}}
    cells = [str(cell.spans[0].style) if cell.spans else cell.style for cell in table(rows).columns[1].cells]
    assert ["bold" in style for style in cells] == [False, True]


def test_nothing_is_bold_if_neither_direction_is_better():
    rows = {"a": {"novelty@5": Estimate(2.0, 1.0, 3.0)}, "b": {"novelty@5": Estimate(1.5, 1.0, 2.0)}}
    cells = [cell for column in table(rows).columns[1:] for cell in column.cells]
    assert not any("bold" in str(span.style) for cell in cells for span in cell.spans)


def test_in_a_pipe_a_table_keeps_its_lines_whole(monkeypatch, capsys):
    """A pipe has no width, so that rich takes 80 columns and folds what is longer."""
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = {"a run with a long name": {f"NDCG@{k}": Estimate(0.25, 0.2, 0.3) for k in (5, 10, 20)}}
    console().print(table(wide))
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "a run with a long name" in line]
    assert row.count("0.2500 [0.2000, 0.3000]") == 3
    assert len(row) > 80


def test_on_a_terminal_a_table_has_the_width_of_the_terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "73")
    monkeypatch.setenv("TERM", "xterm")
    assert console().width == 73


def test_a_table_says_why_a_value_is_undefined():
    nan = float("nan")
    rows = {"a": {"AUC": Estimate(nan, nan, nan)}, "b": {"AUC": Estimate(0.7, 0.6, 0.8)}}
    view = table(rows)
    undefined, best = view.columns[1].cells
    assert str(undefined) == "undefined"
    assert "bold" in str(best.spans[0].style if best.spans else best.style)
    assert view.caption == "AUC is undefined if all or none of the impressions are clicks."
    assert table(ROWS).caption is None


def test_a_table_without_rows_is_empty():
    assert table({}).row_count == 0


def test_json_has_values_and_intervals():
    values = as_json(ROWS["text [frozen]"])
    assert values == {"HR@10": 0.25, "HR@10_interval": [0.2, 0.3], "MRR@10": 0.125, "MRR@10_interval": [0.1, 0.15]}
    assert json.loads(json.dumps(values)) == values
