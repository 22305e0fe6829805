"""The kinds of features, and how each builds its vocabulary."""

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from transrec.config import Config
from transrec.features.vocabulary import Bands, Buckets, Values, Vocabulary

_HOURS, _DAYS = 24, 7
_SECONDS = 3600
_SIZES = 24  # bands of request sizes, two per doubling: the last begins at about 2,900 items


class Feature(Config):
    """Settings that every feature has."""

    owner: ClassVar[Literal["user", "item", "impression"]]
    width: int = Field(16, ge=1, description="width of its embedding")

    def count(self, values: Iterable[pa.StringArray]) -> Vocabulary:
        """The vocabulary of a feature whose training values are `values`, batch by batch."""
        raise NotImplementedError


class IdFeature(Feature):
    """A feature with a value for every user or item: the id itself."""

    unknown: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the ids that training replaces by the unknown id, to train the vector of that id",
    )
    buckets: int | None = Field(
        None, ge=2, description="number of table rows, chosen by a hash; null: a row for each id"
    )

    def count(self, values: Iterable[pa.StringArray]) -> Vocabulary:
        return Buckets(size=self.buckets) if self.buckets else Values.of(values)


class UserIdFeature(IdFeature):
    """The user's id."""

    of: Literal["user_id"] = Field("user_id", description="what the feature describes")
    owner = "user"


class ItemIdFeature(IdFeature):
    """The item's id."""

    of: Literal["item_id"] = Field("item_id", description="what the feature describes")
    owner = "item"


class ColumnFeature(Feature):
    """A column of the data."""

    column: str = Field(description="name of the column")
    several: str | None = Field(
        None, min_length=1, description="separator of several values in a field; null: a single value"
    )
    bands: list[float] | None = Field(
        None, min_length=1, description="upper bounds of the bands into which numbers are grouped; null: no bands"
    )
    buckets: int | None = Field(
        None, ge=2, description="number of table rows, chosen by a hash; null: a row for each value"
    )
    unknown: ClassVar[float] = 0.0

    @model_validator(mode="after")
    def _one_kind(self) -> "ColumnFeature":
        if self.bands is not None and self.buckets is not None:
            raise ValueError("bands and buckets are both set: set bands for numbers, or buckets for many values")
        if self.bands is not None and sorted(set(self.bands)) != self.bands:
            raise ValueError(f"bands must be strictly ascending, without duplicates; found {self.bands}")
        return self

    def split(self, values: pa.StringArray) -> pa.ListArray:
        """The values of each row; none for a row that is null or empty."""
        rows = (
            [] if not value else [value] if self.several is None else value.split(self.several)
            for value in values.to_pylist()
        )
        return pa.array([[value.strip() for value in row if value.strip()] for row in rows], pa.list_(pa.string()))

    def count(self, values: Iterable[pa.StringArray]) -> Vocabulary:
        if self.bands is not None:
            return Bands(ends=self.bands)
        if self.buckets:
            return Buckets(size=self.buckets)
        return Values.of(self.split(batch).flatten() for batch in values)


class ItemColumnFeature(ColumnFeature):
    """A column of the items."""

    of: Literal["item"] = Field("item", description="what the feature describes")
    owner = "item"


class UserColumnFeature(ColumnFeature):
    """A column of the users' profiles."""

    of: Literal["user"] = Field("user", description="what the feature describes")
    owner = "user"


class ContextFeature(ColumnFeature):
    """A column of the impressions, such as the position on the page."""

    of: Literal["context"] = Field("context", description="what the feature describes")
    when_serving: str | None = Field(None, description="value used when nothing is shown yet; null: unknown")
    owner = "impression"


class TimeFeature(Feature):
    """The hour of the day or the day of the week of an impression, in UTC."""

    of: Literal["time"] = Field("time", description="what the feature describes")
    part: Literal["hour", "weekday"] = Field(description="hour of the day, or day of the week")
    owner = "impression"
    unknown: ClassVar[float] = 0.0

    def count(self, values: Iterable[pa.StringArray]) -> Vocabulary:
        return Buckets(size=_HOURS if self.part == "hour" else _DAYS)

    def rows(self, timestamps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The table row of each timestamp (seconds since 1970): 1..24 for the hour, 1..7 for the weekday."""
        hours = timestamps // _SECONDS
        found: NDArray[np.int64] = 1 + (hours % _HOURS if self.part == "hour" else hours // _HOURS % _DAYS)
        return found


class RequestFeature(Feature):
    """The number of items that a request showed, in bands, two per doubling; in large requests, clicks are rarer."""

    of: Literal["request"] = Field("request", description="what the feature describes")
    owner = "impression"
    unknown: ClassVar[float] = 0.0

    def count(self, values: Iterable[pa.StringArray]) -> Vocabulary:
        return Buckets(size=_SIZES)

    def rows(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The table row, 1.._SIZES, of each request size, which is at least 1."""
        found: NDArray[np.int64] = 1 + np.floor(2 * np.log2(sizes)).astype(np.int64).clip(max=_SIZES - 1)
        return found
