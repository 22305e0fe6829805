"""Writes the values of Arrow columns as texts.

A table exported by pandas or Spark has numbers where this project has texts: ids that became doubles because one was
missing, lists, structs. A number is written the same way whatever its type (7, never 7.0 or 7e+00), so that ids of two
files match; values without a plain text form are written as JSON.
"""

import json

import pyarrow as pa
import pyarrow.compute as pc

_EXACT = {16: 2.0**11, 32: 2.0**24, 64: 2.0**53}  # bits of a float type -> from this value on it skips whole numbers


def to_texts(column: pa.Array) -> pa.StringArray:
    """Texts of a column of any type: null for null and NaN, JSON for lists, structs and maps.

    Raises:
        pa.ArrowInvalid: bytes that are not UTF-8.
    """
    if pa.types.is_floating(column.type):
        return _float_texts(column)
    try:
        return _plain_texts(column)
    except pa.ArrowNotImplementedError:
        return pa.array([None if value is None else _to_json(value) for value in column.to_pylist()], pa.string())


def to_id_texts(column: pa.Array) -> pa.StringArray:
    """Texts of a column of ids, null for null, NaN and whatever `is_inexact` marks.

    Raises:
        pa.ArrowInvalid, pa.ArrowNotImplementedError: the column holds no ids, but lists or bytes, for example.
    """
    if not pa.types.is_floating(column.type):
        return _plain_texts(column)
    return pc.if_else(is_inexact(column), pa.scalar(None, pa.string()), _float_texts(column))


def is_inexact(column: pa.Array) -> pa.BooleanArray:
    """Whether each value is a float so large that a neighbouring whole number would have been stored as the same."""
    if not pa.types.is_floating(column.type):
        return pa.array([False] * len(column), pa.bool_())
    limit = _EXACT[column.type.bit_width]
    return pc.fill_null(pc.greater_equal(pc.abs(column.cast(pa.float64())), limit), False)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds bytes that need not be text."""
    types = pa.types
    return any(
        is_kind(kind)
        for is_kind in (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    )


def shown(column: pa.Array, row: int) -> str:
    """A value as shown in messages; Python has no dates before the year 1 or after 9999, and no nanoseconds."""
    try:
        return repr(column[row].as_py())
    except (ValueError, OverflowError):
        return str(column.slice(row, 1).cast(pa.int64())[0])


def _plain_texts(column: pa.Array) -> pa.StringArray:
    if not pa.types.is_decimal(column.type):
        return column.cast(pa.string())
    whole = column.cast(pa.decimal256(76, 0)) if column.type.scale < 0 else column  # else it is written as 7E+2
    digits = pc.replace_substring_regex(whole.cast(pa.string()), r"(\.[0-9]*[1-9])0+$", r"\1")
    return pc.replace_substring_regex(digits, r"\.0+$", "")


def _float_texts(column: pa.Array) -> pa.StringArray:
    numbers = column.cast(pa.float64())
    whole = pc.and_(pc.equal(numbers, pc.floor(numbers)), pc.less(pc.abs(numbers), _EXACT[64]))
    integers = pc.if_else(whole, numbers, None).cast(pa.int64()).cast(pa.string())
    others = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.string()), _shortest(column).cast(pa.string()))
    return pc.coalesce(integers, others)


def _shortest(column: pa.Array) -> pa.Array:
    """The column in a type whose text is the shortest that identifies the value: 0.1, not 0.10000000149011612."""
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
