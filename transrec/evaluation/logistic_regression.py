"""Logistic regression on a user's item counts: the baseline of profile tasks.

Shape letters: B users of a call, N items, K classes (numbers 1..K), H history.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from transrec.protocols import Score

MOST_CLASSES = 100  # a vocabulary of more is a catalogue
_MOST_ITERATIONS = 300

Instances = Iterable[tuple[Sequence[np.ndarray], np.ndarray]]  # blocks of (items of each instance, class of each)


@dataclass(frozen=True)
class LogisticRegression:
    """scikit-learn's model with its default L2 penalty; classes without training users get probability 0."""

    fitted: Any
    num_items: int
    num_classes: int

    @classmethod
    def fit(cls, instances: Instances, num_items: int, num_classes: int) -> "LogisticRegression":
        """Fit the item counts of all instances to their classes."""
        from sklearn import linear_model  # type: ignore[import-untyped]  # an extra: `baselines`

        histories, classes = zip(*instances, strict=True)
        counts = _counts([items for block in histories for items in block], num_items)
        fitted = linear_model.LogisticRegression(max_iter=_MOST_ITERATIONS).fit(counts, np.concatenate(classes))
        return cls(fitted, num_items, num_classes)

    def for_users(self, history: Tensor) -> Score:
        """Log-probabilities of the classes for users with `history` (B, H): item indices, 0 where padded."""
        counts = _counts([row[row > 0] for row in history.cpu().numpy()], self.num_items)
        scores = torch.full((len(history), self.num_classes + 1), -torch.inf)
        scores[:, torch.from_numpy(self.fitted.classes_.astype(np.int64))] = torch.from_numpy(
            self.fitted.predict_log_proba(counts)
        ).float()
        return lambda a, b: scores[:, a:b].to(history.device)


def _counts(histories: Sequence[np.ndarray], num_items: int) -> sparse.csr_array:
    """(users, N + 1) number of occurrences of each item."""
    columns = np.concatenate([np.zeros(0, np.int64), *histories])
    rows = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    shape = (len(histories), num_items + 1)
    return sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()
