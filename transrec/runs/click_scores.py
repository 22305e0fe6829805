"""Scores of a ranking model over a catalogue, for one user at one moment.

Shape letters: N items of the catalogue (indices 1..N), n items of a call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from transrec.config import ConfigError
from transrec.data.batch import Impressions
from transrec.data.examples.feature_rows import FeatureRows
from transrec.data.examples.impression_collation import Impression, columns_of, over_pool
from transrec.features import FeatureConfig
from transrec.features.feature import ContextFeature, UserColumnFeature
from transrec.protocols import Score, Scorer

LATEST_SECOND = 253_402_300_799  # of the year 9999


@dataclass(frozen=True)
class Visit:
    """The inputs of a request besides the history: the user, the time, and where the items will be shown.

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
                f"time {str(self.time)[:20]}: give whole seconds from 1970 to the year 9999, not milliseconds"
            )


class _Asked(NamedTuple):
    shown: Impressions


def click_scores(
    scorer: Scorer,
    features: FeatureRows,
    history: Sequence[int],
    visit: Visit,
    choices: int,
    max_length: int,
    heads: int,
) -> Score:
    """A function of a and b that returns the first head's logits (1, n) for the items a..b-1, shown on this visit.

    Args:
        history: catalogue indices, oldest first.
        choices: number of items that are ranked.

    Raises:
        ConfigError: see `check_visit`.
    """
    check_visit(visit, features.settings)
    before, unknown = np.array(history, np.int32), np.full(heads, np.nan, np.float32)
    newest = np.unique(before[-max_length:]).astype(np.int64)
    context, profile = _as_text(visit.context), _as_text(visit.profile)
    impression = Impression(_in_utf8(visit.user_id) or "", 0, 1, visit.time, before, unknown, context, profile, choices)
    alike = columns_of([impression], features, max_length)

    def score(a: int, b: int) -> Tensor:
        asked = np.arange(a, b)
        shown = over_pool(alike.shown_alike(asked), np.union1d(asked, newest), features)
        logits: Tensor = scorer(_Asked(shown))
        return logits[:, :1].T

    return score


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
