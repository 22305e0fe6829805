"""Times written as texts, by ISO 8601 or in a format of strptime."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.source import SourceError

ISO = "iso"
_EXAMPLE = "--time-format iso, or '%d.%m.%Y %H:%M'"
GIVE_FORMAT = f", a time written as text: give its format, such as {_EXAMPLE}"  # remarks of rejects
READ_AS_CSV = f", a time written as text: read it with --source csv and its format, such as {_EXAMPLE}"
_WITH_YEAR, _WITH_DAY = set("YyFDcxs"), set("deFDcx")  # directives
_ISO = (
    r"^\s*(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?P<minute>[0-9]{2}:[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,][0-9]+)?)?"
    r"\s?(?:Z|(?P<sign>[+-])(?P<hours>[01][0-9]|2[0-3])(?::?(?P<minutes>[0-5][0-9]))?)?)?\s*$"
)
_ZONE = r"\s*(Z|[+-][0-9]{2}(:?[0-9]{2})?)\s*$"


def require_time_format(form: str) -> None:
    """Raise SourceError if times in this format cannot be read, or have no year."""
    if form == ISO:
        return
    directives = _directives(form)
    if "f" in directives:
        raise SourceError(f"--time-format {form!r}: fractions of a second (%f) are not supported")
    if "Z" in directives:
        raise SourceError(f"--time-format {form!r}: names of time zones (%Z) are not supported, only offsets (%z)")
    if not directives & _WITH_YEAR:
        raise SourceError(f"--time-format {form!r} has no year: give a full date, as in '%Y-%m-%d %H:%M:%S'")


def parse_times(texts: pa.StringArray, form: str) -> pa.Int64Array:
    """Seconds since 1970, null where the text is not in the format, or its month has no such day (31 February)."""
    if form == ISO:
        return _parse_iso(texts)
    seconds = _strptime(texts, form).cast(pa.int64())
    return pc.if_else(_is_impossible(texts, form), None, seconds)


def _parse_iso(texts: pa.StringArray) -> pa.Int64Array:
    """Dates, and dates with times, in UTC unless an offset follows. Fractions of a second are cut off."""
    found = pc.extract_regex(texts, _ISO)
    day, minute, second, sign, hours, minutes = (
        pc.struct_field(found, name) for name in ("day", "minute", "second", "sign", "hours", "minutes")
    )
    minute, second = (_or(part, blank) for part, blank in ((minute, "00:00"), (second, "00")))
    written = pc.binary_join_element_wise(pc.binary_join_element_wise(day, minute, " "), second, ":")
    offset = pc.add(
        pc.multiply(_or(hours, "0").cast(pa.int64()), 3600), pc.multiply(_or(minutes, "0").cast(pa.int64()), 60)
    )
    local = parse_times(written, "%Y-%m-%d %H:%M:%S")
    return pc.if_else(pc.equal(sign, "-"), pc.add(local, offset), pc.subtract(local, offset))


def _or(texts: pa.StringArray, blank: str) -> pa.StringArray:
    """The texts, with `blank` in place of empty ones."""
    return pc.if_else(pc.equal(texts, ""), blank, texts)


def _is_impossible(texts: pa.StringArray, form: str) -> pa.BooleanArray:
    """Whether strptime read a day that the month does not have, as one of the first three days of the next month.

    Written back, such a time has other numbers. An offset from UTC is ignored if it ends the format.
    """
    if "z" in _directives(form) and form.endswith("%z"):
        form, texts = form.removesuffix("%z").rstrip(), pc.replace_substring_regex(texts, _ZONE, "")
    impossible = np.zeros(len(texts), bool)
    if "z" not in _directives(form) and _directives(form) & _WITH_DAY:
        times = _strptime(texts, form)
        early = np.flatnonzero(pc.fill_null(pc.less_equal(pc.day(times), 3), False))
        written, given = (_numbers(column) for column in (pc.strftime(times.take(early), form), texts.take(early)))
        impossible[early] = pc.not_equal(written, given).to_numpy(zero_copy_only=False)
    return pa.array(impossible)


def _strptime(texts: pa.StringArray, form: str) -> pa.TimestampArray:
    return pc.strptime(texts, format=form, unit="s", error_is_null=True)


def _numbers(texts: pa.StringArray) -> pa.StringArray:
    """The numbers without leading zeros, as strptime takes 3 for 03 and March for Mar."""
    numbers = pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, "[^0-9]+", " "))
    return pc.replace_substring_regex(numbers, r"\b0+([0-9])", r"\1")


def _directives(form: str) -> set[str]:
    """The letters of the directives: Y of %Y, d of %-d."""
    return set(re.findall(r"%[-_^#0EO]?(.)", form))
