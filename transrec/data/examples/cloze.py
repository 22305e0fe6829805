"""Cloze: the items of a window that are hidden as targets, and the inputs that replace them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MASKED, _RANDOM = 0.8, 0.1  # shares of the chosen items; the rest stay unchanged


class Cloze(NamedTuple):
    """A masked sequence; all arrays have the length of the items."""

    inputs: NDArray[np.int64]  # the items, 0 where masked
    masked: NDArray[np.bool_]
    targets: NDArray[np.int64]  # the chosen items, 0 elsewhere


def hide(rng: np.random.Generator, items: NDArray[np.int64], share: float, others: NDArray[np.int64]) -> Cloze:
    """Choose a `share` of `items`, at least one: most are masked, a tenth becomes one of `others`, a tenth stays.

    As in Devlin et al., "BERT", NAACL 2019; which of the three happens is drawn separately for each item.
    """
    chosen = rng.permutation(len(items)) < max(1, round(share * len(items)))
    fate = rng.random(len(items))
    masked = chosen & (fate < _MASKED)
    replaced = chosen & (fate >= _MASKED) & (fate < _MASKED + _RANDOM)
    inputs = np.where(replaced, others[rng.integers(len(others), size=len(items))], items)
    return Cloze(np.where(masked, 0, inputs), masked, np.where(chosen, items, 0))
