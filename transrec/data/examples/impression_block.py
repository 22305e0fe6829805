"""Blocks of impressions, and batches gathered from them column by column.

Designs considered. An object for each impression with its history, profile and features, from which batches are
assembled: ten times the cost of the chosen design. Chosen: an example is a place in a block, and a batch gathers its
places in each block at once. The features of a block are looked up when it is read.

Shape letters: I impressions of a block, B slots of a batch, L items of a history, H heads, k values of a feature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from transrec.data.examples.exposures import Exposures
from transrec.data.examples.splits import TRAIN
from transrec.data.shards.user_shards import UserBlock

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImpressionBlock:
    """A block of users with its impressions, the part of the split of each, and the rows of their features."""

    users: UserBlock
    shown: Exposures
    part: NDArray[np.int8]  # (I,) UNUSED, TRAIN, VALID or TEST
    features: Mapping[str, NDArray[np.int32]]  # of user, context and time, (I, k)
    thinned: NDArray[np.bool_] | None = None  # (I,) negatives that are not trained on

    @cached_property
    def stops(self) -> Ints:
        """(I,) length of the history before each impression."""
        return self.shown.histories.stops(self.shown.users, self.shown.times)

    @cached_property
    def trains(self) -> Ints:
        """The impressions of the training part."""
        return np.flatnonzero(self.part == TRAIN)

    @cached_property
    def kept(self) -> Ints:
        """The impressions of the training part that are trained on, all but thinned negatives."""
        return self.trains if self.thinned is None else self.trains[~self.thinned[self.trains]]

    def known(self, places: Ints) -> NDArray[np.bool_]:
        """(places,) whether other impressions of the user are trained on."""
        return np.isin(self.shown.users[places], self.shown.users[self.kept])

    @cached_property
    def user_ids(self) -> list[str]:
        """The id of each user."""
        found: list[str] = self.users.user_ids.to_pylist()
        return found

    def history(self, places: Ints, length: int) -> Ints:
        """(places, length) the newest items before each impression, right-aligned after zeros."""
        histories, users = self.shown.histories, self.shown.users[places]
        if not len(histories.items):
            return np.zeros((len(places), length), np.int64)
        first = histories.offsets[users]
        at = (first + self.stops[places])[:, None] + np.arange(-length, 0)
        return np.where(at >= first[:, None], histories.items[np.maximum(at, 0)], 0)


class ImpressionExample(NamedTuple):
    """A training impression, identified by its place in a block."""

    block: ImpressionBlock
    place: int

    @property
    def user_id(self) -> str:
        return self.block.user_ids[int(self.block.shown.users[self.place])]

    @property
    def key(self) -> str:
        """Unique among the examples of a run."""
        return f"{self.user_id}\0{self.place}"


@dataclass(frozen=True)
class Columns:
    """B impressions column by column; in an empty slot, everything is 0 and no label is observed."""

    candidates: Ints  # (B,) catalogue indices
    history: Ints  # (B, L) catalogue indices, right-aligned
    labels: NDArray[np.float32]  # (B, H), NaN where the response was not observed
    features: dict[str, Ints]  # of user, context and time, (B, k)

    @classmethod
    def of(cls, block: ImpressionBlock, places: Ints, length: int) -> "Columns":
        """The impressions of a block at these places."""
        features = {name: rows[places].astype(np.int64) for name, rows in block.features.items()}
        return cls(block.shown.items[places], block.history(places, length), block.shown.labels[places], features)

    def shown_alike(self, rows: Ints, candidates: Ints) -> "Columns":
        """Copies of the impressions in `rows`, each with another of these candidates."""
        features = {name: values[rows] for name, values in self.features.items()}
        return replace(
            self, candidates=candidates, history=self.history[rows], labels=self.labels[rows], features=features
        )

    @classmethod
    def of_slots(
        cls, slots: Sequence[ImpressionExample | None], length: int, heads: int, features: Sequence[str]
    ) -> "Columns":
        """The impressions in the slots of a batch, None for an empty one."""
        count, by_block = len(slots), _by_block(slots)
        parts = [(where, cls.of(block, places, length)) for block, (where, places) in by_block.items()]
        found = cls(
            np.zeros(count, np.int64),
            np.zeros((count, length), np.int64),
            np.full((count, heads), np.nan, np.float32),
            {name: np.zeros((count, _most_values(name, parts)), np.int64) for name in features},
        )
        for where, part in parts:
            found.candidates[where], found.history[where], found.labels[where] = (
                part.candidates,
                part.history,
                part.labels,
            )
            for name, rows in part.features.items():
                found.features[name][where, : rows.shape[1]] = rows
        return found


def _by_block(slots: Sequence[ImpressionExample | None]) -> dict[ImpressionBlock, tuple[Ints, Ints]]:
    """The slots that each block fills, and the places of their impressions in it."""
    found: dict[ImpressionBlock, tuple[list[int], list[int]]] = {}
    for slot, impression in enumerate(slots):
        if impression is not None:
            where, places = found.setdefault(impression.block, ([], []))
            where.append(slot)
            places.append(impression.place)
    return {block: (np.array(where), np.array(places)) for block, (where, places) in found.items()}


def _most_values(name: str, parts: Sequence[tuple[Ints, Columns]]) -> int:
    return max((part.features[name].shape[1] for _, part in parts), default=1)
