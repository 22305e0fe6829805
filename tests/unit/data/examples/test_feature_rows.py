from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pytest
import torch
from asked import users_asked
from rated_world import MAX_LENGTH, N_ITEMS, profiles, ratings
from user_blocks import user_block

from transrec.config import ConfigError
from transrec.data.examples.exposures import RatedConfig, SampledConfig, ShownConfig
from transrec.data.examples.feature_rows import FeatureRows, dropped_at
from transrec.data.examples.impression_collation import Impression, columns_of, over_pool
from transrec.data.examples.impressions import ImpressionExamples
from transrec.data.shards.user_shards import Shown
from transrec.features.feature import (
    ContextFeature,
    Feature,
    ItemColumnFeature,
    ItemIdFeature,
    RequestFeature,
    TimeFeature,
    UserColumnFeature,
    UserIdFeature,
)
from transrec.features.vocabulary import Values

Scan = Callable[..., ImpressionExamples]
TEMPORAL = {"name": "temporal", "valid_from": 0.05, "test_from": 0.8}


def vocabulary(examples: ImpressionExamples, name: str) -> list[str]:
    known = examples.features.vocabularies[name]
    assert isinstance(known, Values)
    return known.values


def trained(examples: ImpressionExamples) -> tuple[set[str], set[int]]:
    """The users and items of the training impressions."""
    shown = [
        (users.user_ids[int(user)].as_py(), int(item))
        for users, impressions in examples.training()
        for user, item in zip(impressions.users, impressions.items, strict=True)
    ]
    return {user for user, _ in shown}, {item for _, item in shown}


# Vocabularies


@pytest.mark.parametrize("data", [{"split": TEMPORAL}, {"fraction": 0.4}, {"min_interactions": 12}])
def test_vocabularies_hold_what_training_saw_and_no_more(scan_impressions: Scan, data) -> None:
    features = {
        "user": UserIdFeature(),
        "item": ItemIdFeature(),
        "words": ItemColumnFeature(column="title", several=" "),
        "age": UserColumnFeature(column="age"),
    }
    examples = scan_impressions(features=features, **data)
    users, items = trained(examples)
    assert 0 < len(users) < 40
    assert vocabulary(examples, "user") == sorted(users)
    assert vocabulary(examples, "item") == sorted(f"item-{item}" for item in items)
    assert vocabulary(examples, "words") == sorted({"Title", *map(str, items)})
    assert vocabulary(examples, "age") == sorted({profiles()[user]["age"] for user in users})


def test_what_occurs_only_in_the_test_has_row_0(build_shards, scan_impressions: Scan) -> None:
    """User `late` and item 4 occur from the test on; item 5 never."""
    histories = {"early": [(1, 10, 5), (2, 20, 1), (3, 40, 5), (4, 50, 5)], "late": [(1, 50, 5), (4, 60, 1)]}
    path = build_shards(histories, 5, profiles={"early": {"town": "A"}, "late": {"town": "B"}})
    features = {"user": UserIdFeature(), "item": ItemIdFeature(), "town": UserColumnFeature(column="town")}
    split = {"name": "temporal", "valid_from": 0.4, "test_from": 0.6}
    examples = scan_impressions(path=path, features=features, split=split)
    assert examples._moments == (40, 50)
    assert vocabulary(examples, "user") == ["early"]
    assert vocabulary(examples, "item") == ["item-1", "item-2"]
    [asked] = examples.questions("test")
    rows = dict(zip(asked.shown.items.tolist(), asked.shown.item_features["item"][:, 0].tolist(), strict=True))
    assert rows == {1: 1, 3: 0, 4: 0}
    by_user = dict(zip(users_asked(examples, "test"), asked.shown.features["user"][:, 0].tolist(), strict=True))
    assert by_user == {"early": 1, "late": 0}
    by_town = dict(zip(users_asked(examples, "test"), asked.shown.features["town"][:, 0].tolist(), strict=True))
    assert by_town == {"early": 1, "late": 0}


def test_items_have_the_rows_of_their_several_values(scan_impressions: Scan) -> None:
    """Item 0 is padding; item 30 occurs in no impression, so its number is unknown and `Title` is not."""
    examples = scan_impressions(features={"words": ItemColumnFeature(column="title", several=" ")})
    rows, known = examples.features.items["words"], ["", *vocabulary(examples, "words")]
    assert rows.shape == (N_ITEMS + 1, 2)
    assert not rows[0].any()
    for item in range(1, N_ITEMS):
        assert [known[row] for row in rows[item]] == ["Title", str(item)]
    assert [known[row] for row in rows[30]] == ["Title", ""]


