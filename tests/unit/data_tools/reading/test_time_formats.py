from datetime import UTC, datetime

import pyarrow as pa
import pytest

from data_tools.reading.typed_columns import to_seconds


def read(form: str, *texts: str | None) -> list[str | None]:
    """The times read, as ISO dates and times in UTC."""
    seconds = to_seconds(pa.array(texts, pa.string()), form).to_pylist()
    return [None if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M") for time in seconds]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2025-08-14", "2025-08-14 00:00"),
        ("2025-08-14T13:40", "2025-08-14 13:40"),
        ("2025-08-14 13:40:59.123456", "2025-08-14 13:40"),
        ("2025-08-14T13:40:00Z", "2025-08-14 13:40"),
        ("2025-08-14T13:40:00+05:30", "2025-08-14 08:10"),
        ("2025-08-14 20:00-0500", "2025-08-15 01:00"),
        ("2025-08-14T13:40:00 +02", "2025-08-14 11:40"),
        ("2024-02-29", "2024-02-29 00:00"),
        ("2025-02-29", None),
        ("2025-02-31T10:00:00+01:00", None),
        ("2025-08-14T25:00", None),
        ("2025-13-01", None),
        ("14.08.2025", None),
        ("2025-08-14 noon", None),
        ("1755178800", None),
        ("", None),
        (None, None),
    ],
)
def test_iso_dates_and_times_may_be_mixed(text: str | None, time: str | None) -> None:
    assert read("iso", text, "2020-01-01", text) == [time, "2020-01-01 00:00", time]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("%Y-%m-%d", "2020-02-31"),
        ("%Y-%m-%d", "2019-02-29"),
        ("%Y%m%d", "20200431"),
        ("%m/%d/%Y %I:%M:%S %p", "11/31/2019 8:55:22 AM"),
        ("%d %b %Y", "30 February 2020"),
        ("%D %R", "06/31/20 10:00"),
        ("%Y-%m-%dT%H:%M:%S%z", "2020-02-30T23:00:00-0500"),
        ("%Y-%m-%d %H:%M %z", "2020-02-30 23:00 +01:00"),
    ],
)
def test_a_day_that_its_month_does_not_have_is_no_time(form: str, text: str) -> None:
    assert read(form, text, None) == [None, None]


@pytest.mark.parametrize(
    ("form", "text", "time"),
    [
        ("%Y-%m-%d", "2020-02-29", "2020-02-29 00:00"),
        ("%Y-%m-%d", "2020-3-1", "2020-03-01 00:00"),
        ("%Y-%m-%d", " 2020-03-02", "2020-03-02 00:00"),
        ("%m/%d/%Y %I:%M:%S %p", "11/3/2019 8:05:22 PM", "2019-11-03 20:05"),
        ("%d %b %Y", "1 march 2020", "2020-03-01 00:00"),
        ("%Y-%j", "2020-061", "2020-03-01 00:00"),
        ("%Y-%m", "2020-03", "2020-03-01 00:00"),
        ("%s", "1583020800", "2020-03-01 00:00"),
        ("%Y-%m-%dT%H:%M:%S%z", "2020-03-01T00:30:00+0100", "2020-02-29 23:30"),
        ("%Y-%m-%dT%H:%M:%S%z", "2020-03-01T00:30:00Z", "2020-03-01 00:30"),
        ("%z %Y-%m-%d", "+0100 2020-03-01", "2020-02-29 23:00"),
    ],
)
def test_the_first_days_of_a_month_are_read_as_strptime_writes_and_takes_them(form: str, text: str, time: str) -> None:
    assert read(form, "x", text) == [None, time]
