"""Splits of users' histories into training, validation and test: pure functions over one block of users.

A history of n interactions is a half-open range of positions. For every user a split gives `train_stop` (training is
`[0, train_stop)`) and, for validation and test, the position of the one target (-1: none). The interactions before a
target are its history.

Tasks split the users instead (`by_user`).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from transrec.config import Config

Ints = NDArray[np.int64]

UNUSED, TRAIN, VALID, TEST = -1, 0, 1, 2
_VALID_FROM, _TEST_FROM = 0.70, 0.73  # of all users: 70, 3 and 27 % as in PeterRec (Yuan et al., SIGIR 2020)


class LeaveOneOutConfig(Config):
    """The last interaction tests, the one before it validates, the rest train (Adapter4Rec, the usual protocol)."""

    name: Literal["leave_one_out"] = Field("leave_one_out", description="the kind of split")


class TemporalConfig(Config):
    """One point in time for all users: training before `valid_from`, validation up to `test_from`, test after it.

    A user's target is the first interaction of the period, and only earlier interactions count towards
    `min_interactions`. A model evaluated on a period uses nothing from after the period's start, which leave-one-out
    does not guarantee. Only the list of ranked candidates contains later items.
    """

    name: Literal["temporal"] = Field("temporal", description="the kind of split")
    valid_from: float = Field(0.8, gt=0, lt=1, description="start of validation, as a quantile of all timestamps")
    test_from: float = Field(0.9, gt=0, lt=1, description="start of the test, as a quantile of all timestamps")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.valid_from >= self.test_from:
            raise ValueError("valid_from must lie before test_from")
        return self


class LastShareConfig(Config):
    """The last share of each user's impressions tests, the share before it validates, the rest train."""

    name: Literal["last_share"] = Field("last_share", description="the kind of split")
    valid: float = Field(0.1, gt=0, lt=1, description="share of a user's impressions that validate")
    test: float = Field(0.1, gt=0, lt=1, description="share of a user's impressions that test")

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError("valid and test together must be less than 1")
        return self


SplitConfig = Annotated[LeaveOneOutConfig | TemporalConfig | LastShareConfig, Field(discriminator="name")]


@dataclass(frozen=True)
class Split:
    """The training length and the held-out positions of each user of a block."""

    train_stop: Ints  # (users,)
    valid: Ints  # (users,) position of the target, -1 if the user has none
    test: Ints


def leave_one_out(lengths: Ints, min_interactions: int) -> Split:
    """Leave-one-out split; users with fewer than `min_interactions` are left out."""
    kept = lengths >= max(min_interactions, 3)
    return Split(np.where(kept, lengths - 2, 0), np.where(kept, lengths - 2, -1), np.where(kept, lengths - 1, -1))


def temporal(lengths: Ints, timestamps: Ints, min_interactions: int, valid_from: int, test_from: int) -> Split:
    """Temporal split; `timestamps` holds all users of the block, concatenated, in the unit of the two moments."""
    stops = np.cumsum(lengths)
    starts = stops - lengths
    before_valid = _count_before(timestamps, starts, stops, valid_from)
    before_test = _count_before(timestamps, starts, stops, test_from)
    history = max(1, min_interactions - 1)  # as leave-one-out's test: one of the interactions is the target
    valid = np.where((before_valid >= history) & (before_test > before_valid), before_valid, -1)
    test = np.where((before_test >= history) & (lengths > before_test), before_test, -1)
    return Split(np.where(before_valid >= history, before_valid, 0), valid, test)


def last_share(users: Ints, valid: float, test: float) -> NDArray[np.int8]:
    """TRAIN, VALID or TEST for each of a block's impressions, given the user of each, ascending.

    Of n impressions of a user, the last ⌊n · test⌋ test and the ⌊n · valid⌋ before them validate.
    """
    counts = np.bincount(users)[users] if len(users) else users
    place = np.arange(len(users)) - np.searchsorted(users, users)
    tested = np.floor(counts * test)
    validated = np.floor(counts * valid)
    left = counts - place  # this one included
    found: NDArray[np.int8] = np.where(left <= tested, TEST, np.where(left <= tested + validated, VALID, TRAIN))
    return found.astype(np.int8)


def by_user(user_ids: Iterable[str]) -> NDArray[np.int8]:
    """TRAIN, VALID or TEST for each user, by a hash of the id; not the hash that orders the shards."""
    hashes = (hashlib.blake2b(user_id.encode(), digest_size=8, person=b"part").digest() for user_id in user_ids)
    shares = np.array([int.from_bytes(digest) / 2**64 for digest in hashes])
    found: NDArray[np.int8] = np.digitize(shares, [_VALID_FROM, _TEST_FROM]).astype(np.int8)
    return found


def _count_before(timestamps: Ints, starts: Ints, stops: Ints, moment: int) -> Ints:
    earlier = np.concatenate([[0], np.cumsum(timestamps < moment)])
    found: NDArray[np.int64] = earlier[stops] - earlier[starts]
    return found
