import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from transrec.config import Config, ConfigError, validate
from transrec.features import FeatureConfig
from transrec.features.feature import (
    ContextFeature,
    ItemColumnFeature,
    ItemIdFeature,
    RequestFeature,
    TimeFeature,
    UserColumnFeature,
    UserIdFeature,
)
from transrec.features.vocabulary import Bands, Buckets, Values


class Features(Config):
    features: dict[str, FeatureConfig]


def strings(*values: str | None) -> pa.StringArray:
    return pa.array(values, pa.string())


@pytest.mark.parametrize(
    ("settings", "kind", "owner"),
    [
        ({"of": "user_id"}, UserIdFeature, "user"),
        ({"of": "item_id"}, ItemIdFeature, "item"),
        ({"of": "item", "column": "genres"}, ItemColumnFeature, "item"),
        ({"of": "user", "column": "age"}, UserColumnFeature, "user"),
        ({"of": "context", "column": "position"}, ContextFeature, "impression"),
        ({"of": "time", "part": "hour"}, TimeFeature, "impression"),
        ({"of": "request"}, RequestFeature, "impression"),
    ],
)
def test_of_says_whose_a_feature_is(settings, kind, owner: str) -> None:
    feature = TypeAdapter(FeatureConfig).validate_python(settings)
    assert type(feature) is kind
    assert feature.owner == owner


def test_ids_have_a_row_each_or_share_buckets() -> None:
    ids = [strings("u2", "u1"), strings("u1")]
    assert UserIdFeature().count(ids) == Values(values=["u1", "u2"])
    assert UserIdFeature(buckets=5).count(ids) == Buckets(size=5)


def test_only_ids_are_dropped_in_training() -> None:
    assert UserIdFeature().unknown == ItemIdFeature().unknown == 0.05
    assert ItemColumnFeature(column="x").unknown == TimeFeature(part="hour").unknown == 0


def test_a_column_is_counted_as_it_is_configured() -> None:
    column = [strings("b, a", "a", None, " ")]
    assert UserColumnFeature(column="x").count(column) == Values(values=["a", "b, a"])
    assert UserColumnFeature(column="x", several=",").count(column) == Values(values=["a", "b"])
    assert UserColumnFeature(column="x", bands=[1, 2]).count(column) == Bands(ends=[1, 2])
    assert UserColumnFeature(column="x", buckets=4).count(column) == Buckets(size=4)


def test_several_values_are_split_and_stripped_and_empty_ones_left_out() -> None:
    split = ItemColumnFeature(column="x", several="|").split(strings("a | b||c ", "", None, "|", "d"))
    assert split.to_pylist() == [["a", "b", "c"], [], [], [], ["d"]]
    assert ItemColumnFeature(column="x").split(strings(" a|b ", None)).to_pylist() == [["a|b"], []]


@pytest.mark.parametrize(("part", "size"), [("hour", 24), ("weekday", 7)])
def test_the_rows_of_times_are_those_of_the_calendar(part: str, size: int) -> None:
    """In UTC; row 0 stays for the unknown. The first day of 1970 was a Thursday, which has row 1."""
    feature = TimeFeature(part=part)
    assert feature.count([]).size == size
    moments = [dt.datetime(1970, 1, 1) + dt.timedelta(hours=h) for h in (-1, 0, 23, 24, 170, 500_000)]
    seconds = np.array([int(m.replace(tzinfo=dt.UTC).timestamp()) for m in moments])
    expected = [1 + m.hour if part == "hour" else 1 + (m.weekday() - 3) % 7 for m in moments]
    assert feature.rows(seconds).tolist() == expected


def test_two_bands_of_request_sizes_make_a_doubling() -> None:
    feature = RequestFeature()
    sizes = np.array([1, 2, 3, 4, 5, 6, 8, 2000, 2048, 2896, 2897, 10_000_000])
    assert feature.rows(sizes).tolist() == [1, 3, 4, 5, 5, 6, 7, 22, 23, 23, 24, 24]
    assert feature.count([]).size == 24


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": "user", "column": "age", "bands": [3, 2]}, r"features\.x.*bands must be strictly ascending"),
        ({"of": "user", "column": "age", "bands": [2, 2]}, r"features\.x.*bands must be strictly ascending"),
        ({"of": "user", "column": "age", "bands": [2], "buckets": 3}, r"features\.x.*both set"),
        ({"of": "user_id", "unknown": 1.0}, r"`features\.x\.unknown`"),
        ({"of": "user"}, r"`features\.x\.column`"),
        ({"of": "users"}, r"`features\.x\.of`: 'users' is not one of 'user_id'"),
        ({"part": "hour"}, r"`features\.x`: set `features\.x\.of`"),
        ({"of": "user", "column": "age", "whidth": 3}, r"`features\.x\.whidth`: did you mean `features\.x\.width`"),
        ({"of": "time", "part": "minute"}, r"`features\.x\.part`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(Features, {"features": {"x": settings}})


def test_a_feature_may_have_the_name_of_a_kind() -> None:
    with pytest.raises(ConfigError, match=r"`features\.user\.unknown`"):
        validate(Features, {"features": {"user": {"of": "user_id", "unknown": 2}}})
