"""Vocabularies: from a feature's values to the rows of its embedding table.

Row 0 stands for all values that training has not seen.
"""

import hashlib
from collections.abc import Iterable
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

    kind: Literal["values"] = "values"
    values: list[str]

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
        places = pc.index_in(values, pa.array(self.values, pa.string()))
        found: Ints = pc.fill_null(places, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        return found


class Bands(Config):
    """A row for each band of numbers; what is no number has row 0."""

    kind: Literal["bands"] = "bands"
    ends: list[float]  # ascending; a band holds its upper end

    @property
    def size(self) -> int:
        return len(self.ends) + 1

    def rows(self, values: pa.StringArray) -> Ints:
        """The row 0..size of each value."""
        numbers = np.array([_number(value) for value in values.to_pylist()], np.float64)
        found: Ints = np.where(np.isnan(numbers), 0, 1 + np.searchsorted(self.ends, numbers)).astype(np.int64)
        return found


class Buckets(Config):
    """Rows chosen by a hash of the value, so that values share them; nothing is counted."""

    kind: Literal["buckets"] = "buckets"
    size: int

    def rows(self, values: pa.StringArray) -> Ints:
        """The row 1..size of each value; 0 for null."""
        distinct = values.dictionary_encode()
        hashed = [0 if value is None else 1 + _hash(value) % self.size for value in distinct.dictionary.to_pylist()]
        places = pc.fill_null(distinct.indices, len(hashed)).to_numpy(zero_copy_only=False)
        found: Ints = np.array([*hashed, 0], np.int64)[places]
        return found


Vocabulary = Annotated[Values | Bands | Buckets, Field(discriminator="kind")]


def _number(value: str | None) -> float:
    try:
        return float(value) if value is not None else np.nan
    except ValueError:
        return np.nan


def _hash(value: str) -> int:
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")
