"""Sources of impressions: records in the shards, ratings, or sampled items.

Shape letters: I impressions of a block, in the order of its users and of time; H heads.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from transrec.config import Config
from transrec.data.shards.user_shards import Shown, UserBlock

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """The histories of a block's users: user u has `items[offsets[u]:offsets[u + 1]]`, oldest first."""

    offsets: Ints  # (users + 1,)
    items: NDArray[np.int32]
    times: Ints

    def stops(self, users: Ints, times: Ints) -> Ints:
        """(I,) how many items each user had before a time; an item with the same time is not before it."""
        owners = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        # Ranks instead of times, so that keys fit into 64 bits however fine the unit of the times is.
        moments, ranks = np.unique(np.concatenate([self.times, times]), return_inverse=True)
        keys = owners * len(moments) + ranks[: len(owners)]  # ascending, because times ascend within a user
        found: Ints = np.searchsorted(keys, users * len(moments) + ranks[len(owners) :]) - self.offsets[users]
        return found


@dataclass(frozen=True)
class Exposures:
    """The impressions of a block of users, and the histories that precede them."""

    users: Ints  # (I,) position in the block, ascending
    items: Ints  # (I,) catalogue indices 1..N
    times: Ints  # (I,) seconds since 1970, ascending within a user
    requests: Ints  # (I,) number, within the user, of the request that showed the item
    labels: NDArray[np.float32]  # (I, H) 0 or 1; NaN where the response was not observed
    context: Mapping[str, pa.StringArray]  # columns (I,)
    histories: Histories
    shown_with: Ints | None = None  # (I,) items of each request, where not all of them are here

    @property
    def sizes(self) -> Ints:
        """(I,) how many items the request of each impression showed."""
        if self.shown_with is not None:
            return self.shown_with
        keys = self.users * (1 + self.requests.max(initial=0)) + self.requests
        _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
        found: Ints = counts[place]
        return found


class ShownConfig(Config):
    """The impressions that the shards recorded; the history consists of all earlier interactions."""

    name: Literal["shown"] = Field("shown", description="the source of impressions")

    def times(self, block: UserBlock) -> Ints:
        """(I,) the times of a block's impressions."""
        return _recorded(block).timestamps

    def read(self, block: UserBlock, heads: list[str], catalogue_size: int) -> Exposures:
        """The impressions of a block."""
        shown = _recorded(block)
        users = np.repeat(np.arange(len(block)), np.diff(shown.offsets))
        labels = np.stack([shown.labels[head] for head in heads], axis=1)
        items, requests = shown.items.astype(np.int64), shown.requests.astype(np.int64)
        return Exposures(users, items, shown.timestamps, requests, labels, shown.context, _all(block))


class RatedConfig(Config):
    """Every rating is an impression, and a high rating is a click. Users chose the items that they rated low, so those
    are genuine negatives."""

    name: Literal["rated"] = Field("rated", description="the source of impressions")
    at_least: float = Field(4.0, description="lowest rating that counts as a click")
    history: Literal["liked", "all"] = Field(
        "liked", description="items in a user's history: those with a click, or all rated items"
    )

    def times(self, block: UserBlock) -> Ints:
        """(I,) the times of a block's impressions."""
        return block.timestamps[~np.isnan(block.ratings)]

    def read(self, block: UserBlock, heads: list[str], catalogue_size: int) -> Exposures:
        """The impressions of a block: its interactions with a rating."""
        owners = np.repeat(np.arange(len(block)), block.lengths)
        rated = ~np.isnan(block.ratings)
        liked = rated & (block.ratings >= self.at_least)
        kept = liked if self.history == "liked" else rated
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owners[kept], minlength=len(block)))])
        histories = Histories(offsets, block.items[kept], block.timestamps[kept])
        labels = np.repeat(liked[rated, None].astype(np.float32), len(heads), axis=1)
        users, items, times = owners[rated], block.items[rated].astype(np.int64), self.times(block)
        return Exposures(users, items, times, _same_moment(users, times), labels, {}, histories)


class SampledConfig(Config):
    """Every interaction is a click, and items drawn at random are impressions without one: the negatives are guesses.

    The items are drawn once for each interaction, by a hash of user and position, so validation and test are the same
    for all runs, and training uses the same negatives in every epoch.
    """

    name: Literal["sampled"] = Field("sampled", description="the source of impressions")
    negatives: int = Field(4, ge=1, description="number of items drawn as negatives for each interaction")

    def times(self, block: UserBlock) -> Ints:
        """(I,) the times of a block's impressions."""
        return np.repeat(block.timestamps, 1 + self.negatives)

    def read(self, block: UserBlock, heads: list[str], catalogue_size: int) -> Exposures:
        """The impressions of a block: each interaction, followed by the items drawn for it."""
        each = 1 + self.negatives
        users = np.repeat(np.repeat(np.arange(len(block)), block.lengths), each)
        times = self.times(block)
        items = np.empty((len(block.items), each), np.int64)
        items[:, 0] = block.items
        for user, user_id in enumerate(block.user_ids.to_pylist()):
            own = slice(block.offsets[user], block.offsets[user + 1])
            seed = int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8, person=b"shown").digest())
            items[own, 1:] = _unseen(np.random.default_rng(seed), block.items[own], self.negatives, catalogue_size)
        labels = np.zeros((len(items) * each, len(heads)), np.float32)
        labels[::each] = 1
        requests = np.repeat(np.arange(len(block.items)) - np.repeat(block.offsets[:-1], block.lengths), each)
        return Exposures(users, items.ravel(), times, requests, labels, {}, _all(block))


ExposuresConfig = Annotated[ShownConfig | RatedConfig | SampledConfig, Field(discriminator="name")]


def _recorded(block: UserBlock) -> Shown:
    assert block.shown is not None  # `ImpressionExamples` refuses sets without any
    return block.shown


def _all(block: UserBlock) -> Histories:
    return Histories(block.offsets, block.items, block.timestamps)


def _same_moment(users: Ints, times: Ints) -> Ints:
    """Number of each impression's time within its user: items with the same time were shown together."""
    first = np.ones(len(users), bool)
    first[1:] = times[1:] != times[:-1]
    number = np.cumsum(first) - 1
    found: Ints = number - number[np.searchsorted(users, users)]
    return found


def _unseen(rng: np.random.Generator, own: NDArray[np.int32], negatives: int, catalogue_size: int) -> Ints:
    """(interactions, negatives) items outside a user's history; any items if that is the whole catalogue."""
    seen = np.unique(own).astype(np.int64)
    left, shape = catalogue_size - len(seen), (len(own), negatives)
    if not left:
        return rng.integers(1, catalogue_size + 1, shape)
    numbers = rng.integers(left, size=shape)  # of the items that are left, in ascending order
    left_before = seen - 1 - np.arange(len(seen))
    found: Ints = 1 + numbers + np.searchsorted(left_before, numbers, side="right")
    return found
