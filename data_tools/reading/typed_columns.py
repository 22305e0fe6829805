"""Converts raw columns to interaction columns, impression columns or strings, and rejects rows that cannot be parsed.

Whole columns are cast at once; only the rows that fail are examined one by one.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.reading.column_texts import is_inexact, shown, to_id_texts, to_texts
from data_tools.reading.time_formats import parse_times
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.source import IMPRESSION_COLUMNS, INTERACTION_COLUMNS, Batch, SourceError
from transrec.data.shards.schema import CONTEXT_PREFIX, LABEL_PREFIX

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # time units per second
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # the years 1 to 9999
_YES, _NO = ("1", "1.0", "true"), ("0", "0.0", "false", "")
_LABELS = ", expected 1 or true, 0 or false, or nothing where it was not observed"
_INTEGER = r"^[+-]?[0-9]{1,18}$"
_DATE = r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"


class Failure(NamedTuple):
    """Rows that cannot be used: `mask` marks them; `column`, called `name`, has the values that show why."""

    reason: Reason
    mask: pa.BooleanArray
    name: str
    column: pa.Array
    remark: str = ""  # ends the detail of the reject


def to_interactions(batch: Batch, reject: RejectSink, time: str = "s", on_dates: str = "") -> Batch:
    """Convert user_id, item_id, timestamp (as `to_seconds` does) and, if present, rating; reject rows that fail.

    Args:
        on_dates: a remark on dates where a number is expected.
    """
    rows = batch.rows
    ids = [_to_ids(batch, name) for name in ("user_id", "item_id")]
    raw_rating = _to_measured(batch, "rating") if "rating" in rows.schema.names else pa.nulls(len(rows), pa.string())
    raw_time = _to_plain(batch, "timestamp")
    timestamp, rating = to_seconds(raw_time, time), _to_rating(raw_rating)
    failures = [
        *_id_failures(batch, "user_id", ids[0]),
        *_id_failures(batch, "item_id", ids[1]),
        *time_failures(timestamp, raw_time, time, on_dates=on_dates),
        Failure(Reason.BAD_RATING, pc.and_not(pc.is_null(rating), is_empty(raw_rating)), "rating", raw_rating),
    ]
    typed = pa.RecordBatch.from_arrays([*ids, timestamp, rating], schema=INTERACTION_COLUMNS)
    return without_failures(Batch(batch.file, batch.lines, typed), failures, reject)


def label_columns(names: Sequence[str]) -> dict[str, str]:
    """Head -> column of the labels among columns of impressions: all `label_<head>`, or if there is none, `click`."""
    labels = {name.removeprefix(LABEL_PREFIX): name for name in names if name.startswith(LABEL_PREFIX)}
    return labels or {name: name for name in names if name == "click"}


def require_labels(path: Path, columns: Sequence[str]) -> None:
    """Raise SourceError if impressions in this file, with these columns, have no label or one without a name."""
    labels = label_columns(columns)
    if not labels or "" in labels:
        raise SourceError(f"{path}: needs a column click, or columns label_<head>; it has {', '.join(columns)}")


def remark_labels(path: Path, columns: Sequence[str]) -> None:
    """Warn if interactions in this file, with these columns, look like a log of impressions."""
    if labels := label_columns(columns):
        print(
            f"transrec data: {path}: ignoring labels ({', '.join(labels.values())}); every row counts as an "
            "interaction. If the file also lists items that were shown but not clicked, provide it as impressions.",
            file=sys.stderr,
        )


def not_read(columns: Iterable[str]) -> dict[str, Any]:
    """The entry in `index.json` about these columns of interactions, which nothing reads; empty if there are none."""
    names = sorted(set(columns))
    return {"not_read": names} if names else {}


def to_impressions(batch: Batch, reject: RejectSink, time: str = "s", on_dates: str = "") -> Batch:
    """Convert user_id, item_id, timestamp (as `to_seconds` does), request_id if present, and `label_columns`; all other
    columns are context. Labels are 0, 1, false, true, or empty where nothing was observed. Rows that fail are
    rejected; `on_dates` is as in `to_interactions`."""
    rows, labels = batch.rows, label_columns(batch.rows.schema.names)
    ids = [_to_ids(batch, name) for name in ("user_id", "item_id")]
    raw_time = _to_plain(batch, "timestamp")
    timestamp = to_seconds(raw_time, time)
    failures = [
        *_id_failures(batch, "user_id", ids[0]),
        *_id_failures(batch, "item_id", ids[1]),
        *time_failures(timestamp, raw_time, time, on_dates=on_dates),
    ]
    read = set(labels.values()) | set(IMPRESSION_COLUMNS.names)
    context = [name for name in rows.schema.names if name not in read]
    requests = _to_known(batch, "request_id") if "request_id" in rows.schema.names else pa.nulls(len(rows), pa.string())
    columns = [*ids, timestamp, requests]
    for column in labels.values():
        raw = _to_measured(batch, column)
        label = _to_label(raw)
        columns.append(label)
        failures.append(Failure(Reason.BAD_LABEL, pc.and_not(pc.is_null(label), is_empty(raw)), column, raw, _LABELS))
    columns += [_to_known(batch, name) for name in context]
    added = [(LABEL_PREFIX + head, pa.float32()) for head in labels]
    added += [(CONTEXT_PREFIX + name, pa.string()) for name in context]
    typed = pa.RecordBatch.from_arrays(columns, schema=pa.schema([*IMPRESSION_COLUMNS, *added]))
    return without_failures(Batch(batch.file, batch.lines, typed), failures, reject)


def clicked(impressions: Batch) -> Batch:
    """The interactions among impressions (from `to_impressions`): those whose first label is 1."""
    rows, label = impressions.rows, next(n for n in impressions.rows.schema.names if n.startswith(LABEL_PREFIX))
    chosen = pc.fill_null(pc.equal(rows[label], 1), False)
    kept = rows.filter(chosen)
    columns = [kept["user_id"], kept["item_id"], kept["timestamp"], pa.nulls(len(kept), pa.float32())]
    found = pa.RecordBatch.from_arrays(columns, schema=INTERACTION_COLUMNS)
    return Batch(impressions.file, impressions.lines.filter(chosen), found)


def to_strings(batch: Batch, id_column: str, reject: RejectSink) -> Batch:
    """Write every column as texts (see `to_texts`), nulls as empty ones; reject rows without an id."""
    names = batch.rows.schema.names
    ids = _to_ids(batch, id_column)
    columns = [ids if name == id_column else pc.fill_null(_to_string(batch, name), "") for name in names]
    rows = pa.RecordBatch.from_arrays(columns, names)
    return without_failures(Batch(batch.file, batch.lines, rows), _id_failures(batch, id_column, ids), reject)


def iterate_rows(batch: Batch) -> Iterator[tuple[int, dict[str, str]]]:
    """Iterate over pairs (line number, row as a dict)."""
    return zip(batch.lines.to_pylist(), batch.rows.to_pylist(), strict=True)


def without_failures(batch: Batch, failures: list[Failure], reject: RejectSink) -> Batch:
    """Reject each row that any failure marks, for the first that marks it."""
    failed = np.array([failure.mask.to_numpy(zero_copy_only=False) for failure in failures])
    bad = failed.any(axis=0)
    if not bad.any():
        return batch
    for row in np.flatnonzero(bad):
        reason, _, name, column, remark = failures[int(failed[:, row].argmax())]
        reject(Reject(batch.file, batch.lines[row].as_py(), reason, f"{name} is {shown(column, int(row))}{remark}"))
    keep = pa.array(~bad)
    return Batch(batch.file, batch.lines.filter(keep), batch.rows.filter(keep))


def is_empty(column: pa.Array) -> pa.BooleanArray:
    """Whether each value is null, NaN or a string of only white space."""
    if not pa.types.is_string(column.type):
        return pc.is_null(column, nan_is_null=True)
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)


def to_seconds(column: pa.Array, time: str = "s") -> pa.Int64Array:
    """Seconds since 1970, null where the value is not a time; fractions of a second are cut off.

    A number outside the years 1 to 9999 is not a time: it is almost always in another unit.

    Numbers, also as text, are in the unit `time` of `UNITS`; any other `time` is the strptime format of texts in UTC.
    Columns of dates or timestamps have their own unit.
    """
    if _has_unit(column.type):
        zone = getattr(column.type, "tz", None)
        seconds = column.cast(pa.timestamp("s", zone), safe=False).cast(pa.int64())
    elif time in UNITS:
        seconds = _divide(_to_integers(column), UNITS[time])
    else:
        seconds = parse_times(column, time)
    return pc.if_else(_is_date(seconds), seconds, None)


def time_failures(
    seconds: pa.Int64Array, column: pa.Array, time: str, name: str = "timestamp", on_dates: str = ""
) -> list[Failure]:
    """The rows of `column` that `to_seconds` did not convert; remarks point out numbers in the wrong unit and texts in
    another format."""
    missing = pc.is_null(seconds)
    failures = [Failure(Reason.BAD_TIMESTAMP, missing, name, column)]
    if _has_unit(column.type) or not pc.any(missing).as_py():
        return failures
    if time not in UNITS:
        written = pc.and_not(missing, is_empty(column))
        return [Failure(Reason.BAD_TIMESTAMP, written, name, column, f", not in the time format {time!r}"), *failures]
    far = pc.and_(missing, pc.is_valid(_to_integers(column)))
    remark = f", no date between the years 1 and 9999 in {time}; give its unit with --timestamp-unit"
    failures.insert(0, Failure(Reason.BAD_TIMESTAMP, far, name, column, remark))
    if on_dates and pa.types.is_string(column.type):
        dates = pc.and_(missing, pc.fill_null(pc.match_substring_regex(column, _DATE), False))
        failures.insert(0, Failure(Reason.BAD_TIMESTAMP, dates, name, column, on_dates))
    return failures


def to_flags(column: pa.Array) -> pa.BooleanArray:
    """Whether each text means yes (1, 1.0, true) or no (0, 0.0, false, nothing), in any case; null for other texts."""
    text = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    yes, no = (pc.is_in(text, pa.array(words)) for words in (_YES, _NO))
    return pc.if_else(pc.or_(yes, no), yes, None)


def _has_unit(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _is_date(seconds: pa.Int64Array) -> pa.BooleanArray:
    return pc.and_(pc.greater_equal(seconds, FIRST_SECOND), pc.less_equal(seconds, LAST_SECOND))


def _divide(numbers: pa.Int64Array, per_second: int) -> pa.Int64Array:
    if per_second == 1:
        return numbers
    seconds = numbers.fill_null(0).to_numpy() // per_second
    return pa.array(seconds, mask=numbers.is_null().to_numpy(zero_copy_only=False))


def _id_failures(batch: Batch, name: str, ids: pa.StringArray) -> list[Failure]:
    raw = batch.rows[name]
    remark = ", a float too large to be exact: write ids as integers or as text"
    return [
        Failure(Reason.BAD_ID, is_inexact(raw), name, raw, remark),
        Failure(Reason.EMPTY_ID, is_empty(ids), name, raw),
    ]


def _to_ids(batch: Batch, name: str) -> pa.StringArray:
    try:
        return to_id_texts(batch.rows[name])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(f"{batch.file}, column {name}: {error}") from None


def _to_string(batch: Batch, name: str) -> pa.StringArray:
    try:
        return to_texts(batch.rows[name])
    except pa.ArrowInvalid as error:
        raise SourceError(f"{batch.file}, column {name}: {error}") from None


def _to_known(batch: Batch, name: str) -> pa.StringArray:
    """The column as strings, null where it is empty."""
    column = _to_string(batch, name)
    return pc.if_else(is_empty(column), pa.scalar(None, pa.string()), column)


def _to_plain(batch: Batch, name: str) -> pa.Array:
    """The column unchanged if it holds numbers or times, otherwise as strings."""
    column = batch.rows[name]
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_date, pa.types.is_timestamp)
    return column if any(is_kind(column.type) for is_kind in kinds) else _to_ids(batch, name)


def _to_measured(batch: Batch, name: str) -> pa.Array:
    """As `_to_plain`, with true as 1 and false as 0."""
    column = batch.rows[name]
    return column.cast(pa.int8()) if pa.types.is_boolean(column.type) else _to_plain(batch, name)


def _to_integers(column: pa.Array) -> pa.Int64Array:
    """The integers, with fractions cut off; null where the value is not a number that fits 64 bits."""
    if pa.types.is_signed_integer(column.type):
        return column.cast(pa.int64())
    if pa.types.is_floating(column.type):
        return _floor(column.cast(pa.float64()))
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    # Without the pattern, Arrow would also read 0x10; with the +, it would read nothing.
    integers = pc.utf8_ltrim(_matching(text, _INTEGER), "+").cast(pa.int64())
    if not integers.null_count:
        return integers
    return pc.coalesce(integers, _floor(_matching(text, _NUMBER).cast(pa.float64())))


def _floor(numbers: pa.DoubleArray) -> pa.Int64Array:
    fits = pc.less(pc.abs(numbers), float(2**62))  # false for NaN
    return pc.if_else(fits, pc.floor(numbers), None).cast(pa.int64())


def _to_rating(column: pa.Array) -> pa.FloatArray:
    """The ratings, null where the value is empty or not a finite number."""
    if pa.types.is_string(column.type):
        column = _matching(pc.utf8_trim_whitespace(column), _NUMBER).cast(pa.float64())
    numbers = column.cast(pa.float32(), safe=False)
    return pc.if_else(pc.is_finite(numbers), numbers, None)


def _to_label(column: pa.Array) -> pa.FloatArray:
    """The labels, null where the value is empty or neither 0 nor 1; texts may also be false and true, in any case."""
    if pa.types.is_string(column.type):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(column))
        column = pc.if_else(pc.equal(text, "true"), "1", pc.if_else(pc.equal(text, "false"), "0", text))
    numbers = _to_rating(column)
    return pc.if_else(pc.or_(pc.equal(numbers, 0), pc.equal(numbers, 1)), numbers, pa.scalar(None, pa.float32()))


def _matching(text: pa.StringArray, pattern: str) -> pa.StringArray:
    return pc.if_else(pc.match_substring_regex(text, pattern), text, pa.scalar(None, pa.string()))
