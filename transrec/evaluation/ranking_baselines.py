"""Untrained and simple answers to impressions, which a ranking model must beat.

Each gives logits (B, 1), so that the log loss and the calibration of its probabilities can be measured too.

Shape letters: B impressions, N items (indices 1..N; 0 pads).
"""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transrec.nn.similarity import similarity_statistics

RankingBaseline = Callable[[Any], Tensor]  # impressions as the examples ask them -> logits (B, 1)

_AT_ONCE = 512  # impressions whose histories are vectors at a time
_PRIOR = 10.0  # impressions with the mean rate that every item is given

Floats = NDArray[np.float64]


def ranking_baselines(training: Iterable[tuple[Any, Any]], catalogue_size: int) -> dict[str, RankingBaseline]:
    """Baselines by name.

    Args:
        training: the users and training impressions of each block.

    most_popular        clicks of the item, on a logarithmic scale
    item_rate           share of the item's impressions that were clicked, smoothed towards the mean
    logistic_regression of user and item ids, if scikit-learn is installed
    """
    users, items, clicks = _gathered(training)
    if not len(items):
        return {}
    shown = np.bincount(items, minlength=catalogue_size + 1).astype(np.float64)
    clicked = np.bincount(items, clicks, minlength=catalogue_size + 1)
    mean = clicks.mean().clip(1e-6, 1 - 1e-6)
    found: dict[str, RankingBaseline] = {
        "most_popular": _by_item(np.log1p(clicked)),
        "item_rate": _by_item(_logit((clicked + _PRIOR * mean) / (shown + _PRIOR))),
    }
    if find_spec("sklearn") and 0 < clicks.sum() < len(clicks):
        found["logistic_regression"] = _regression(users, items, clicks, catalogue_size)
    return found


def _gathered(training: Iterable[tuple[Any, Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """User numbers over all blocks, items and labels of the first head where it was observed."""
    columns, first = [], 0
    for block, shown in training:
        observed = ~np.isnan(shown.labels[:, 0])
        columns.append(
            (first + shown.users[observed], shown.items[observed], shown.labels[observed, 0].astype(np.float64))
        )
        first += len(block)
    users, items, clicks = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return users, items, clicks


def _by_item(logits: Floats) -> RankingBaseline:
    values = torch.from_numpy(logits)
    return lambda asked: values[asked.items][:, None]


def _regression(
    users: NDArray[np.int64], items: NDArray[np.int64], clicks: Floats, catalogue_size: int
) -> RankingBaseline:
    """A weight for every user and item of the training, and none for others; C is scikit-learn's default."""
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    def columns(users: NDArray[np.int64], items: NDArray[np.int64]) -> Any:
        rows = np.arange(len(items))
        places = np.concatenate([items, catalogue_size + 1 + users])
        shape = (len(items), catalogue_size + 1 + known)
        within = places < shape[1]
        both = np.concatenate([rows, rows])[within], places[within]
        return sparse.csr_array((np.ones(int(within.sum())), both), shape=shape)

    known = int(users.max()) + 1
    model = LogisticRegression(max_iter=1000).fit(columns(users, items), clicks)
    return lambda asked: torch.from_numpy(model.decision_function(columns(asked.users.numpy(), asked.items.numpy())))[
        :, None
    ]


def _logit(rates: Floats) -> Floats:
    found: Floats = np.log(rates / (1 - rates))
    return found


def similarity_baseline(
    items: NDArray[np.int64], features: NDArray[np.float32], catalogue_size: int
) -> RankingBaseline:
    """The kernel of the cosines of candidate and history in a frozen space; nothing is trained.

    Args:
        items: (M,) those with content.
        features: (M, W), which are centred here: what all items share says nothing.
    """
    centred = features - features.sum(axis=0) / max(1, len(features))
    unit = np.zeros((catalogue_size + 1, features.shape[1]), np.float32)
    unit[items] = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    vectors, known = torch.from_numpy(unit), torch.from_numpy(unit.any(axis=1))

    def score(asked: Any) -> Tensor:
        parts = (asked.shown.part(start, start + _AT_ONCE) for start in range(0, len(asked.shown), _AT_ONCE))
        return torch.cat([_kernel(vectors[part.items], known[part.items], part) for part in parts])[:, None]

    return score


def _kernel(pool: Tensor, known: Tensor, shown: Any) -> Tensor:
    """(B,)."""
    return similarity_statistics(pool, known, shown.candidates, shown.history, shown.history_mask)[:, -1].double()