# Rows of a block


def shown_block():
    """Two users, four impressions, with two columns of context."""
    shown = Shown(
        offsets=np.array([0, 3, 4]),
        items=np.array([1, 2, 3, 1], np.int32),
        timestamps=np.array([0, 3600, 7199, 86_400]),
        requests=np.zeros(4, np.int32),
        labels={"click": np.ones(4, np.float32)},
        context={"position": pa.array(["1", "12", None, "x"]), "tags": pa.array(["b, a", "", None, "a,c,b"])},
    )
    return user_block({"u1": [(1, 1)], "u2": []}, {"u1": {"age": "30"}, "u2": {}}, shown)


def test_the_rows_of_a_block_are_those_of_its_users_context_and_times() -> None:
    features: Mapping[str, Feature] = {
        "user": UserIdFeature(),
        "age": UserColumnFeature(column="age", bands=[18, 40]),
        "place": ContextFeature(column="position", bands=[1, 10]),
        "tags": ContextFeature(column="tags", several=","),
        "hour": TimeFeature(part="hour"),
        "request": RequestFeature(),
        "item": ItemIdFeature(),
    }
    block = shown_block()
    vocabularies = {
        "user": Values(values=["u2"]),
        "age": features["age"].count([]),
        "place": features["place"].count([]),
        "tags": Values(values=["a", "b"]),
        "hour": features["hour"].count([]),
        "request": features["request"].count([]),
    }
    found = FeatureRows(features, vocabularies, {}).of_block(block, ShownConfig().read(block, ["click"], 3))
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "user": [[0], [0], [0], [1]],
        "age": [[2], [2], [2], [0]],
        "place": [[1], [3], [0], [0]],
        "tags": [[2, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 2]],
        "hour": [[1], [2], [2], [1]],
        "request": [[4], [4], [4], [1]],  # u1 was shown three items, u2 one
    }


def test_a_block_without_impressions_has_no_rows_whatever_its_columns() -> None:
    """So has an unreadable block, which is skipped, and a block of users without ratings."""
    features = {"age": UserColumnFeature(column="age", bands=[18]), "hour": TimeFeature(part="hour")}
    rows = FeatureRows(features, {name: f.count([]) for name, f in features.items()}, {})
    for block in (user_block({}), user_block({"a": [(1, 2)]})):
        found = rows.of_block(block, RatedConfig().read(block, ["click"], 3))
        assert {name: values.shape for name, values in found.items()} == {"age": (0, 1), "hour": (0, 1)}


# Columns that do not exist


@pytest.mark.parametrize("how", [{}, {"bands": [20]}, {"buckets": 9}], ids=["values", "bands", "buckets"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (UserColumnFeature, "`model.features.x.column`: the users of these shards have no column agee: choose one of "
         "age, town, or remove the feature"),
        (ItemColumnFeature, "`model.features.x.column`: the items of these shards have no column agee: choose one of "),
        (ContextFeature, "`model.features.x.column`: the impressions of these shards have no column agee: they have "
         "no columns at all, so remove the feature"),
    ],
    ids=["user", "item", "context"],
)  # fmt: skip
def test_a_column_that_does_not_exist_is_an_error_that_names_the_key(
    scan_impressions: Scan, kind, message: str, how
) -> None:
    """Bands and buckets count nothing, so the column would be unknown for all, without a word."""
    with pytest.raises(ConfigError) as error:
        scan_impressions(features={"x": kind(column="agee", **how)})
    assert message in str(error.value)


def test_shards_without_a_column_that_the_model_reads_are_refused(build_shards, scan_impressions: Scan) -> None:
    """As when a run is evaluated on other shards."""
    examples = scan_impressions(features={"age": UserColumnFeature(column="age")})
    others = scan_impressions(path=build_shards(ratings(6), N_ITEMS))
    others.features = FeatureRows.of(others.folder, examples.features.settings, examples.features.vocabularies)
    with pytest.raises(
        ConfigError, match=r"`model\.features\.age\.column`.*they have no columns at all, so remove the feature"
    ):
        list(others.questions("test"))


