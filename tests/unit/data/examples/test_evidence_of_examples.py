"""Scored positions as points in histories: nothing of a point's own target or of a hidden item may be seen."""

import numpy as np
import pytest
from scipy import sparse

from transrec.data.examples.evidence import Draw, Hidden, of_nobody, of_questions, of_windows, points_of
from transrec.data.examples.windows import Window

N, L = 9, 4
OWN = np.array([1, 2, 3, 4, 5, 6, 7], np.int32)  # item q stands before target q + 1


def window(start, stop, scored):
    return Window("ann", start, OWN[start:stop], scored, OWN)


def layout(windows, positions=L):
    """Where targets are scored, as the collation lays them out: the newest item of a window at the last position."""
    rows = [
        [column >= positions - min(w.scored, positions) if w else False for column in range(positions)] for w in windows
    ]
    return np.array(rows)


class Seen:
    """Evidence that gives each point the items of its history, by their numbers."""

    hidden = dropout = 0.0

    def scores(self, points):
        starts = np.cumsum(points.lengths) - points.lengths
        rows, columns = [], []
        for row, (user, seen) in enumerate(zip(points.users, points.seen, strict=True)):
            for position in range(starts[user], starts[user] + seen):
                if points.hidden is None or not points.hidden[position]:
                    rows.append(row)
                    columns.append(points.items[position])
        shape = (len(points.users), N + 1)
        return sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()


@pytest.mark.parametrize(
    ("windows", "targets"),
    [
        ([window(0, 5, 4)], [2, 3, 4, 5]),
        ([window(2, 7, 2)], [6, 7]),
        ([window(0, 3, 2), None, window(3, 7, 3)], [2, 3, 5, 6, 7]),
    ],
)
def test_a_point_has_seen_the_user_s_whole_history_before_its_target(windows, targets):
    points = points_of(windows, layout(windows), None, N)
    assert [int(seen) + 1 for seen in points.seen] == targets  # target q + 1 is behind q items
    assert points.counted


def test_a_loss_at_the_last_position_has_one_point_for_each_window():
    windows = [window(0, 5, 4), window(2, 7, 2)]
    assert points_of(windows, layout(windows, positions=1), None, N).seen.tolist() == [4, 6]


def test_hidden_items_are_in_no_history():
    windows = [None, window(2, 7, 4)]  # as inputs: items 4, 5, 6, 7
    masked = np.array([[False] * L, [False, True, False, True]])  # 5 and 7
    [found] = of_windows([Seen()], windows, masked, masked, np.arange(1, N + 1), N, Draw(0, 0, 0))
    histories = [(found.columns[found.rows == row] + 1).tolist() for row in (0, 1)]
    assert histories == [[1, 2, 3, 4], [1, 2, 3, 4, 6]]


def test_scores_are_of_the_items_in_the_pool_in_its_order():
    pool = np.array([1, 3, 7])
    [found] = of_windows([Seen()], [window(0, 5, 4)], layout([window(0, 5, 4)]), None, pool, N, Draw(0, 0, 0))
    items = [(int(row), int(pool[column])) for row, column in zip(found.rows, found.columns, strict=True)]
    assert items == [(0, 1), (1, 1), (2, 1), (2, 3), (3, 1), (3, 3)]


