"""Data on which the error falls as a known power of its amount (Hutter, "Learning curve theory", 2021).

A user's history alternates a *context* and its *answer*. Contexts follow Zipf's law p_k ~ k^-(1+a), each has one
answer, and the answer to an unseen context cannot be predicted. After D pairs, the share of wrong best guesses of a
learner is

    error(D) = noise + (1 - noise) · Σ_k p_k (1 - p_k)^D  ~  noise + A · D^-law,    law = a / (1 + a)

if one occurrence is enough; if the learner needs several, only A is larger. The sum runs over all integers but the
catalogue is finite: a context beyond it, which nobody would see twice, is replaced by a random one with a random
answer.

With law 0, answers do not depend on the context: nothing can be learnt from any number of pairs.
"""

from dataclasses import dataclass

import numpy as np

NOISE = 0.01  # share of answers that are random


@dataclass(frozen=True)
class KnownLaw:
    """A world of 2·`contexts` items: items 0..contexts-1 are contexts, the rest are answers."""

    law: float
    contexts: int

    @property
    def zipf(self) -> float:
        """The exponent of Zipf's law, 1 + a."""
        return 1.0 / (1.0 - self.law)

    def shares(self) -> np.ndarray:
        """Share of each context of the catalogue among all draws; the remainder to 1 lies beyond the catalogue."""
        from scipy.special import zeta  # imported here, since it would cost the build of every source 60 MB

        weights = np.arange(1, self.contexts + 1, dtype=float) ** -self.zipf
        shares: np.ndarray = weights / (zeta(self.zipf) if self.law > 0 else weights.sum())
        return shares

    def pairs(self, rng: np.random.Generator, count: int, answer_of: np.ndarray) -> np.ndarray:
        """(count, 2) item numbers: a context and its answer."""
        drawn = np.searchsorted(np.cumsum(self.shares()), rng.random(count), side="right")
        beyond = drawn >= self.contexts
        context = np.where(beyond, rng.integers(self.contexts, size=count), drawn)
        anyhow = beyond | (rng.random(count) < (NOISE if self.law > 0 else 1.0))
        answer = np.where(anyhow, rng.integers(self.contexts, size=count), answer_of[context])
        return np.stack([context, self.contexts + answer], axis=1)

    def error(self, pairs: float) -> float:
        """Share of wrong best guesses of a learner that has seen `pairs` pairs."""
        if self.law == 0:
            return 1.0 - 1.0 / self.contexts
        shares = self.shares()
        known = np.sum(shares * (1.0 - (1.0 - shares) ** pairs)) * (1.0 - NOISE)
        return float(1.0 - known)