# Dropping


def test_a_number_is_dropped_whatever_else_is_asked_for() -> None:
    numbers = np.arange(1000)
    dropped = dropped_at(seed=1, step=2)
    whole = dropped(numbers, 0.3)
    assert dropped(numbers[::-1], 0.3)[::-1].tolist() == whole.tolist()
    assert [bool(dropped(numbers[n : n + 1], 0.3)[0]) for n in range(50)] == whole[:50].tolist()
    assert dropped_at(1, 2)(numbers, 0.3).tolist() == whole.tolist()
    for other in (dropped_at(1, 3), dropped_at(2, 2)):
        agreement = np.mean(other(numbers, 0.3) == whole)
        assert abs(agreement - 0.58) < 4 * np.sqrt(0.58 * 0.42 / 1000)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.999])
def test_the_share_that_is_dropped(share: float) -> None:
    """Over steps and over numbers, within four standard errors."""
    for found in (
        dropped_at(0, 0)(np.arange(20_000), share),
        np.array([dropped_at(0, step)(np.array([7]), share)[0] for step in range(2000)]),
    ):
        assert abs(found.mean() - share) <= 4 * np.sqrt(share * (1 - share) / len(found))


# Impressions outside of the shards


def test_impressions_outside_of_the_shards_have_the_rows_of_those_inside(scan_impressions: Scan) -> None:
    """What a service sends is read as the shards are: the same user, moment and history give the same numbers."""
    features = {
        "user": UserIdFeature(), "item": ItemIdFeature(), "age": UserColumnFeature(column="age", bands=[30]),
        "town": UserColumnFeature(column="town"), "hour": TimeFeature(part="hour"),
        "request": RequestFeature(),
    }  # fmt: skip
    examples = scan_impressions(features=features)
    asked = next(filter(None, examples.questions("test")))
    users, people = users_asked(examples, "test")[: len(asked.users)], profiles()
    sent = []
    for user, item in zip(users, asked.items.tolist(), strict=True):
        time = next(r.time for r in ratings()[user] if r.item == item)
        before = [r.item for r in ratings()[user] if r.time < time and r.rating >= 4]
        labels = np.full(1, np.nan, np.float32)
        together = sum(r.time == time for r in ratings()[user])
        sent.append(Impression(user, 0, item, time, np.array(before, np.int32), labels, {}, people[user], together))
    columns = columns_of(sent, examples.features, MAX_LENGTH)
    found = over_pool(columns, asked.shown.items.numpy(), examples.features)
    assert torch.equal(found.candidates, asked.shown.candidates)
    assert torch.equal(found.history, asked.shown.history)
    assert torch.equal(found.history_mask, asked.shown.history_mask)
    assert found.features.keys() == asked.shown.features.keys() == {"user", "age", "town", "hour", "request"}
    assert all(torch.equal(rows, asked.shown.features[name]) for name, rows in found.features.items())


def test_what_a_service_does_not_know_is_unknown_or_what_was_said_for_that() -> None:
    features = {
        "user": UserIdFeature(),
        "age": UserColumnFeature(column="age"),
        "place": ContextFeature(column="position", when_serving="1"),
        "scene": ContextFeature(column="scene"),
    }
    known = {name: Values(values=["1", "2"]) for name in features}
    nothing, unlabelled = np.zeros(0, np.int32), np.full(1, np.nan, np.float32)
    sent = [
        Impression(user, 0, 3, 0, nothing, unlabelled, context, profile)
        for user, context, profile in [
            ("?", {}, {}),
            ("2", {"position": "2", "scene": "1"}, {"age": "1"}),
            ("2", {"position": None}, {}),
        ]
    ]
    rows = FeatureRows(features, known, {})
    found = over_pool(columns_of(sent, rows, MAX_LENGTH), np.array([3]), rows)
    assert {name: rows[:, 0].tolist() for name, rows in found.features.items()} == {
        "user": [0, 2, 2], "age": [0, 1, 0], "place": [1, 2, 0], "scene": [0, 1, 0]
    }  # fmt: skip
    assert not found.history_mask.any()


def test_sampled_impressions_have_no_context(scan_impressions: Scan) -> None:
    block = user_block({"a": [(1, 1)]})
    assert dict(SampledConfig().read(block, ["click"], 9).context) == {}
