"""Candidates of a sampled softmax: items drawn once for a whole step, popular ones more often."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Candidates(NamedTuple):
    """Items drawn for a step, and the number of draws."""

    items: NDArray[np.int64]  # distinct
    draws: int  # draws needed to find them


class CandidateSampler:
    """Draws items until enough are distinct; P(r) = log((r + 2) / (r + 1)) / log(N + 1) for popularity rank r.

    The log-uniform distribution, close to Zipf's, needs no table and only the order of the counts. N is the number of
    `items` that can be drawn; the most popular has rank 0. An array with an entry for each item finds repeated draws,
    because sorting the draws costs far more than drawing them.
    """

    def __init__(self, items: NDArray[np.int64], popularity: NDArray[np.int64]) -> None:
        """
        Args:
            items: items that can be drawn.
            popularity: (catalogue + 1,) interactions of every item of the catalogue.
        """
        self._by_rank = items[np.argsort(-popularity[items], kind="stable")]
        self._first = np.empty(len(items), np.int32)  # by rank: its first draw; valid during a call, if it was drawn
        self._probability = np.zeros(len(popularity))
        self._probability[self._by_rank] = np.log1p(1 / np.arange(1, len(items) + 1)) / np.log(len(items) + 1)

    def __call__(self, rng: np.random.Generator, share: float) -> Candidates:
        """Draw a `share` of the items, at least one."""
        count = max(1, round(share * len(self._by_rank)))
        ranks = self._draw(rng, 2 * count)
        while len(first := self._first_draws(ranks)) < count:
            ranks = np.concatenate([ranks, self._draw(rng, len(ranks))])
        kept = first[:count]
        return Candidates(self._by_rank[ranks[kept]], int(kept[-1]) + 1)

    def log_inclusion(self, items: NDArray[np.int64], draws: int) -> NDArray[np.float32]:
        """log(1 − (1 − p)ⁿ) for each of `items`: the log probability of being found in n draws."""
        probability = np.minimum(self._probability[items], 1 - 1e-12)
        found: NDArray[np.float32] = np.log(-np.expm1(draws * np.log1p(-probability))).astype(np.float32)
        return found

    def _first_draws(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices in `ranks` at which a rank occurs for the first time, in order."""
        places = np.arange(len(ranks), dtype=np.int32)
        self._first[ranks[::-1]] = places[::-1]  # the last assignment to an entry counts
        return np.flatnonzero(self._first[ranks] == places)

    def _draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Popularity ranks r, where r + 1 is the integer part of (N + 1)^u for a uniform u."""
        total = len(self._by_rank)
        return np.minimum((total + 1) ** rng.random(count), total).astype(np.int64) - 1
