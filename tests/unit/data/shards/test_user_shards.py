import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from shard_sets import make_version_3, replace_block

from data_tools.build import build
from data_tools.sources.tables import TablesSource
from transrec.data.shards.bad_samples import BadSample
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


IMPRESSIONS = """user_id	item_id	timestamp	request_id	label_click	label_like	position	scene
a	2	30	x	1		1	home
b	1	10		0	1		
a	3	20	y	0	0	4	
a	1	30	x	0		2	home
"""


@pytest.fixture
def shown_shards(tmp_path: Path) -> Path:
    """Users a and c have interactions, a and b were shown something."""
    (tmp_path / "raw").mkdir()
    for name, table in {
        "items": "item_id\ttitle\n1\tOne\n2\tTwo\n3\tThree\n",
        "interactions": "user_id\titem_id\ttimestamp\na\t1\t5\na\t2\t6\nc\t3\t7\n",
        "users": "user_id\tage\na\t31\nb\t47\n",
        "impressions": IMPRESSIONS,
    }.items():
        (tmp_path / "raw" / f"{name}.tsv").write_text(table)
    build(TablesSource(tmp_path / "raw"), "tables", tmp_path / "shown")
    return tmp_path / "shown"


def test_what_was_shown_lies_beside_the_histories(shown_shards: Path) -> None:
    block = UserShards(ShardFolder(shown_shards)).block(0)
    assert block.shown is not None
    found = {}
    for user, user_id in enumerate(block.user_ids.to_pylist()):
        rows = slice(block.shown.offsets[user], block.shown.offsets[user + 1])
        lists = (block.shown.items, block.shown.timestamps, block.shown.requests)
        labels = [np.nan_to_num(column[rows], nan=-1).tolist() for column in block.shown.labels.values()]
        context = [column[rows].to_pylist() for column in block.shown.context.values()]
        found[user_id] = [block.history(user).tolist(), *[column[rows].tolist() for column in lists], *labels, *context]
    assert list(block.shown.labels) == ["click", "like"]
    assert list(block.shown.context) == ["position", "scene"]
    assert found == {
        "a": [
            [1, 2], [3, 2, 1], [20, 30, 30], [0, 1, 1], [0, 1, 0], [0, -1, -1], ["4", "1", "2"], [None, "home", "home"]
        ],
        "b": [[], [1], [10], [0], [0], [1], [None], [None]],
        "c": [[3], [], [], [], [], [], [], []],
    }  # fmt: skip
    assert dict(zip(block.user_ids.to_pylist(), block.profiles["age"].to_pylist(), strict=True)) == {
        "a": "31", "b": "47", "c": None
    }  # fmt: skip
    types = [block.shown.offsets, block.shown.items, block.shown.timestamps, block.shown.requests]
    assert [column.dtype for column in types] == [np.int64, np.int32, np.int64, np.int32]
    assert all(column.dtype == np.float32 for column in block.shown.labels.values())
    assert all(isinstance(column, pa.StringArray) for column in block.shown.context.values())
    assert block.shown.lengths.sum() == 4


def test_a_skipped_block_shows_nobody_anything(shown_shards: Path) -> None:
    shards = UserShards(ShardFolder(shown_shards))
    shards.skip({0: shards.bad(0, "for a test")})
    block = shards.block(0)
    assert block.shown is not None
    assert (len(block), len(block.shown.items), block.shown.offsets.tolist()) == (0, 0, [0])
    assert list(block.shown.labels) == ["click", "like"]


def test_impressions_that_cannot_be_are_a_bad_sample(shown_shards: Path) -> None:
    def unsure(block: pa.RecordBatch) -> pa.RecordBatch:
        place = block.schema.get_field_index("label_click")
        lists = [[0.5] * len(labels) for labels in block["label_click"].to_pylist()]
        return block.set_column(place, block.schema.field(place), pa.array(lists, block.schema.field(place).type))

    replace_block(shown_shards, unsure)
    with pytest.raises(BadSample, match="values of label_click other than 0, 1 and null"):
        UserShards(ShardFolder(shown_shards)).block(0)


def test_a_set_of_version_3_reads_as_one_without_impressions(shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    make_version_3(copy)
    found = UserShards(ShardFolder(copy))
    assert read_all(found) == HISTORIES
    assert found.block(0).shown is None
    assert UserShards(ShardFolder(shards)).block(0).shown is None
