"""Filters that choose the interactions and users to build, the same for every source.

Rows are filtered by date and rating as they are read. Once all rows of a user are together, users are filtered by
length, and users and items by the k-core. Items stay in the catalogue even if they have no interactions left.
Impressions are filtered by date and dropped with their users; impressions of items outside the core stay.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_tools.histories import Histories


@dataclass(frozen=True)
class Filters:
    """The filters of a build; None turns a filter off."""

    since: datetime | None = None
    until: datetime | None = None
    min_rating: float | None = None
    min_length: int | None = None
    k_core: int | None = None

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group(
            "filters",
            "index.json records how many interactions and impressions each filter drops; items are never dropped, "
            "because models that read content can recommend new and rare ones",
        )
        group.add_argument("--since", type=_date, metavar="DATE", help="only rows from this date on (UTC)")
        group.add_argument("--until", type=_date, metavar="DATE", help="only rows from before this date (UTC)")
        group.add_argument("--min-rating", type=_finite, metavar="R", help="only interactions rated R or more")
        group.add_argument("--min-length", type=positive, metavar="N", help="only users with N interactions or more")
        group.add_argument(
            "--k-core",
            type=positive,
            metavar="K",
            help="only interactions of users and items that have K or more, repeated until none has fewer; "
            "the other items stay in the catalogue, without interactions",
        )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(**{name: getattr(arguments, name) for name in cls.__dataclass_fields__})

    def options(self) -> dict[str, Any]:
        """The filters that are set, for `index.json`."""
        chosen = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in chosen.items()}

    @property
    def user_minimum(self) -> int:
        """Minimum number of interactions of every remaining user."""
        return max(self.min_length or 1, self.k_core or 1)

    def of_impressions(self) -> Self:
        """These filters without `min_rating`, which does not apply to impressions."""
        return replace(self, min_rating=None)

    def keep_rows(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, Counter[str]]:
        """The rows that pass, and how many each filter drops; an unrated row fails `min_rating`."""
        dropped: Counter[str] = Counter()
        for name, passes in self._row_filters():
            kept = rows.filter(passes)
            dropped[name] = len(rows) - len(kept)
            rows = kept
        return rows, dropped

    def keep_users(self, histories: Histories, core: NDArray[np.bool_] | None) -> tuple[Histories, Counter[str]]:
        """The users that pass, and how many interactions each filter drops; `core` marks the items of the k-core."""
        dropped: Counter[str] = Counter()
        if self.min_length is not None:
            kept = histories.keep_users(histories.lengths >= self.min_length)
            dropped["min_length"] = len(histories.items) - len(kept.items)
            histories = kept
        if core is not None:
            kept = histories.keep(core[histories.items])
            kept = kept.keep_users(kept.lengths >= self.user_minimum)
            dropped["k_core"] = len(histories.items) - len(kept.items)
            histories = kept
        return histories, dropped

    def keep_shown(self, shown: Histories, read: Histories, kept: Histories) -> tuple[Histories, Counter[str]]:
        """The impressions of users who pass, and how many impressions each filter drops, given the interactions
        before and after `keep_users`: `read` and `kept`."""
        dropped: Counter[str] = Counter()
        passing = {}
        if self.min_length is not None:
            passing["min_length"] = read.user_ids.filter(pa.array(read.lengths >= self.min_length))
        if self.k_core is not None:
            passing["k_core"] = kept.user_ids
        for name, user_ids in passing.items():
            remaining = shown.keep_users(pc.is_in(shown.user_ids, user_ids).to_numpy(zero_copy_only=False))
            dropped[name] = len(shown.rows) - len(remaining.rows)
            shown = remaining
        return shown, dropped

    def _row_filters(self) -> Iterator[tuple[str, pc.Expression]]:
        if self.since is not None:
            yield "since", pc.field("timestamp") >= math.ceil(self.since.timestamp())
        if self.until is not None:
            yield "until", pc.field("timestamp") < math.ceil(self.until.timestamp())
        if self.min_rating is not None:
            yield "min_rating", pc.field("rating") >= pa.scalar(self.min_rating, pa.float32())


NO_FILTERS = Filters()


def _date(text: str) -> datetime:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2024-05-31 or 2024-05-31T12:00") from None
    return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def positive(text: str) -> int:
    """The type of an argument that is a count."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return value