def test_questions_have_all_of_a_history_and_nothing_subtracted():
    [found] = of_questions([Seen()], [np.array([3, 1]), np.array([9])], np.ones(N + 1, int))
    assert list(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == [(0, 1), (0, 3), (1, 9)]


def test_without_evidence_a_batch_carries_none():
    assert (
        of_windows([], [window(0, 5, 4)], layout([window(0, 5, 4)]), None, np.arange(1, N + 1), N, Draw(0, 0, 0)) == ()
    )
    assert [len(scores.rows) for scores in of_nobody([Seen(), Seen()])] == [0, 0]


class Cold(Seen):
    """Evidence that gives each point the cold items of the catalogue."""

    hidden = 0.4

    def scores(self, points):
        items = np.flatnonzero(points.cold(np.arange(N + 1)))
        return sparse.csr_array(np.isin(np.arange(N + 1), items)[None].repeat(len(points.users), 0).astype(float))


def test_cold_items_of_questions_are_those_without_interactions():
    interactions = np.array([0, 3, 0, 1, 1, 2, 0, 1, 1, 1])
    [found] = of_questions([Cold()], [np.array([3, 1])], interactions)
    assert found.columns.tolist() == [0, 2, 6]  # 0 pads


def test_items_of_a_batch_pass_for_cold_by_seed_and_step_alone():
    def cold(pool, draw):
        windows = [window(0, 5, 4)]
        [found] = of_windows([Cold()], windows, layout(windows), None, pool, N, draw)
        return set(pool[np.unique(found.columns)].tolist())

    every, some = np.arange(1, N + 1), np.array([2, 3, 7])
    draws = [Draw(seed, step, 0) for seed in range(2) for step in range(10)]
    assert [cold(every, draw) & {2, 3, 7} for draw in draws] == [cold(some, draw) for draw in draws]
    assert len({frozenset(cold(every, draw)) for draw in draws}) > 10


def test_the_share_of_hidden_items_is_that_asked_for_and_their_draws_are_independent():
    items = np.arange(1, 100_001)
    one, next_one = Hidden(0.1, 5, 0)(items), Hidden(0.1, 5, 1)(items)
    assert one.mean() == pytest.approx(0.1, abs=0.005)
    assert (one & next_one).mean() == pytest.approx(0.01, abs=0.002)
    assert (one[1:] & one[:-1]).mean() == pytest.approx(0.01, abs=0.002)


class Half(Seen):
    """`Seen` that is left out at half of the positions."""

    dropout = 0.5


def positions(windows, draw, *evidence):
    """The (window, position) pairs at which each of the evidence has scores."""
    at = np.argwhere(layout(windows))
    found = of_windows(evidence, windows, layout(windows), None, np.arange(1, N + 1), N, draw)
    return [{(int(at[row][0]), int(at[row][1])) for row in scores.rows.tolist()} for scores in found]


def test_evidence_is_left_out_at_its_share_of_the_positions_of_each_step():
    windows = [window(0, 5, 4)] * 2000
    seen, half, next_half = (
        positions(windows, Draw(3, step, 0), evidence)[0] for step, evidence in ((0, Seen()), (0, Half()), (1, Half()))
    )
    assert len(seen) == 8000
    assert len(half) == pytest.approx(4000, abs=150)
    assert len(half & next_half) == pytest.approx(2000, abs=150)


def test_the_positions_without_evidence_are_the_same_on_any_number_of_ranks_and_for_every_kind():
    windows = [window(0, 5, 4), window(2, 7, 2), None, window(0, 3, 2)] * 5
    whole, other = positions(windows, Draw(3, 7, 40), Half(), Half())
    assert whole == other
    parts = [positions(windows[first : first + 5], Draw(3, 7, 40 + first), Half())[0] for first in range(0, 20, 5)]
    assert {(5 * part + row, column) for part, found in enumerate(parts) for row, column in found} == whole


def test_scores_at_the_other_positions_are_those_without_dropout():
    windows = [window(0, 5, 4), window(2, 7, 2)] * 10
    every, half = of_windows([Seen(), Half()], windows, layout(windows), None, np.arange(1, N + 1), N, Draw(0, 1, 0))
    kept = np.isin(every.rows, half.rows)
    assert 0 < kept.sum() < len(kept)
    for one, other in ((every.rows, half.rows), (every.columns, half.columns), (every.values, half.values)):
        assert one[kept].tolist() == other.tolist()


class Unordered(Seen):
    """The same, with the newest item first, as products of sparse matrices may be."""

    def scores(self, points):
        found = super().scores(points)
        for row in range(found.shape[0]):
            first, last = found.indptr[row], found.indptr[row + 1]
            found.indices[first:last] = found.indices[first:last][::-1].copy()
        return sparse.csr_array((found.data, found.indices, found.indptr), shape=found.shape)


@pytest.mark.parametrize("pool", [np.arange(1, N + 1), np.array([2, 3, 5, 7])], ids=["catalogue", "pool"])
def test_scores_are_in_the_order_of_rows_and_columns(pool):
    """The losses of single candidates look them up by bisection."""
    windows = [window(0, 5, 4), window(2, 7, 2)]
    [found] = of_windows([Unordered()], windows, layout(windows), None, pool, N, Draw(0, 0, 0))
    keys = (found.rows * (N + 1) + found.columns).tolist()
    assert keys == sorted(keys)
    assert len(keys) > 6
