"""Splits of users' histories into training, validation and test: pure functions over one block of users.

A history of n interactions is a half-open range of positions. For every user a split gives `train_stop` (training is
`[0, train_stop)`) and, for validation and test, the position of the one target (-1: none). The interactions before a
target are its history.

Tasks split the users instead (`by_user`).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from transrec.config import Config
from transrec.data.examples.quantiles import order_statistics
from transrec.data.peers import Peers

Ints = NDArray[np.int64]
Quantile = Annotated[float, Field(gt=0, lt=1)]

UNUSED, TRAIN, VALID, TEST = -1, 0, 1, 2
_ROUNDING = 1e-9  # 0.29 * 100 is a little less than 29
_VALID_FROM, _TEST_FROM = 0.70, 0.73  # of all users: 70, 3 and 27 % as in PeterRec (Yuan et al., SIGIR 2020)


class LeaveOneOutConfig(Config):
    """The last interaction is for the test, the one before it for validation, the rest for training.

    This is the usual protocol, and that of Adapter4Rec.
    """

    name: Literal["leave_one_out"] = Field("leave_one_out", description="the kind of split")


class TemporalConfig(Config):
    """One point in time for all users: training before `valid_from`, validation up to `test_from`, test after it.

    A user's target is the first interaction of the period, and only earlier interactions count towards
    `min_interactions`. A model evaluated on a period uses nothing from after the period's start, which leave-one-out
    does not guarantee. Only the list of ranked candidates contains later items.
    """

    name: Literal["temporal"] = Field("temporal", description="the kind of split")
    valid_from: Quantile | datetime = Field(
        0.8, description="start of validation: a quantile of all timestamps, or a UTC time such as 2019-11-12"
    )
    test_from: Quantile | datetime = Field(
        0.9, description="start of the test: a quantile of all timestamps, or a UTC time"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        starts = self.valid_from, self.test_from
        if isinstance(starts[0], datetime) != isinstance(starts[1], datetime):
            raise ValueError("give both valid_from and test_from as quantiles, or both as points in time")
        if starts[0] >= starts[1]:  # type: ignore[operator]  # both of one kind
            raise ValueError(f"valid_from={self.valid_from} must be before test_from={self.test_from}")
        return self

    def moments(self, timestamps: Callable[[], Iterator[Ints]], peers: Peers) -> tuple[int, int]:
        """The starts of validation and test in seconds since 1970.

        Args:
            timestamps: yields this rank's times, block by block; it is called several times if quantiles are wanted.
            peers: the ranks that have the other times; all of them must call.
        """
        if isinstance(self.valid_from, datetime) and isinstance(self.test_from, datetime):
            return _seconds(self.valid_from), _seconds(self.test_from)
        quantiles = [start for start in (self.valid_from, self.test_from) if isinstance(start, float)]
        valid, test = order_statistics(timestamps, quantiles, peers) or (0, 0)
        return valid, test


class LastShareConfig(Config):
    """The last share of a user's requests is for the test, the share before it for validation, the rest for training.

    Each rating counts as a request of its own.
    """

    name: Literal["last_share"] = Field("last_share", description="the kind of split")
    valid: float = Field(0.1, gt=0, lt=1, description="share of a user's requests that are used for validation")
    test: float = Field(0.1, gt=0, lt=1, description="share of a user's requests that are used for the test")

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid and test must add up to less than 1, found {self.valid} and {self.test}")
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


def last_share(users: Ints, requests: Ints, valid: float, test: float) -> NDArray[np.int8]:
    """TRAIN, VALID or TEST for each of a block's impressions, given its user and its request, in the order of time.

    Of a user's n requests, the last ⌊n · test⌋ are for the test and the ⌊n · valid⌋ before them for validation. Items
    shown together stay together, because some labels of a request would give away the others.

    Args:
        users: ascending.
        requests: numbers within the user.
    """
    _, first, request = np.unique(
        users * (1 + requests.max(initial=0)) + requests, return_index=True, return_inverse=True
    )
    order = np.argsort(first)  # requests by user and time
    owners = users[first][order]
    counts = np.bincount(owners, minlength=1)[owners]
    left = counts - (np.arange(len(owners)) - np.searchsorted(owners, owners))  # this one included
    tested, validated = np.floor(counts * test + _ROUNDING), np.floor(counts * valid + _ROUNDING)
    parts = np.empty(len(owners), np.int8)
    parts[order] = np.where(left <= tested, TEST, np.where(left <= tested + validated, VALID, TRAIN))
    return parts[request]


def by_user(user_ids: Iterable[str]) -> NDArray[np.int8]:
    """TRAIN, VALID or TEST for each user, by a hash of the id; not the hash that orders the shards."""
    hashes = (hashlib.blake2b(user_id.encode(), digest_size=8, person=b"part").digest() for user_id in user_ids)
    shares = np.array([int.from_bytes(digest) / 2**64 for digest in hashes])
    found: NDArray[np.int8] = np.digitize(shares, [_VALID_FROM, _TEST_FROM]).astype(np.int8)
    return found


def _seconds(moment: datetime) -> int:
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())


def _count_before(timestamps: Ints, starts: Ints, stops: Ints, moment: int) -> Ints:
    earlier = np.concatenate([[0], np.cumsum(timestamps < moment)])
    found: NDArray[np.int64] = earlier[stops] - earlier[starts]
    return found
