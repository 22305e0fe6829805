"""Unusable rows: the reason and place of each, and the log that counts them."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol

from data_tools.errors import DataToolsError


class Reason(StrEnum):
    """Reasons for a reject, as written to the log and to `index.json`."""

    WRONG_FIELD_COUNT = "wrong_field_count"
    INVALID_UTF8 = "invalid_utf8"
    NUL_BYTE = "nul_byte"
    BAD_QUOTING = "bad_quoting"
    BAD_JSON = "bad_json"
    NOT_AN_ITEM = "not_an_item"  # an event that is not a view of an item, such as a view of the front page
    EMPTY_ID = "empty_id"
    BAD_ID = "bad_id"  # a float too large to distinguish neighbouring whole numbers
    BAD_TIMESTAMP = "bad_timestamp"
    BAD_RATING = "bad_rating"
    BAD_LABEL = "bad_label"  # neither 0 nor 1
    DUPLICATE_ITEM = "duplicate_item"
    DUPLICATE_USER = "duplicate_user"
    UNKNOWN_ITEM = "unknown_item"
    NO_TEXT = "no_text"
    MISSING_IMAGE = "missing_image"  # the item stays, without its image
    BAD_IMAGE = "bad_image"  # as above
    UNFINISHED_IMAGE = "unfinished_image"  # the item keeps its image


@dataclass(frozen=True, slots=True)
class Reject:
    """A rejected row. `line` is the number of the line where it starts, counted from 1 and including any header line;
    in a Parquet file, it is the row number, counted from 1.
    """

    file: str
    line: int
    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}: {self.detail}"


class RejectSink(Protocol):
    """Takes the rows that a source cannot use; raises if rejects are errors."""

    def __call__(self, reject: Reject, /) -> None: ...


def ignore(reject: Reject, /) -> None:
    """Discard a reject, in a pass over rows that another pass reports."""


class StrictError(DataToolsError):
    """The first reject of a strict build."""


class RejectLog:
    """Writes rejects as JSON lines and counts them by reason; if `strict`, the first one raises `StrictError`.

    `last` is the reject written last, as an example for messages.
    """

    def __init__(self, path: Path, strict: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self.last: Reject | None = None
        self.path = path
        self.strict = strict
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def __call__(self, reject: Reject, /) -> None:
        if self.strict:
            raise StrictError(str(reject))
        self.counts[reject.reason] += 1
        self.last = reject
        self._file.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")

    def take_over(self, path: Path) -> None:
        """Append the rejects in a worker's file, and remove the file."""
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                fields = json.loads(line)
                self.last = Reject(**fields | {"reason": Reason(fields["reason"])})
                self.counts[self.last.reason] += 1
                self._file.write(line)
        path.unlink()

    def __enter__(self) -> "RejectLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
