"""The evidence scores in batches of windows and in questions.

Shape letters: B windows or questions, P scored positions of a window, L its input positions, S scored positions of all
windows, N items of the catalogue, U items of the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from transrec.data.batch import HistoryPoints, SparseScores
from transrec.data.examples.windows import Window
from transrec.lookup import places_of
from transrec.protocols import Evidence

Ints = NDArray[np.int64]

_HIDDEN, _LEFT_OUT = 7, 8  # seed components that separate these draws from others


class Draw(NamedTuple):
    """The seed of the random choices in a batch, which are the same on any number of ranks."""

    seed: int
    step: int
    first_slot: int  # the place of the batch's first window among those of the step


def of_windows(
    evidence: Sequence[Evidence],
    windows: Sequence[Window | None],
    scored: NDArray[np.bool_],
    masked: NDArray[np.bool_] | None,
    pool: Ints,
    catalogue_size: int,
    draw: Draw,
) -> tuple[SparseScores, ...]:
    """The scores (S, U) of the pool's items at every scored position, from the user's whole history before it.

    Args:
        scored: (B, P) positions; the last one belongs to the newest item of a window.
        masked: (B, L) inputs that are hidden, which belong to no history; the last one is the newest item.
        pool: (U,) catalogue indices, ascending.
    """
    if not evidence:
        return ()
    points = points_of(windows, scored, masked, catalogue_size)
    share = max(one.hidden for one in evidence)
    if share:
        points = replace(points, cold=Hidden(share, draw.seed, draw.step))
    chance = _chance(draw, scored)
    return tuple(_at_positions(one, points, chance >= one.dropout, pool) for one in evidence)


def _chance(draw: Draw, scored: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A random number in [0, 1) for each scored position (S,)."""
    rows, columns = np.nonzero(scored)
    return _random((draw.first_slot + rows) * scored.shape[1] + columns, _LEFT_OUT, draw.seed, draw.step)


def _at_positions(evidence: Evidence, points: HistoryPoints, kept: NDArray[np.bool_], pool: Ints) -> SparseScores:
    """The scores of the pool's items at the positions that are `kept` (S,); there are none at the others."""
    found = evidence.scores(replace(points, users=points.users[kept], seen=points.seen[kept]))
    scores = _in_pool(found, pool)
    return replace(scores, rows=torch.from_numpy(np.flatnonzero(kept))[scores.rows])


@dataclass(frozen=True)
class Hidden:
    """A random share of all items, the same in every process, without an array over the whole catalogue."""

    share: float
    seed: int
    step: int

    def __call__(self, items: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Which of the `items` are in the share."""
        found: NDArray[np.bool_] = _random(items, _HIDDEN, self.seed, self.step) < self.share
        return found


def _random(places: NDArray[Any], *seed: int) -> NDArray[np.float64]:
    """A random number in [0, 1) for each place: SplitMix64 (Steele et al., OOPSLA 2014) of the place and the seed."""
    start = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    numbers = (places.astype(np.uint64) + start) * np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    random: NDArray[np.float64] = (numbers ^ (numbers >> np.uint64(31))) * 2.0**-64
    return random


def of_questions(
    evidence: Sequence[Evidence], histories: Sequence[NDArray[Any]], interactions: Ints
) -> tuple[SparseScores, ...]:
    """The scores (B, N + 1) of all items after each of the `histories`, in the order of the items.

    Args:
        interactions: (N + 1,) number of training interactions of each item.
    """
    points = replace(_after(histories, len(interactions) - 1), cold=lambda items: interactions[items] == 0)
    return tuple(by_column(one.scores(points)) for one in evidence)


def after(evidence: Evidence, histories: Sequence[NDArray[Any]], catalogue_size: int) -> Any:
    """The scores (B, N + 1) of all items after each of the `histories`, as a sparse matrix."""
    return evidence.scores(_after(histories, catalogue_size))


def _after(histories: Sequence[NDArray[Any]], catalogue_size: int) -> HistoryPoints:
    """The ends of the `histories`."""
    lengths = np.array([len(history) for history in histories], np.int64)
    users, items = np.arange(len(histories)), np.concatenate([*histories, []]).astype(np.int64)
    return HistoryPoints(items, lengths, users, lengths, catalogue_size, counted=False)


def of_nobody(evidence: Sequence[Evidence]) -> tuple[SparseScores, ...]:
    """Empty scores for each kind of evidence."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return tuple(SparseScores(nothing, nothing, torch.zeros(0)) for _ in evidence)


def points_of(
    windows: Sequence[Window | None], scored: NDArray[np.bool_], masked: NDArray[np.bool_] | None, catalogue_size: int
) -> HistoryPoints:
    """The scored positions of windows as points in their users' training histories; arguments as in `of_windows`."""
    filled = {row: window for row, window in enumerate(windows) if window is not None}
    number = np.full(len(windows), -1)
    number[list(filled)] = np.arange(len(filled))
    lengths = np.array([len(window.own) for window in filled.values()], np.int64)
    stops = np.array([window.start + len(window.items) for window in filled.values()], np.int64)
    rows, columns = np.nonzero(scored)
    users = number[rows]
    return HistoryPoints(
        np.concatenate([*(window.own for window in filled.values()), []]).astype(np.int64),
        lengths,
        users,
        stops[users] - scored.shape[1] + columns,
        catalogue_size,
        counted=True,
        hidden=None if masked is None else _hidden(number, lengths, stops, masked),
    )


def _hidden(number: Ints, lengths: Ints, stops: Ints, masked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = np.nonzero(masked)
    starts = np.cumsum(lengths) - lengths
    users = number[rows]
    hidden = np.zeros(lengths.sum(), np.bool_)
    hidden[starts[users] + stops[users] - masked.shape[1] + columns] = True
    return hidden


def _in_pool(scores: Any, pool: Ints) -> SparseScores:
    """The columns that are in the `pool` (U,), at their place in it; entries are in the order of rows and columns."""
    scores.sort_indices()
    if len(pool) == scores.shape[1] - 1:  # the whole catalogue
        return _tensors(_rows(scores), scores.indices - 1, scores.data)
    columns = places_of(scores.indices, pool, scores.shape[1])
    there = columns >= 0
    return _tensors(_rows(scores)[there], columns[there], scores.data[there])


def by_column(scores: Any) -> SparseScores:
    """The entries of a sparse matrix of scores (B, N + 1) by column and row, in time that does not depend on N."""
    if scores.shape[1] <= scores.nnz:
        columns = scores.tocsc()  # counts the entries of each column, which is faster than sorting them
        return _tensors(columns.indices, np.repeat(np.arange(scores.shape[1]), np.diff(columns.indptr)), columns.data)
    order = np.argsort(scores.indices, kind="stable")
    return _tensors(_rows(scores)[order], scores.indices[order], scores.data[order])


def _rows(scores: Any) -> Ints:
    """The row of each entry of a sparse matrix by rows."""
    rows: Ints = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    return rows


def _tensors(rows: Ints, columns: NDArray[Any], values: NDArray[Any]) -> SparseScores:
    return SparseScores(
        torch.from_numpy(rows.astype(np.int64)),
        torch.from_numpy(columns.astype(np.int64)),
        torch.from_numpy(values.astype(np.float32)),
    )
