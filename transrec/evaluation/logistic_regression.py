"""Logistic regression on a user's item counts: the baseline of profile tasks.

Shape letters: B users of a call, N items, K classes (numbers 1..K), H history.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from transrec.protocols import Score

MOST_CLASSES = 100  # a larger vocabulary is treated as a catalogue
_MOST_ITERATIONS = 300
_FITTED = ("classes_", "coef_", "intercept_")  # of scikit-learn's model

Instances = Iterable[tuple[Sequence[np.ndarray], np.ndarray]]  # blocks of (items of each instance, class of each)


def fit(instances: Instances, num_items: int) -> dict[str, NDArray[Any]]:
    """Fit a model that predicts the class of an instance from its item counts; return the model's arrays by name."""
    from sklearn import linear_model  # type: ignore[import-untyped]  # an extra: `baselines`

    histories, classes = zip(*instances, strict=True)
    counts = _counts([items for block in histories for items in block], num_items)
    fitted = linear_model.LogisticRegression(max_iter=_MOST_ITERATIONS).fit(counts, np.concatenate(classes))
    return {name: getattr(fitted, name) for name in _FITTED}


@dataclass(frozen=True)
class LogisticRegression:
    """scikit-learn's model with its default L2 penalty; classes without training users get probability 0.

    Args:
        arrays: the arrays that `fit` returned.
    """

    arrays: Mapping[str, NDArray[Any]]
    num_items: int
    num_classes: int

    def __call__(self, question: Any) -> Score:
        """Log-probabilities of the classes for users with the `history` (B, H) of the question, 0 where padded."""
        counts = _counts([row[row > 0] for row in question.history.cpu().numpy()], self.num_items)
        scores = torch.full((len(question.history), self.num_classes + 1), -torch.inf)
        scores[:, torch.from_numpy(self._model.classes_.astype(np.int64))] = torch.from_numpy(
            self._model.predict_log_proba(counts)
        ).float()
        return lambda a, b: scores[:, a:b]

    @cached_property
    def _model(self) -> Any:
        from sklearn import linear_model

        model = linear_model.LogisticRegression()
        for name, array in self.arrays.items():
            setattr(model, name, array)
        return model


def _counts(histories: Sequence[np.ndarray], num_items: int) -> sparse.csr_array:
    """(users, N + 1) number of occurrences of each item."""
    columns = np.concatenate([np.zeros(0, np.int64), *histories])
    rows = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    shape = (len(histories), num_items + 1)
    return sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()
