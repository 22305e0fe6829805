"""The reliability diagram: a line for each head, and where its predictions lie."""

import re

import numpy as np
import pytest

from transrec.evaluation.ranking_metrics import Bin
from transrec.sweeps.report.figures import _shares, reliability_figure
from transrec.sweeps.report.page import svg

CLICKS = [Bin(10, 0.02, 0.1, 0.0, 0.04), Bin(10, 0.2, 0.2, 0.05, 0.4)]
LIKES = [Bin(4, 0.5, 0.25, 0.5, 0.5)]


def test_a_line_for_each_head_and_the_diagonal() -> None:
    drawing = reliability_figure("calibration", {"click": CLICKS, "like": LIKES})
    ax, below = drawing.figure.axes
    diagonal, *lines = [line.get_xydata().tolist() for line in ax.lines if len(line.get_xydata()) > 1]
    assert all(x == y for x, y in diagonal)
    assert lines == [[[0.02, 0.1], [0.2, 0.2]]], "a head with one bin has a point"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["click: ECE 0.0400", "like: ECE 0.2500"]
    assert ax.get_xlim() == ax.get_ylim() == (0, pytest.approx(0.525))
    assert sum(bar.get_height() for bar in below.patches) == pytest.approx(2)
    picture = svg(drawing)
    assert "click: 0.0200 predicted, 0.1000 observed, 10 impressions" in picture
    assert set(re.findall(r"series-(\d)", picture)) == set("01")


def test_predictions_are_spread_within_their_bins() -> None:
    edges = np.array([0.0, 0.1, 0.2, 0.3])
    assert _shares([Bin(3, 0.15, 0.0, 0.05, 0.25)], edges) == pytest.approx([0.25, 0.5, 0.25])
    assert _shares([Bin(2, 0.1, 0.0, 0.1, 0.1), Bin(2, 0.9, 1.0, 0.2, 1.0)], edges) == pytest.approx([0, 0.5, 0.5])


def test_predictions_of_nothing_but_zero_are_drawn() -> None:
    drawing = reliability_figure("calibration", {"click": [Bin(3, 0.0, 0.0, 0.0, 0.0)]})
    assert drawing.figure.axes[0].get_xlim() == (0, 1)
