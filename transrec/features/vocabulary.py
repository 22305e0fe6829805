"""Vocabularies, which map a feature's values to the rows of its embedding table.

Row 0 stands for all values that training has not seen.
"""

import hashlib
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from transrec.config import Config

Ints = NDArray[np.int64]


class Values(Config):
    """A row for each value that training has seen, in the order of the strings."""

    kind: Literal["values"] = Field("values", description="a row for each value")
    values: list[str] = Field(description="the values, sorted")

    @classmethod
    def of(cls, batches: Iterable[pa.StringArray]) -> "Values":
        """The distinct values of all batches, without nulls."""
        found: set[str] = set()
        for batch in batches:
            found.update(pc.drop_null(pc.unique(batch)).to_pylist())
        return cls(values=sorted(found))

    @property
    def size(self) -> int:
        return len(self.values)

    def rows(self, values: pa.StringArray) -> Ints:
        """The row 0..size of each value."""
        return _by_distinct(values, lambda value: self._rows.get(value, 0))

    @cached_property
    def _rows(self) -> dict[str, int]:  # built once: there may be millions
        return {value: row for row, value in enumerate(self.values, start=1)}


class Bands(Config):
    """A row for each band of numbers; values that are not numbers have row 0."""

    kind: Literal["bands"] = Field("bands", description="a row for each band of numbers")
    ends: list[float] = Field(description="upper bounds of the bands, ascending; a band includes its upper bound")

    @property
    def size(self) -> int:
        return len(self.ends) + 1

    def rows(self, values: pa.StringArray) -> Ints:
        """The row 0..size of each value."""
        return _by_distinct(values, self._row)

    def _row(self, value: str) -> int:
        number = _number(value)
        return 0 if math.isnan(number) else 1 + bisect_left(self.ends, number)


class Buckets(Config):
    """Rows chosen by a hash of the value, so that values may share a row; nothing is counted."""

    kind: Literal["buckets"] = Field("buckets", description="rows chosen by a hash")
    size: int = Field(ge=1, description="number of rows, not counting the one for unknown values")

    def rows(self, values: pa.StringArray) -> Ints:
        """The row 1..size of each value; 0 for null."""
        return _by_distinct(values, lambda value: 1 + _hash(value) % self.size)


Vocabulary = Annotated[Values | Bands | Buckets, Field(discriminator="kind")]


def _by_distinct(values: pa.StringArray, row: Callable[[str], int]) -> Ints:
    """The row of each value; 0 for null."""
    distinct = values.dictionary_encode()
    rows = np.array([*map(row, distinct.dictionary.to_pylist()), 0], np.int64)
    found: Ints = rows[pc.fill_null(distinct.indices, len(rows) - 1).to_numpy(zero_copy_only=False)]
    return found


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _hash(value: str) -> int:
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")
