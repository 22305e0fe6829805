"""The pass over the users at the start of a run costs what the interactions cost, and the ranks share it."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_threads import on_ranks
from rated_world import MAX_LENGTH

from transrec.config import ConfigError
from transrec.data.examples.block_scan import add_items
from transrec.data.examples.histories import HistoryExamples
from transrec.data.peers import Peers
from transrec.data.shards.user_shards import UserShards

SPLITS = [{"name": "leave_one_out"}, {"name": "temporal", "valid_from": 0.6, "test_from": 0.8}]
LAST_SHARE = {"name": "last_share", "valid": 0.2, "test": 0.2}


def known(examples: Any) -> dict[str, Any]:
    """What a kind of examples found in its scan."""
    return {
        "counts": list(examples.counts),
        "popularity": examples.popularity.tolist(),
        "ranked": examples.ranked.tolist(),
        "size": examples.training_size(),
    }


@pytest.mark.parametrize("ranks", [2, 3, 20])
@pytest.mark.parametrize("split", SPLITS)
def test_every_rank_knows_what_one_would_have_found(
    scan: Callable[..., HistoryExamples], split: dict[str, Any], ranks: int
) -> None:
    """13 blocks, so that of 20 ranks some have none."""
    alone = scan(split=split, fraction=0.7)
    assert alone.popularity.sum() > 0
    together = on_ranks(ranks, lambda peers: known(alone.config.scan(5, peers)))
    assert together == [known(alone)] * ranks


@pytest.mark.parametrize("split", [LAST_SHARE, {"name": "temporal", "valid_from": 0.5, "test_from": 0.8}])
def test_impressions_are_shared_as_well(scan_impressions: Callable[..., Any], split: dict[str, Any]) -> None:
    alone = scan_impressions(split=split)
    together = on_ranks(3, lambda peers: known(alone.config.scan(MAX_LENGTH, peers)))
    assert together == [known(alone)] * 3


def test_each_block_is_read_once_by_all_ranks_together(
    scan: Callable[..., HistoryExamples], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, read, numbers = scan().config, UserShards.read, list[int]()

    def count(shards: UserShards, number: int) -> Any:
        numbers.append(number)
        return read(shards, number)

    monkeypatch.setattr(UserShards, "read", count)

    def counted(peers: Peers) -> list[int]:
        return list(config.scan(5, peers).counts)

    on_ranks(4, counted)
    assert sorted(numbers) == list(range(13))


def test_no_rank_starts_with_data_that_leave_nothing_to_validate_on(
    scan: Callable[..., HistoryExamples], build_shards: Callable[..., Path]
) -> None:
    path = build_shards({user: [(item, 40) for item in range(1, 6)] for user in "abc"}, n_items=5, block_users=1)
    config = scan(path=path).config
    temporal = config.model_validate(config.model_dump(mode="json") | {"path": path, "split": {"name": "temporal"}})

    def refused(peers: Peers) -> str:
        with pytest.raises(ConfigError, match="to validate on") as caught:
            temporal.scan(5, peers)
        return str(caught.value)

    assert len(set(on_ranks(2, refused))) == 1


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_items_are_counted_without_touching_the_rest_of_the_catalogue(kind: type[np.signedinteger[Any]]) -> None:
    """Counted in pages of memory: a fresh array has none until they are written or read."""
    counts = np.zeros(50_000_000, np.int64)
    items = np.array([3, 7, 7, 49_999_999], kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    add_items(counts, items)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100
    assert [counts[3], counts[7], counts[8], counts[-1]] == [1, 2, 0, 1]
