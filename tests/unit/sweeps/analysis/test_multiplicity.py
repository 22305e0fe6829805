"""Adjusted p-values against examples worked out by hand."""

import pytest

from transrec.sweeps.analysis.multiplicity import benjamini_hochberg, holm

P = [0.01, 0.04, 0.03, 0.005]


def test_holm_multiplies_by_the_number_that_is_left():
    assert holm(P) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_benjamini_hochberg_divides_by_the_rank():
    assert benjamini_hochberg(P) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_one_comparison_is_not_adjusted():
    assert holm([0.03]) == benjamini_hochberg([0.03]) == [0.03]


def test_nothing_exceeds_one():
    assert holm([0.9, 0.8, 0.7]) == [1.0, 1.0, 1.0]
    assert max(benjamini_hochberg([0.9, 0.8, 0.7])) <= 1


def test_no_comparison_has_none():
    assert holm([]) == benjamini_hochberg([]) == []
