"""Candidates of a sampled softmax: some items of the catalogue for a whole step, popular ones more often."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Candidates(NamedTuple):
    items: NDArray[np.int64]  # distinct
    draws: int  # how many it took to meet them


class CandidateSampler:
    """Draws items until enough distinct ones are met; P(r) = log((r + 2) / (r + 1)) / log(N + 1) for popularity rank r.

    The log-uniform distribution, nearly Zipf's, needs no table and no counts but their order. N are the items that can
    be drawn, `items`; the most popular has rank 0.
    """

    def __init__(self, items: NDArray[np.int64], popularity: NDArray[np.int64]) -> None:
        """
        Args:
            items: those that can be drawn.
            popularity: (catalogue + 1,) interactions of every item there is.
        """
        self._by_rank = items[np.argsort(-popularity[items], kind="stable")]
        self._probability = np.zeros(len(popularity))
        self._probability[self._by_rank] = np.log1p(1 / np.arange(1, len(items) + 1)) / np.log(len(items) + 1)

    def __call__(self, rng: np.random.Generator, share: float) -> Candidates:
        """A `share` of the items, at least one."""
        count = max(1, round(share * len(self._by_rank)))
        ranks = self._draw(rng, 2 * count)
        while len(first := np.unique(ranks, return_index=True)[1]) < count:
            ranks = np.concatenate([ranks, self._draw(rng, len(ranks))])
        kept = np.sort(first)[:count]
        return Candidates(self._by_rank[ranks[kept]], int(kept[-1]) + 1)

    def log_inclusion(self, items: NDArray[np.int64], draws: int) -> NDArray[np.float32]:
        """log(1 − (1 − p)ⁿ) of each of `items`: how likely it is to be met in n draws."""
        probability = np.minimum(self._probability[items], 1 - 1e-12)
        found: NDArray[np.float32] = np.log(-np.expm1(draws * np.log1p(-probability))).astype(np.float32)
        return found

    def _draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Popularity ranks, (r + 1) being the whole part of (N + 1)^u for a uniform u."""
        total = len(self._by_rank)
        return np.minimum((total + 1) ** rng.random(count), total).astype(np.int64) - 1
