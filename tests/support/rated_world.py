"""Forty users who rated films, several at a time, and what should become of it, worked out user by user."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

N_ITEMS, MAX_LENGTH = 30, 5
SAMPLING_SEED = 5


class Rating(NamedTuple):
    item: int
    time: int
    rating: float


class Shown(NamedTuple):
    """An impression: who was shown what, with what answer, and what the user had liked before, oldest first."""

    user: str
    item: int
    time: int
    clicked: bool
    liked_before: tuple[int, ...]


def ratings(users: int = 40) -> dict[str, list[Rating]]:
    """Up to 19 ratings of a user, in bursts of equal times; one user likes nothing, one has a single rating."""
    rng = np.random.default_rng(3)
    found = {}
    for user in range(users):
        items = rng.permutation(np.arange(1, N_ITEMS))[: 1 if user == 7 else int(rng.integers(5, 20))]
        times = np.sort(rng.integers(0, 12, len(items)) * 100 + 10 * user)
        values = rng.integers(1, 4 if user == 11 else 6, len(items))
        found[f"user-{user}"] = [Rating(*map(int, row)) for row in zip(items, times, values, strict=True)]
    return found


def profiles(users: int = 40) -> dict[str, dict[str, str]]:
    return {f"user-{user}": {"age": str(15 + user), "town": f"town-{user % 3}"} for user in range(users)}


def impressions(histories: Mapping[str, list[Rating]]) -> list[Shown]:
    return [
        Shown(user, r.item, r.time, r.rating >= 4, tuple(o.item for o in history if o.time < r.time and o.rating >= 4))
        for user, history in histories.items()
        for r in history
    ]
