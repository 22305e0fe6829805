from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import users_asked

from data_tools.build import build
from data_tools.sources.tables import TablesSource
from transrec.config import ConfigError, validate
from transrec.data.examples import DataConfig
from transrec.data.examples.histories import HistoryExamples

HISTORIES = {"long": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "plain": [2, 3, 2, 4, 11], "short": [1, 12, 13]}


@pytest.fixture(scope="module")
def given_shards(build_shards) -> Path:
    """15 items; 12 and 13 only in a history too short to count, 14 and 15 in none."""
    return build_shards(HISTORIES, n_items=15, block_users=2)


def by_user(interactions: HistoryExamples) -> dict[str, tuple[list[int], int]]:
    """User -> (history as kept, training length)."""
    return {
        user_id: (block.history(user).tolist(), int(interactions.train_stops(number)[user]))
        for number in range(len(interactions.shards))
        for block in [interactions.block(number)]
        for user, user_id in enumerate(block.user_ids.to_pylist())
    }


def test_popularity_counts_training_interactions_only(scan: Callable[..., HistoryExamples], given_shards: Path) -> None:
    """Training: items 1 to 8 of `long`, 2 3 2 of `plain`, nothing of `short`."""
    popularity = scan(path=given_shards).popularity
    assert popularity.tolist() == [0, 1, 3, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_training_size_counts_what_training_sees(scan: Callable[..., HistoryExamples], given_shards: Path) -> None:
    """Eight of `long`'s ten interactions train, three of `plain`'s five; `short` is too short."""
    assert scan(path=given_shards, max_length=4).training_size() == {"users": 2, "interactions": 11, "windows": 3}
    assert scan(path=given_shards, max_length=4, stride=2).training_size()["windows"] == 5
    assert scan(path=given_shards, max_length=4, fraction=0.3).training_size()["users"] == 1


def test_occurring_candidates_are_all_items_of_users_who_take_part(
    scan: Callable[..., HistoryExamples], given_shards: Path
) -> None:
    assert scan(path=given_shards).candidates.tolist() == list(range(1, 12))


def test_catalogue_candidates_are_all_items(scan: Callable[..., HistoryExamples], given_shards: Path) -> None:
    assert scan(path=given_shards, candidates="catalogue").candidates.tolist() == list(range(1, 16))


def test_last_windows_keep_three_more_interactions_than_the_encoder_reads(
    scan: Callable[..., HistoryExamples], given_shards: Path
) -> None:
    """As the released code: L inputs and a target to train on, then one to validate, one to test."""
    interactions = scan(max_length=4, path=given_shards, windows="last")
    assert by_user(interactions) == {
        "long": ([4, 5, 6, 7, 8, 9, 10], 5),
        "plain": ([2, 3, 2, 4, 11], 3),
        "short": ([1, 12, 13], 0),
    }
    assert interactions.popularity.tolist()[:5] == [0, 0, 2, 1, 1]
    assert interactions.candidates.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_targets_at_the_time_of_the_item_before_are_remarked(
    scan: Callable[..., HistoryExamples], build_shards
) -> None:
    """`tied` has its last two items at one time, `two` its first two, which are no target."""
    histories = {
        "tied": [(1, 10), (2, 20), (3, 30), (4, 40), (5, 40)],
        "two": [(1, 10), (2, 10), (3, 30), (4, 40), (5, 50)],
    }
    interactions = scan(path=build_shards(histories, n_items=5), min_interactions=3)
    assert interactions.remarks("test") == [
        "1 of 2 targets of this test (50%) have the same time as the item before, so the two are in the order "
        "of the rows."
    ]
    assert not interactions.remarks("valid")


def test_users_with_too_few_interactions_are_remarked(
    scan: Callable[..., HistoryExamples], build_shards: Callable[..., Path]
) -> None:
    path = build_shards({"long": [1, 2, 3, 4, 5], "four": [1, 2, 3, 4], "three": [1, 2, 3]}, n_items=5)
    assert scan(path=path, min_interactions=4).remarks("test") == [
        "1 of 3 users have fewer than 4 interactions (data.min_interactions) and are no part of this test."
    ]
    assert scan(path=path, min_interactions=3).remarks("test") == []


def test_targets_that_are_in_the_history_are_remarked(scan: Callable[..., HistoryExamples], build_shards) -> None:
    """`again` buys its last item once more, and `twice` another item, which is no target."""
    histories = {"again": [1, 2, 3, 4, 1], "twice": [2, 2, 3, 4, 5]}
    interactions = scan(path=build_shards(histories, n_items=5), min_interactions=3)
    assert interactions.remarks("test") == [
        "1 of 2 targets of this test (50%) are already in the user's history: evaluation.repeats=count ranks them, "
        "miss counts them as misses; recommend and serve recommend them only with `repeats`."
    ]
    assert not interactions.remarks("valid")


def test_a_few_targets_in_the_history_are_no_cause_for_remarks(
    scan: Callable[..., HistoryExamples], build_shards
) -> None:
    histories = {"again": [1, 2, 3, 4, 1]} | {f"plain-{i}": [1, 2, 3, 4, 5] for i in range(99)}
    assert len(scan(path=build_shards(histories, n_items=5), min_interactions=3).remarks("test")) == 1
    histories["plain"] = [1, 2, 3, 4, 5]
    assert not scan(path=build_shards(histories, n_items=5), min_interactions=3).remarks("test")


def test_last_windows_shorter_than_the_minimum_are_refused(
    scan: Callable[..., HistoryExamples], given_shards: Path
) -> None:
    """Every user would be too short."""
    with pytest.raises(ConfigError, match=r"anything to train on: check data\.min_interactions"):
        scan(max_length=4, path=given_shards, windows="last", min_interactions=8).check_training()


def test_histories_too_short_to_train_on_can_be_evaluated(
    scan: Callable[..., HistoryExamples], build_shards: Callable[..., Path]
) -> None:
    """Of three items, two are held out, and one has none before it to be predicted from."""
    path = build_shards({f"u{n}": [1 + n % 4, 1 + (n + 1) % 4, 1 + (n + 2) % 4] for n in range(8)}, n_items=4)
    examples = scan(path=path, min_interactions=3)
    assert len(users_asked(examples, "test")) == 8
    with pytest.raises(ConfigError, match="anything to train on"):
        examples.check_training()


def test_all_windows_keep_the_whole_history(scan: Callable[..., HistoryExamples], given_shards: Path) -> None:
    assert by_user(scan(max_length=2, path=given_shards))["long"] == (HISTORIES["long"], 8)


@pytest.mark.parametrize("windows", ["all", "last"])
def test_temporal_training_lies_before_the_validation_period(
    scan: Callable[..., HistoryExamples], windows: str
) -> None:
    interactions = scan(split={"name": "temporal", "valid_from": 0.6, "test_from": 0.8}, windows=windows)
    assert interactions._moments is not None
    valid_from, test_from = interactions._moments
    assert valid_from < test_from
    seen = 0
    for number, stops in enumerate(map(interactions.train_stops, range(len(interactions.shards)))):
        block = interactions.block(number)
        for user, stop in enumerate(stops):
            times = block.timestamps[block.offsets[user] : block.offsets[user + 1]]
            assert np.all(times[:stop] < valid_from)
            assert np.all(times[stop:] >= valid_from) or stop == 0
            seen += stop
    assert seen > 0


def test_temporal_moments_are_quantiles_of_the_whole_histories(
    scan: Callable[..., HistoryExamples], given_shards: Path
) -> None:
    """Sorted: 0 ×3, 10 ×3, 20 ×3, 30 ×2, 40 ×2, 50, …, 90; the 0.5 quantile of 18 is that at place 8, 0.8 at 13."""
    split = {"name": "temporal", "valid_from": 0.5, "test_from": 0.8}
    for windows in ("all", "last"):
        interactions = scan(max_length=2, path=given_shards, split=split, windows=windows, min_interactions=1)
        assert interactions._moments == (20, 50)


def same_times(build_shards, times: list[int]) -> Path:
    """Three users with the same five items at these times."""
    histories = {user: list(zip(range(1, 6), times, strict=True)) for user in ("a", "b", "c")}
    return build_shards(histories, n_items=5)


def test_a_temporal_split_between_equal_times_is_refused(scan: Callable[..., HistoryExamples], build_shards) -> None:
    with pytest.raises(ConfigError, match=r"nothing in .* to validate on: .* have the same time, 40 s; choose"):
        scan(path=same_times(build_shards, [10, 20, 40, 40, 40]), split={"name": "temporal"}, min_interactions=1)


def test_a_temporal_split_with_nothing_before_it_names_the_moment(
    scan: Callable[..., HistoryExamples], build_shards
) -> None:
    shards = same_times(build_shards, [10, 10, 10, 10, 40])
    split = {"name": "temporal", "valid_from": 0.5, "test_from": 0.9}
    with pytest.raises(ConfigError, match=r"anything to train on before 10 s \(data\.split\.valid_from\): check"):
        scan(path=shards, split=split, min_interactions=1).check_training()


def trained_on(interactions: HistoryExamples) -> list[str]:
    return [user for user, (_, stop) in by_user(interactions).items() if stop > 0]


@pytest.mark.parametrize("users", [1, 15, 16, 17, 60, 199, 200])
def test_a_fraction_trains_on_the_first_users_cut_inside_a_block_too(
    scan: Callable[..., HistoryExamples], users: int
) -> None:
    """All 200 synthetic users are long enough, 16 to a block."""
    everyone, some = by_user(scan()), scan(fraction=users / 200)
    assert trained_on(some) == list(everyone)[:users]
    assert all(by_user(some)[user] == everyone[user] for user in trained_on(some))


def test_a_fraction_is_a_uniform_sample(scan: Callable[..., HistoryExamples]) -> None:
    """The mean number in the ids of the users trained on is that of all, within three standard errors."""
    numbers = np.array([int(user.removeprefix("user-")) for user in trained_on(scan(fraction=0.4))])
    assert len(numbers) == 80
    assert abs(numbers.mean() - 99.5) < 3 * 57.7 / np.sqrt(80)


def test_a_fraction_leaves_evaluation_as_it_is(scan: Callable[..., HistoryExamples]) -> None:
    some, everyone = scan(fraction=0.1), scan()
    assert some.candidates.tolist() == everyone.candidates.tolist()
    for number in range(len(everyone.shards)):
        one, other = (i.split(i.block(number)) for i in (some, everyone))
        assert one.test.tolist() == other.test.tolist()
        assert one.valid.tolist() == other.valid.tolist()


def test_a_fraction_counts_the_popularity_of_its_users_only(scan: Callable[..., HistoryExamples]) -> None:
    some = scan(fraction=0.3)
    training = [item for history, stop in by_user(some).values() for item in history[:stop]]
    assert some.popularity.tolist() == np.bincount(training, minlength=61).tolist()


@pytest.mark.parametrize(
    "values",
    [
        {"split": {"name": "temporal", "valid_from": 0.02, "test_from": 0.5}},
        {"fraction": 0.1},
        {"candidates": "catalogue", "fraction": 0.1},
    ],
    ids=["temporal", "leave one out", "catalogue"],
)
def test_items_without_a_training_interaction_are_no_negatives(
    scan: Callable[..., HistoryExamples], values: dict[str, Any]
) -> None:
    """They can be no targets, so a model would learn to rank new items last."""
    interactions = scan(**values)
    assert interactions.sampled.tolist() == np.flatnonzero(interactions.popularity).tolist()
    assert len(interactions.sampled) < len(interactions.candidates)


@pytest.mark.parametrize(("stride", "expected"), [(None, 5), (2, 2), (9, 5)])
def test_stride_is_the_length_unless_a_smaller_one_is_given(
    scan: Callable[..., HistoryExamples], stride: int | None, expected: int
) -> None:
    assert scan(max_length=5, stride=stride).stride == expected


@pytest.mark.parametrize("value", [{"fraction": 0.0}, {"fraction": 1.5}, {"stride": 0}, {"workers": -1}])
def test_values_out_of_range_are_refused(value: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(value))):
        validate(DataConfig, {"path": "x", **value})


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
def test_users_who_only_were_shown_something_are_nobody_to_next_item(
    scan: Callable[..., HistoryExamples], tmp_path: Path, split: str
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "items.tsv").write_text("item_id\ttitle\n" + "".join(f"{n}\tTitle {n}\n" for n in range(9)))
    rows = "".join(f"u{user}\t{(user + time) % 9}\t{time}\n" for user in range(20) for time in range(5 + user % 3))
    (raw / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + rows)
    build(TablesSource(raw), "tables", tmp_path / "without")
    shown = "".join(f"u{user}\t{user % 9}\t{user}\t{user % 2}\n" for user in range(0, 60, 2))
    (raw / "impressions.tsv").write_text("user_id\titem_id\ttimestamp\tclick\n" + shown)
    build(TablesSource(raw), "tables", tmp_path / "with")
    without, with_shown = (scan(path=tmp_path / name, split={"name": split}) for name in ("without", "with"))
    assert len(with_shown.block(0)) == 40
    assert with_shown.training_size() == without.training_size()
    assert with_shown.popularity.tolist() == without.popularity.tolist()
    assert users_asked(with_shown, "test") == users_asked(without, "test") != []
