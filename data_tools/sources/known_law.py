"""A world in which more data makes better by a known power of their number (Hutter, "Learning curve theory", 2021).

A user's history alternates a *context* and its *answer*. Contexts follow Zipf's law p_k ~ k^-(1+a), each has one
answer, and what was never met cannot be answered: after D pairs a learner errs in

    error(D) = noise + (1 - noise) · Σ_k p_k (1 - p_k)^D  ~  noise + A · D^-law,    law = a / (1 + a)

of its best guesses, if one sighting is enough; if it needs several, A alone is larger. The sum runs over all integers
and the catalogue ends: a context beyond it, which nobody would meet twice, is any of the catalogue with any answer.

With law 0 answers are drawn whatever the context: nothing can be learnt, from no number of pairs.
"""

from dataclasses import dataclass

import numpy as np

NOISE = 0.01  # of answers that are any


@dataclass(frozen=True)
class KnownLaw:
    """Items 0..contexts-1 are contexts, the next `contexts` items are answers."""

    law: float
    contexts: int

    @property
    def zipf(self) -> float:
        """The exponent of Zipf's law, 1 + a."""
        return 1.0 / (1.0 - self.law)

    def shares(self) -> np.ndarray:
        """Of each context in the catalogue among all that are drawn; what is missing to 1 lies beyond."""
        from scipy.special import zeta  # here: it would cost every build, of whatever source, 60 MB

        weights = np.arange(1, self.contexts + 1, dtype=float) ** -self.zipf
        return weights / (zeta(self.zipf) if self.law > 0 else weights.sum())

    def pairs(self, rng: np.random.Generator, count: int, answer_of: np.ndarray) -> np.ndarray:
        """(count, 2) item numbers: a context and its answer."""
        drawn = np.searchsorted(np.cumsum(self.shares()), rng.random(count), side="right")
        beyond = drawn >= self.contexts
        context = np.where(beyond, rng.integers(self.contexts, size=count), drawn)
        anyhow = beyond | (rng.random(count) < (NOISE if self.law > 0 else 1.0))
        answer = np.where(anyhow, rng.integers(self.contexts, size=count), answer_of[context])
        return np.stack([context, self.contexts + answer], axis=1)

    def error(self, pairs: float) -> float:
        """Share of wrong best guesses of who knows what `pairs` pairs say."""
        if self.law == 0:
            return 1.0 - 1.0 / self.contexts
        shares = self.shares()
        known = np.sum(shares * (1.0 - (1.0 - shares) ** pairs)) * (1.0 - NOISE)
        return float(1.0 - known)
