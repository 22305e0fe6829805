"""Uniform negatives, seeded by position in the order so that a resumed run draws the same ones."""

import numpy as np
from numpy.typing import NDArray

_MOST_DRAWS = 100


def sample_negatives(
    rng: np.random.Generator, candidates: NDArray[np.int64], own: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """`count` items drawn uniformly, with replacement, from `candidates` without the user's `own` training items.

    Validation and test items of the user can be drawn: training must not know them. A user who owns (almost) every
    candidate keeps the last draw after 100 rounds of rejection.
    """
    drawn = candidates[rng.integers(len(candidates), size=count)]
    for _ in range(_MOST_DRAWS):
        rejected = np.isin(drawn, own)
        if not rejected.any():
            break
        drawn[rejected] = candidates[rng.integers(len(candidates), size=int(rejected.sum()))]
    return drawn
