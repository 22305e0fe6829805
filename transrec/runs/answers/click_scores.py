"""Scores of a ranking model for items that are shown to users, each at one moment.

Shape letters: N items of the catalogue (indices 1..N), n items of a request, P pairs of a request and an item.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transrec.config import ConfigError
from transrec.data.batch import Impressions
from transrec.data.examples.feature_rows import FeatureRows
from transrec.data.examples.impression_collation import Impression, columns_of, distinct_items, over_pool
from transrec.features import FeatureConfig
from transrec.features.feature import ContextFeature, UserColumnFeature
from transrec.protocols import Scorer

LATEST_SECOND = 253_402_300_799  # of the year 9999
PAIRS_AT_ONCE = 16384


@dataclass(frozen=True)
class Visit:
    """The inputs of a request in addition to the history: the user, the time, and where the items will be shown.

    Raises:
        ConfigError: the time is not a date before the year 10000.
    """

    user_id: str = ""  # an id that was not seen in training counts as unknown
    time: int = 0  # seconds since 1970
    context: Mapping[str, str | float | None] | None = None  # columns of impressions
    profile: Mapping[str, str | float | None] | None = None  # columns of users

    def __post_init__(self) -> None:
        if not 0 <= self.time <= LATEST_SECOND:
            raise ConfigError(
                f"time {str(self.time)[:20]}: give whole seconds since 1970, up to the year 9999, not milliseconds"
            )


@dataclass(frozen=True, eq=False)
class Request:
    """Items that are shown to a user on a visit."""

    history: Sequence[int]  # catalogue indices, oldest first
    visit: Visit
    items: NDArray[np.int64]  # (n,) catalogue indices
    shown: int  # number of items that the features count as shown


class _Asked(NamedTuple):
    shown: Impressions


def click_scores(
    scorer: Scorer, features: FeatureRows, requests: Iterable[Request], max_length: int, heads: int
) -> Iterator[tuple[Request, Tensor]]:
    """Each request with the first head's logits (n,) for its items; small requests share a pass.

    Raises:
        ConfigError: see `check_visit`.
    """
    for together in _grouped(requests):
        asked = columns_of([_impression(request, features, heads) for request in together], features, max_length)
        lengths = [len(request.items) for request in together]
        rows = np.repeat(np.arange(len(together)), lengths)
        items = np.concatenate([request.items for request in together])
        logits = [torch.zeros(0)]
        for start in range(0, len(items), PAIRS_AT_ONCE):
            pairs = slice(start, start + PAIRS_AT_ONCE)
            columns = asked.shown_alike(rows[pairs], items[pairs])
            logits.append(scorer(_Asked(over_pool(columns, distinct_items(columns), features)))[:, 0].cpu())
        yield from zip(together, torch.cat(logits).split(lengths), strict=True)


def _grouped(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """Groups of consecutive requests, each with at most `PAIRS_AT_ONCE` items; a larger request forms its own group."""
    together: list[Request] = []
    pairs = 0
    for request in requests:
        if together and pairs + len(request.items) > PAIRS_AT_ONCE:
            yield together
            together, pairs = [], 0
        together.append(request)
        pairs += len(request.items)
    if together:
        yield together


def _impression(request: Request, features: FeatureRows, heads: int) -> Impression:
    visit, unknown = request.visit, np.full(heads, np.nan, np.float32)
    check_visit(visit, features.settings)
    history, user_id = np.array(request.history, np.int32), _in_utf8(visit.user_id) or ""
    context, profile = _as_text(visit.context), _as_text(visit.profile)
    return Impression(user_id, 0, 1, visit.time, history, unknown, context, profile, max(1, request.shown))


def probability(logit: float) -> float:
    """The probability of a click, rounded to six decimal places."""
    return round(float(torch.sigmoid(torch.tensor(logit))), 6)


def check_visit(visit: Visit, features: Mapping[str, FeatureConfig]) -> None:
    """Refuse columns whose names look misspelt, because the intended columns would count as unknown.

    Other columns that the model does not read are allowed.

    Raises:
        ConfigError: the name of a column is similar to one that the model reads and the visit lacks.
    """
    _check_names("context", visit.context, features, ContextFeature)
    _check_names("profile", visit.profile, features, UserColumnFeature)


def _check_names(
    what: str,
    given: Mapping[str, Any] | None,
    features: Mapping[str, FeatureConfig],
    kind: type[ContextFeature | UserColumnFeature],
) -> None:
    read = {feature.column for feature in features.values() if isinstance(feature, kind)}
    for name in (given or {}).keys() - read:
        if near := get_close_matches(name, read - (given or {}).keys(), 1):
            raise ConfigError(
                f"the {what} has a column {name!r}, which the model does not read: did you mean {near[0]!r}? "
                f"Give {near[0]!r} as null if it is not known"
            )


def _as_text(columns: Mapping[str, str | float | None] | None) -> dict[str, str | None]:
    """The columns as shards store them."""
    return {name: None if value is None else _in_utf8(str(value)) for name, value in (columns or {}).items()}


def _in_utf8(text: str) -> str | None:
    """The text, or None (unknown) if it has an unpaired surrogate, which JSON can hold but shards cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return text
