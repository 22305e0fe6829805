from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transrec.config import ConfigError, validate
from transrec.data.interactions import DataConfig, Interactions

HISTORIES = {"long": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "plain": [2, 3, 2, 4, 11], "short": [1, 12, 13]}


@pytest.fixture(scope="module")
def given_shards(build_shards) -> Path:
    """15 items; 12 and 13 only in a history too short to count, 14 and 15 in none."""
    return build_shards(HISTORIES, n_items=15, block_users=2)


def by_user(interactions: Interactions) -> dict[str, tuple[list[int], int]]:
    """User -> (history as kept, training length)."""
    return {
        user_id: (block.history(user).tolist(), int(interactions.train_stops[number][user]))
        for number in range(len(interactions.shards))
        for block in [interactions.block(number)]
        for user, user_id in enumerate(block.user_ids.to_pylist())
    }


def test_popularity_counts_training_interactions_only(scan: Callable[..., Interactions], given_shards: Path) -> None:
    """Training: items 1 to 8 of `long`, 2 3 2 of `plain`, nothing of `short`."""
    popularity = scan(path=given_shards).popularity
    assert popularity.tolist() == [0, 1, 3, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_occurring_candidates_are_all_items_of_users_who_take_part(
    scan: Callable[..., Interactions], given_shards: Path
) -> None:
    assert scan(path=given_shards).candidates.tolist() == list(range(1, 12))


def test_catalogue_candidates_are_all_items(scan: Callable[..., Interactions], given_shards: Path) -> None:
    assert scan(path=given_shards, candidates="catalogue").candidates.tolist() == list(range(1, 16))


def test_last_windows_keep_three_more_interactions_than_the_encoder_reads(
    scan: Callable[..., Interactions], given_shards: Path
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


@pytest.mark.xfail(strict=True, reason="min_interactions is compared with the length after windows='last' has cut it")
def test_last_windows_shorter_than_the_minimum_are_refused(
    scan: Callable[..., Interactions], given_shards: Path
) -> None:
    """Every user would be too short."""
    with pytest.raises(ConfigError, match="min_interactions"):
        scan(max_length=4, path=given_shards, windows="last", min_interactions=8)


def test_all_windows_keep_the_whole_history(scan: Callable[..., Interactions], given_shards: Path) -> None:
    assert by_user(scan(max_length=2, path=given_shards))["long"] == (HISTORIES["long"], 8)


@pytest.mark.parametrize("windows", ["all", "last"])
def test_temporal_training_lies_before_the_validation_period(scan: Callable[..., Interactions], windows: str) -> None:
    interactions = scan(split={"name": "temporal", "valid_from": 0.6, "test_from": 0.8}, windows=windows)
    assert interactions.moments is not None
    valid_from, test_from = interactions.moments
    assert valid_from < test_from
    seen = 0
    for number, stops in enumerate(interactions.train_stops):
        block = interactions.block(number)
        for user, stop in enumerate(stops):
            times = block.timestamps[block.offsets[user] : block.offsets[user + 1]]
            assert np.all(times[:stop] < valid_from)
            assert np.all(times[stop:] >= valid_from) or stop == 0
            seen += stop
    assert seen > 0


def test_temporal_moments_are_quantiles_of_the_whole_histories(
    scan: Callable[..., Interactions], given_shards: Path
) -> None:
    """Sorted: 0 ×3, 10 ×3, 20 ×3, 30 ×2, 40 ×2, 50, …, 90; the 0.5 quantile of 18 is that at place 8, 0.8 at 13."""
    split = {"name": "temporal", "valid_from": 0.5, "test_from": 0.8}
    for windows in ("all", "last"):
        assert scan(max_length=2, path=given_shards, split=split, windows=windows).moments == (20, 50)


def test_a_fraction_counts_its_users_only(scan: Callable[..., Interactions]) -> None:
    some, everyone = scan(fraction=0.3), scan()
    assert sum(map(len, some.train_stops)) == 60
    assert 0 < some.popularity.sum() < everyone.popularity.sum()
    assert set(some.candidates) <= set(everyone.candidates)


@pytest.mark.parametrize(("stride", "expected"), [(None, 5), (2, 2), (9, 5)])
def test_stride_is_the_length_unless_a_smaller_one_is_given(
    scan: Callable[..., Interactions], stride: int | None, expected: int
) -> None:
    assert scan(max_length=5, stride=stride).stride == expected


@pytest.mark.parametrize("value", [{"fraction": 0.0}, {"fraction": 1.5}, {"stride": 0}, {"workers": -1}])
def test_values_out_of_range_are_refused(value: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(value))):
        validate(DataConfig, {"path": "x", **value})
