"""Uniform negatives, seeded by position in the order, so that a resumed run draws the same ones."""

import numpy as np
from numpy.typing import NDArray

_MOST_DRAWS = 100


class NegativeSampler:
    """Draws uniformly, with replacement, from `candidates`, a subset of the items 1..`num_items`.

    One flag per item marks the user's own items: for the few draws of a window, sorting the draws or the user's items
    costs far more than drawing.
    """

    def __init__(self, candidates: NDArray[np.int64], num_items: int) -> None:
        self.candidates = candidates
        self._owned = np.zeros(num_items + 1, bool)  # marked during a call only

    def __call__(self, rng: np.random.Generator, own: NDArray[np.int32], count: int) -> NDArray[np.int64]:
        """Draw `count` candidates, without the user's `own` training items.

        The user's validation and test items can be drawn, because training must not use them. For a user who owns
        (almost) every candidate, the last draw is kept after 100 rounds of rejection.
        """
        self._owned[own] = True
        drawn = self._draw(rng, count)
        for _ in range(_MOST_DRAWS):
            rejected = self._owned[drawn]
            if not rejected.any():
                break
            drawn[rejected] = self._draw(rng, int(rejected.sum()))
        self._owned[own] = False
        return drawn

    def _draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        return self.candidates[rng.integers(len(self.candidates), size=count)]
