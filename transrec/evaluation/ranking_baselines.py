"""Simple baselines for impressions, which a ranking model must beat.

Each returns logits (B, 1), so that the log loss and the calibration of its probabilities can also be measured.

Shape letters: B impressions, N items (indices 1..N; 0 pads).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RankingBaseline = Callable[[Any], Tensor]  # impressions as the examples ask them -> logits (B, 1)

_AT_ONCE = 512  # impressions whose histories are held as vectors at a time
_PRIOR = 10.0  # number of impressions with the mean click rate that are added to those of every item

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Training = Iterable[tuple[Any, Any]]  # the users and training impressions of each block


def count_clicks(training: Training, catalogue_size: int) -> dict[str, Floats]:
    """Logits (N + 1,) by name; empty if there are no impressions.

    most_popular        clicks of the item, on a logarithmic scale
    item_rate           share of the item's impressions that were clicked, smoothed towards the mean

    Args:
        training: the users and training impressions of each block.
    """
    shown, clicked = np.zeros(catalogue_size + 1), np.zeros(catalogue_size + 1)
    for _, items, clicks in _observed(training):
        np.add.at(shown, items, 1)
        np.add.at(clicked, items, clicks)
    if not shown.any():
        return {}
    mean = (clicked.sum() / shown.sum()).clip(1e-6, 1 - 1e-6)
    rate = _logit((clicked + _PRIOR * mean) / (shown + _PRIOR))
    return {"most_popular": np.log1p(clicked), "item_rate": rate}


def by_item(logits: Floats) -> RankingBaseline:
    """A baseline with one logit for each item, from `logits` (N + 1,), whichever user is shown the item."""
    values = torch.from_numpy(logits)
    return lambda asked: values[asked.items][:, None]


def fit_regression(training: Training, catalogue_size: int) -> dict[str, Floats]:
    """scikit-learn's logistic regression of user and item ids, with its default C: the weight of each, and a constant.

    Empty if all answers are the same.
    """
    users, items, clicks = (np.concatenate(parts) for parts in zip(*_observed(training), strict=True))
    if not 0 < clicks.sum() < len(clicks):
        return {}
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    columns = _one_hot(users, items, catalogue_size, catalogue_size + 2 + int(users.max()))
    model = LogisticRegression(max_iter=1000).fit(columns, clicks)
    return {"weights": model.coef_[0], "constant": model.intercept_}


def regression(fitted: Mapping[str, Floats], catalogue_size: int) -> RankingBaseline:
    """The model that `fit_regression` fitted; users and items not seen in training have weight 0."""
    weights, constant = fitted["weights"], fitted["constant"]

    def score(asked: Any) -> Tensor:
        columns = _one_hot(asked.users.numpy(), asked.items.numpy(), catalogue_size, len(weights))
        return torch.from_numpy(columns @ weights + constant)[:, None]

    return score


def _observed(training: Training) -> Iterator[tuple[Ints, Ints, Floats]]:
    """User numbers over all blocks, items and labels of the first head where it was observed, of each block."""
    first = 0
    for block, shown in training:
        observed = ~np.isnan(shown.labels[:, 0])
        yield first + shown.users[observed], shown.items[observed], shown.labels[observed, 0].astype(np.float64)
        first += len(block)


def _one_hot(users: Ints, items: Ints, catalogue_size: int, width: int) -> Any:
    """(impressions, width): a column for each item, then for each user; those beyond the width are left out."""
    from scipy import sparse

    rows, places = np.arange(len(items)), np.concatenate([items, catalogue_size + 1 + users])
    within = places < width
    entries = np.concatenate([rows, rows])[within], places[within]
    return sparse.csr_array((np.ones(int(within.sum())), entries), shape=(len(items), width))


def _logit(rates: Floats) -> Floats:
    found: Floats = np.log(rates / (1 - rates))
    return found


def similarity_baseline(
    items: NDArray[np.int64], features: NDArray[np.float32], catalogue_size: int, kernel: Callable[..., Tensor]
) -> RankingBaseline:
    """A kernel of the cosines between candidate and history in a frozen space; nothing is trained.

    Args:
        items: (M,) the items with content.
        features: (M, W) their features, which are centred here, because what all items share carries no information.
        kernel: of unit vectors (U, W), which of them are known (U,), rows of candidates (B,) and histories (B, L), and
            the mask of the latter.
    """
    centred = features - features.sum(axis=0) / max(1, len(features))
    unit = np.zeros((catalogue_size + 1, features.shape[1]), np.float32)
    unit[items] = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    vectors, known = torch.from_numpy(unit), torch.from_numpy(unit.any(axis=1))

    def score(asked: Any) -> Tensor:
        pool = vectors[asked.shown.items], known[asked.shown.items]
        parts = (asked.shown.part(start, start + _AT_ONCE) for start in range(0, len(asked.shown), _AT_ONCE))
        found = [kernel(*pool, part.candidates, part.history, part.history_mask) for part in parts]
        return torch.cat(found).double()[:, None]

    return score
