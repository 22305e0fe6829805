"""The evidence scores of questions."""

import numpy as np
from scipy import sparse

from transrec.data.examples.evidence import of_nobody, of_questions

N = 9


class Seen:
    """Evidence that gives each history its own items."""

    def scores(self, seen):
        rows = np.repeat(np.arange(len(seen.lengths)), seen.lengths)
        return sparse.coo_array((np.ones(len(rows)), (rows, seen.items)), shape=(len(seen.lengths), N + 1)).tocsr()


def test_scores_are_in_the_order_of_items_and_questions():
    [found] = of_questions([Seen()], [np.array([3, 1]), np.array([9, 1])], np.ones(N + 1, int))
    entries = list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    assert entries == [(0, 1), (1, 1), (0, 3), (1, 9)]


def test_nobody_has_no_scores():
    assert [len(scores.rows) for scores in of_nobody([Seen(), Seen()])] == [0, 0]


class Cold(Seen):
    """Evidence that gives each history the cold items of the catalogue."""

    def scores(self, seen):
        cold = seen.cold(np.arange(N + 1))
        return sparse.csr_array(cold[None].repeat(len(seen.lengths), 0).astype(float))


def test_cold_items_are_those_without_interactions():
    interactions = np.array([0, 3, 0, 1, 1, 2, 0, 1, 1, 1])
    [found] = of_questions([Cold()], [np.array([3, 1])], interactions)
    assert found.columns.tolist() == [0, 2, 6]  # 0 pads
