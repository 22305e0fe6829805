import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from transrec.data.shards.schema import BLOCKS_FILE, SCHEMA_VERSION, ShardSetError, user_order_key
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import UserShards

HISTORIES = {f"u{n}": [1 + (n + i) % 9 for i in range(3 + n % 4)] for n in range(10)}


@pytest.fixture(scope="module")
def shards(build_shards) -> Path:
    """Ten users, four to a block, two blocks to a shard or less."""
    return build_shards(HISTORIES, n_items=9, block_users=4, shard_bytes=4096)


def read_all(shards: UserShards) -> dict[str, list[int]]:
    return {
        user_id: block.history(user).tolist()
        for block in (shards.block(n) for n in range(len(shards)))
        for user, user_id in enumerate(block.user_ids.to_pylist())
    }


def test_every_history_as_it_was_given(shards: Path) -> None:
    found = UserShards(ShardFolder(shards))
    assert read_all(found) == HISTORIES
    assert len(set(found.block_shard)) > 1, "the test needs several shards"
    assert found.block(0).timestamps[:3].tolist() == [0, 10, 20]
    assert np.isnan(found.block(0).ratings).all(), "the source has no ratings"
    assert [len(found.block(n)) for n in range(3)] == [4, 4, 2]


def test_ratings_lie_beside_their_items(synthetic_shards: Path) -> None:
    block = UserShards(ShardFolder(synthetic_shards)).block(0)
    assert block.ratings.dtype == np.float32
    assert len(block.ratings) == len(block.items)
    assert set(block.ratings.tolist()) <= {1, 2, 3, 4, 5}


def test_users_lie_in_hash_order(shards: Path) -> None:
    assert list(read_all(UserShards(ShardFolder(shards)))) == sorted(HISTORIES, key=user_order_key)


def test_pickled_shards_read_the_same(shards: Path) -> None:
    original = UserShards(ShardFolder(shards))
    original.block(0)
    assert read_all(pickle.loads(pickle.dumps(original))) == read_all(original)


@pytest.mark.parametrize("damage", ["truncated", "missing", "garbage"])
def test_an_unreadable_shard_is_named(shards: Path, tmp_path: Path, damage: str) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    broken = sorted(copy.glob("users-*.tar"))[0]
    if damage == "truncated":
        with broken.open("r+b") as file:
            file.truncate(700)
    elif damage == "missing":
        broken.unlink()
    else:
        broken.write_bytes(b"\xff" * broken.stat().st_size)
    with pytest.raises(ShardSetError, match=r"users-000000\.tar: block 0 cannot be read.*data_tools verify"):
        UserShards(ShardFolder(copy)).block(0)


@pytest.mark.parametrize("name", ["index.json", pytest.param(BLOCKS_FILE)])
def test_an_incomplete_folder_is_a_readable_error(shards: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    (copy / name).unlink()
    with pytest.raises(ShardSetError, match=name):
        UserShards(ShardFolder(copy))


def test_the_hash_of_the_index_is_the_identity_of_the_set(shards: Path, synthetic_shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    assert ShardFolder(copy).index_sha256 == ShardFolder(shards).index_sha256
    assert ShardFolder(synthetic_shards).index_sha256 != ShardFolder(shards).index_sha256


def test_another_schema_version_is_refused(shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    index = copy / "index.json"
    index.write_text(index.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    with pytest.raises(ShardSetError, match=r"schema version 99.*rebuild"):
        UserShards(ShardFolder(copy))
